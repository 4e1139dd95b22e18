//! The loop of `keep`: waits for the end of the command, a signal, the time of the next knock or another own address.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel as mpsc_channel};
use std::time::Duration;

use super::server::{KeptServer, RenewalResult};
use super::surroundings::SleepDetector;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::Reporter;
use crate::os::clock;
use crate::os::files::io_error_text;
use crate::os::process::foreground::ForegroundCommand;
#[cfg(unix)]
use crate::os::process::interruptions::{self, Interruption};
use spa_knock_core::knock::Steady;

/// How often the own address and the clocks are compared. Without signals, also how often the command is looked at.
const TICK: Duration = Duration::from_millis(if cfg!(unix) { 500 } else { 100 });

/// What the loop waits for.
pub(super) enum Event {
    /// The result of a knock.
    Result(Box<RenewalResult>),
    /// A signal.
    #[cfg(unix)]
    Signal(Interruption),
}

/// The channel of the events.
pub(super) fn channel() -> (Sender<Event>, Receiver<Event>) {
    mpsc_channel()
}

/// Receives signals as events from now on. On systems without signals, Ctrl-C ends this program and the command.
#[cfg(unix)]
pub(super) fn listen_to_signals(events: &Sender<Event>) -> Result<(), ClientError> {
    let events = events.clone();
    interruptions::listen(move |signal| events.send(Event::Signal(signal)).is_ok())
        .map_err(|error| ClientError::new(ExitCause::Network, format!("signals: {}", io_error_text(&error))))
}

#[cfg(not(unix))]
pub(super) fn listen_to_signals(_: &Sender<Event>) -> Result<(), ClientError> {
    Ok(())
}

/// The knocks after the first one.
pub(super) struct Renewals {
    servers: Vec<KeptServer>,
    /// For our own lines.
    report: Reporter,
    results: Sender<Event>,
}

impl Renewals {
    /// Continues after a first knock that succeeded.
    pub(super) const fn new(servers: Vec<KeptServer>, report: Reporter, results: Sender<Event>) -> Self {
        Self { servers, report, results }
    }

    /// Knocks when necessary until the command ends, and returns its exit code; without a command until a signal
    /// arrives.
    pub(super) fn run(
        mut self,
        events: &Receiver<Event>,
        mut command: Option<ForegroundCommand>,
    ) -> Result<u8, ClientError> {
        let mut sleep = SleepDetector::new(clock::now());
        loop {
            if let Some(command) = &mut command
                && let Some(code) = command.exit_code().map_err(|error| {
                    ClientError::new(ExitCause::Network, format!("command: {}", io_error_text(&error)))
                })?
            {
                return Ok(code);
            }
            let now = clock::now();
            let slept = sleep.has_slept(now);
            for (place, server) in self.servers.iter_mut().enumerate() {
                server.look(slept, now.steady, &self.report);
                server.run_due(place, now.steady, &self.report, &self.results);
            }
            match events.recv_timeout(self.pause(clock::steady())) {
                Ok(Event::Result(result)) => {
                    if let Some(server) = self.servers.get_mut(result.server) {
                        server.record(*result, &self.report);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                #[cfg(unix)]
                Ok(Event::Signal(signal)) => match (signal, &command) {
                    (Interruption::Terminal | Interruption::Stop(_), None) => return Ok(0),
                    (Interruption::Stop(signal), Some(command)) => command.signal(signal),
                    // As ssh does for `~^Z`: without us, the shell would not know that its job has stopped.
                    (Interruption::Child, Some(command)) if command.has_suspended_itself() => {
                        interruptions::stop_this_process();
                    }
                    // The terminal sends its signals to the command, too, and the command decides what they mean.
                    (Interruption::Terminal, Some(_)) | (Interruption::Child, _) => {}
                },
            }
        }
    }

    /// How long to sleep if nothing happens.
    fn pause(&self, now: Steady) -> Duration {
        let due = self.servers.iter().filter_map(KeptServer::deadline).min();
        due.map_or(TICK, |due| due.since(now).min(TICK))
    }
}
