//! A running command: its process, its output and its deadline, and how it ends.

use std::process::Child;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Job;
use super::captured_output::CapturedOutput;
use crate::os::process::descendants::Descendants;
use crate::os::process::privileges::Identity;
use crate::os::process::spawn::{self, RunError};
use spa_knock_core::knock::Steady;

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

/// A running command.
pub(super) struct RunningJob<T> {
    pub(super) child: Child,
    pub(super) owner: String,
    pub(super) slot: JobSlot,
    pub(super) output: CapturedOutput,
    started: Steady,
    timeout: Duration,
    /// When SIGKILL is due, after SIGTERM has been sent.
    kill_at: Option<Steady>,
    /// Its descendants when it was last signaled.
    descendants: Descendants,
    pub(super) label: T,
}

/// Whether a command uses a command slot or an undo slot.
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
    /// With another exit status, or by a signal, or it could not be started when its turn came.
    Failure(String),
    /// It was killed at its deadline.
    TimedOut,
}

impl<T> RunningJob<T> {
    /// Starts the command.
    ///
    /// # Errors
    /// When it cannot be started; includes its label.
    pub(super) fn start(
        job: Job<T>,
        slot: JobSlot,
        identity: Option<Identity>,
        now: Steady,
    ) -> Result<Self, (RunError, T)> {
        let Job { argv, timeout, owner, label } = job;
        let started = CapturedOutput::pipe()
            .map_err(|error| RunError::Io(argv.first().cloned().unwrap_or_default(), error.to_string()))
            .and_then(|(output, writer)| spawn::start(&argv, writer, identity).map(|child| (child, output)));
        match started {
            Ok((child, output)) => {
                let (started, kill_at, descendants) = (now, None, Descendants::default());
                Ok(Self { child, owner, slot, output, started, timeout, kill_at, descendants, label })
            }
            Err(error) => Err((error, label)),
        }
    }

    /// When it is signaled next, if it has not exited by then.
    pub(super) fn deadline(&self) -> Steady {
        self.kill_at.unwrap_or_else(|| self.started.plus(self.timeout))
    }

    /// Sends a signal to the command and all its descendants.
    pub(super) fn signal(&mut self, signal: Signal) {
        self.descendants.stop_and_find(self.child.id());
        spawn::signal_group(&self.child, signal);
        self.descendants.signal_outside(self.child.id(), signal);
    }

    /// Returns how the command ended, if it has. Signals it after its deadline.
    pub(super) fn reap(&mut self, now: Steady) -> Option<Exit> {
        let status = match self.child.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) => {
                if now >= self.deadline() {
                    let signal = if self.kill_at.is_some() { Signal::SIGKILL } else { Signal::SIGTERM };
                    self.signal(signal);
                    self.kill_at = Some(now.plus(GRACE));
                }
                return None;
            }
            Err(error) => return Some(Exit::Failure(crate::os::files::io_error_text(&error))),
        };
        self.output.read();
        Some(match self.kill_at {
            Some(_) => {
                // Its children may still run, in its process group or another.
                self.signal(Signal::SIGKILL);
                Exit::TimedOut
            }
            None if status.success() => Exit::Success,
            None => Exit::Failure(status.to_string()),
        })
    }
}
