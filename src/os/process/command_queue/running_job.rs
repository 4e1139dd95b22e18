//! A command that runs: its process, its output and its deadline, and how it ends.

use std::process::Child;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Job;
use super::captured_output::CapturedOutput;
use crate::os::process::descendants::Descendants;
use crate::os::process::privileges::Identity;
use crate::os::process::spawn::{self, RunError};
use spa_knock_core::knock::Steady;

/// Between the friendly signal and the last one.
const GRACE: Duration = Duration::from_secs(1);

/// A command that runs.
pub(super) struct RunningJob<T> {
    pub(super) child: Child,
    pub(super) owner: String,
    pub(super) slot: JobSlot,
    pub(super) said: CapturedOutput,
    started: Steady,
    timeout: Duration,
    /// When the last signal is due, once the friendly one is out.
    last: Option<Steady>,
    /// What descended from it when that was sent.
    descendants: Descendants,
    pub(super) label: T,
}

/// Whether a command uses a slot of commands or of undo tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobSlot {
    Command,
    Undo,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// With exit status 0.
    Success,
    /// With another one, or by a signal, or it could not be started when its turn came.
    Failure(String),
    /// It was ended at its deadline.
    TimedOut,
}

impl<T> RunningJob<T> {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started; whose it was, too.
    pub(super) fn start(
        job: Job<T>,
        slot: JobSlot,
        identity: Option<Identity>,
        now: Steady,
    ) -> Result<Self, (RunError, T)> {
        let Job { argv, timeout, owner, label } = job;
        let started = CapturedOutput::pipe()
            .map_err(|error| RunError::Io(argv.first().cloned().unwrap_or_default(), error.to_string()))
            .and_then(|(said, writer)| spawn::start(&argv, writer, identity).map(|child| (child, said)));
        match started {
            Ok((child, said)) => {
                let (started, last, descendants) = (now, None, Descendants::default());
                Ok(Self { child, owner, slot, said, started, timeout, last, descendants, label })
            }
            Err(error) => Err((error, label)),
        }
    }

    /// When it is signaled next, if it has not ended by then.
    pub(super) fn deadline(&self) -> Steady {
        self.last.unwrap_or_else(|| self.started.plus(self.timeout))
    }

    /// Signals it and all that descends from it.
    pub(super) fn signal(&mut self, signal: Signal) {
        self.descendants.stop_and_find(self.child.id());
        spawn::signal_group(&self.child, signal);
        self.descendants.signal_outside(self.child.id(), signal);
    }

    /// How it ended, if it has; signals it when its deadline is over.
    pub(super) fn reap(&mut self, now: Steady) -> Option<Exit> {
        let status = match self.child.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) => {
                if now >= self.deadline() {
                    let signal = if self.last.is_some() { Signal::SIGKILL } else { Signal::SIGTERM };
                    self.signal(signal);
                    self.last = Some(now.plus(GRACE));
                }
                return None;
            }
            Err(error) => return Some(Exit::Failure(crate::os::files::io_error_text(&error))),
        };
        self.said.take();
        Some(match self.last {
            Some(_) => {
                // What it started may live on, in its group or another.
                self.signal(Signal::SIGKILL);
                Exit::TimedOut
            }
            None if status.success() => Exit::Success,
            None => Exit::Failure(status.to_string()),
        })
    }
}
