//! The loop of `keep`: waits for the end of the command, a signal, the time of the next knock or another own address.
//! Each knock runs in a thread of its own, so that nothing here waits for a server or a name server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel as mpsc_channel};
use std::thread;
use std::time::Duration;

use super::outage::Outage;
use super::schedule::{FailureKind, Occasion, Schedule};
use super::shortest_grant;
use super::surroundings::{OwnAddresses, SleepDetector};
use crate::client::carry_out;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::request::ClientRequest;
use crate::client::knock::{KnockSuccess, addresses};
use crate::client::report::Reporter;
use crate::os::clock;
use crate::os::files::io_error_text;
use crate::os::process::foreground::ForegroundCommand;
#[cfg(unix)]
use crate::os::process::interruptions::{self, Interruption};
use spa_knock_core::knock::Steady;

/// How often the own address and the clocks are compared. Without signals, also how often the command is looked at.
const TICK: Duration = Duration::from_millis(if cfg!(unix) { 500 } else { 100 });

/// How long a knock waits for the server's name to be resolved. Name servers are often unreachable where the network has
/// just changed, and the last address usually still works.
const RESOLVE: Duration = Duration::from_secs(1);

/// What the loop waits for.
pub(super) enum Event {
    /// The result of a knock.
    Result(Box<RenewalResult>),
    /// A signal.
    #[cfg(unix)]
    Signal(Interruption),
}

/// The result of a knock.
pub(super) struct RenewalResult {
    number: u64,
    /// The addresses of the server's name, if it has been resolved.
    resolved: Option<Vec<SocketAddr>>,
    outcome: Result<KnockSuccess, ClientError>,
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
    request: Arc<ClientRequest>,
    /// For our own lines.
    report: Reporter,
    schedule: Schedule,
    own: OwnAddresses,
    outage: Outage,
    /// The number of the latest knock.
    latest: u64,
    results: Sender<Event>,
}

impl Renewals {
    /// Continues after a first knock that succeeded.
    pub(super) fn new(
        request: ClientRequest,
        report: Reporter,
        schedule: Schedule,
        own: OwnAddresses,
        results: Sender<Event>,
    ) -> Self {
        let request = Arc::new(request);
        Self { request, report, schedule, own, outage: Outage::default(), latest: 0, results }
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
            // Both are updated.
            if sleep.has_slept(now) | self.own.have_changed() {
                self.report.detail(|| format!("{}: the own address may have changed", self.request.server()));
                self.schedule.change_address(now.steady);
            }
            self.run_due(now.steady);
            match events.recv_timeout(self.pause(clock::steady())) {
                Ok(Event::Result(result)) if result.number == self.latest => self.record(*result),
                // The address has changed since this knock.
                Ok(Event::Result(_)) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                #[cfg(unix)]
                Ok(Event::Signal(signal)) => match (signal, &command) {
                    (Interruption::Terminal | Interruption::Stop(_), None) => return Ok(0),
                    (Interruption::Stop(signal), Some(command)) => command.signal(signal),
                    // The terminal sends its signals to the command, too, and the command decides what they mean.
                    (Interruption::Terminal, Some(_)) | (Interruption::Child, _) => {}
                },
            }
        }
    }

    /// Knocks and reports what is due.
    fn run_due(&mut self, now: Steady) {
        if self.schedule.deadline().is_some_and(|due| due <= now) {
            let occasion = self.schedule.start(now);
            self.latest = self.latest.saturating_add(1);
            if let Err(failure) = self.knock(occasion) {
                self.record(RenewalResult { number: self.latest, resolved: None, outcome: Err(failure) });
            }
        }
        if let Some(report) = self.outage.take_report(now, self.schedule.open_until()) {
            self.report.note(&report);
        }
    }

    /// How long to sleep if nothing happens.
    fn pause(&self, now: Steady) -> Duration {
        let due = [self.schedule.deadline(), self.outage.deadline()].into_iter().flatten().min();
        due.map_or(TICK, |due| due.since(now).min(TICK))
    }

    /// Knocks in a thread, which nothing waits for: at the end of the command, it ends with this process.
    fn knock(&self, occasion: Occasion) -> Result<(), ClientError> {
        let (request, report) = (Arc::clone(&self.request), self.report.clone().of_renewals());
        let (results, number, last) = (self.results.clone(), self.latest, self.own.destinations());
        let knock = move || {
            let resolved = if occasion == Occasion::Change { None } else { resolve(&request) };
            let to = match &resolved {
                // The server has not moved: its other addresses would cost more knocks.
                Some(found) if occasion == Occasion::Renewal && last.iter().all(|to| found.contains(to)) => {
                    last
                }
                Some(found) => found.clone(),
                None => last,
            };
            let at_addresses = request.at(&to);
            let request = at_addresses.as_ref().unwrap_or(&request);
            let outcome = carry_out(request, &report).map(|(knocked, _)| knocked);
            let result = RenewalResult { number, resolved, outcome };
            // Fails only while this process ends.
            let _ = results.send(Event::Result(Box::new(result)));
        };
        thread::Builder::new().spawn(knock).map(drop).map_err(|error| {
            ClientError::new(ExitCause::Network, format!("thread: {}", io_error_text(&error)))
        })
    }

    fn record(&mut self, result: RenewalResult) {
        let now = clock::steady();
        if let Some(resolved) = result.resolved {
            self.own.learn(resolved);
        }
        match result.outcome {
            Ok(knocked) => {
                self.schedule.succeed(shortest_grant(&knocked).filter(|grant| !grant.is_zero()));
                self.own.watch(&knocked.servers);
                if self.outage.end() {
                    self.report.note(&format!("{}; renewed again", knocked.text));
                } else {
                    self.report.detail(|| format!("{}; renewed", knocked.text));
                }
            }
            Err(failure) => {
                let kind = match failure.cause() {
                    ExitCause::Refused => FailureKind::Refused,
                    _ => FailureKind::Unreached,
                };
                let pause = self.schedule.fail(kind, now);
                self.report.detail(|| {
                    format!("{}; trying again in {}", failure.reason(), humantime::format_duration(pause))
                });
                let open_until = self.schedule.open_until();
                self.outage.add(kind, failure.reason().to_owned(), now, open_until);
            }
        }
    }
}

/// Resolves the server's name again, because the server may have moved; none if that takes long or fails, and for a group,
/// whose servers are resolved at each knock.
fn resolve(request: &Arc<ClientRequest>) -> Option<Vec<SocketAddr>> {
    if let ClientRequest::Several(_) = **request {
        return None;
    }
    let (sender, resolved) = mpsc_channel();
    let request = Arc::clone(request);
    // It can last longer than anything here, so nothing waits for its end.
    let resolve = move || {
        if let ClientRequest::One(request) = &*request {
            let _ = sender.send(addresses(request));
        }
    };
    thread::Builder::new().spawn(resolve).ok()?;
    resolved.recv_timeout(RESOLVE).ok()?.ok()
}
