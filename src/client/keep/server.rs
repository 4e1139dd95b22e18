//! One server whose port is kept open: its schedule, the own address toward it, and its failures. Each knock runs in a
//! thread of its own, so that nothing here waits for a server or a name server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use super::outage::Outage;
use super::renewals::Event;
use super::schedule::{FailureKind, Occasion, Schedule};
use super::surroundings::OwnAddresses;
use crate::client::carry_out;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::request::{ClientRequest, KnockRequest, REPLY_TIMEOUT};
use crate::client::knock::{KnockSuccess, addresses};
use crate::client::panics::caught;
use crate::client::report::Reporter;
use crate::os::clock;
use crate::os::files::io_error_text;
use spa_knock_core::knock::Steady;

/// How long a knock waits for the server's name to be resolved. Name servers are often unreachable where the network has
/// just changed, and the last address usually still works.
const RESOLVE: Duration = Duration::from_secs(1);

/// The server, and what is known about it.
pub(super) struct KeptServer {
    request: Arc<KnockRequest>,
    schedule: Schedule,
    own: OwnAddresses,
    outage: Outage,
    /// The number of the latest knock.
    latest: u64,
}

/// The result of a knock.
pub(super) struct RenewalResult {
    /// The server's place in the list.
    pub(super) server: usize,
    number: u64,
    /// The addresses of the server's name, if it has been resolved.
    resolved: Option<Vec<SocketAddr>>,
    outcome: Result<KnockSuccess, ClientError>,
}

impl KeptServer {
    /// A server after the first knock.
    pub(super) fn new(request: KnockRequest, schedule: Schedule, own: OwnAddresses, outage: Outage) -> Self {
        // A longer timeout is meant for the port: a server that has not replied by then does not reply later, and the
        // retry must not wait.
        let timeout = request.timeout.min(REPLY_TIMEOUT);
        // A command uses the terminal.
        let request = KnockRequest { timeout, ..request }.without_questions();
        let request = Arc::new(request);
        Self { request, schedule, own, outage, latest: 0 }
    }

    /// Looks for changes of the own address. `slept` is whether this machine slept.
    pub(super) fn look(&mut self, slept: bool, now: Steady, report: &Reporter) {
        // Both are updated.
        if self.own.have_changed() | slept {
            report.detail(|| format!("{}: the own address may have changed", self.request.server));
            self.schedule.change_address(now);
        }
    }

    /// Knocks and reports what is due. `place` is the server's place in the list.
    pub(super) fn run_due(&mut self, place: usize, now: Steady, report: &Reporter, results: &Sender<Event>) {
        if self.schedule.deadline().is_some_and(|due| due <= now) {
            let occasion = self.schedule.start(now);
            self.latest = self.latest.saturating_add(1);
            if let Err(failure) = self.knock(place, occasion, report, results) {
                let number = self.latest;
                let result = RenewalResult { server: place, number, resolved: None, outcome: Err(failure) };
                self.record(result, report);
            }
        }
        if let Some(text) = self.outage.take_report(now, self.schedule.open_until()) {
            report.note(&text);
        }
    }

    /// When something is due if nothing happens.
    pub(super) fn deadline(&self) -> Option<Steady> {
        [self.schedule.deadline(), self.outage.deadline()].into_iter().flatten().min()
    }

    /// Knocks in a thread, which nothing waits for: at the end of the command, it ends with this process.
    fn knock(
        &self,
        server: usize,
        occasion: Occasion,
        report: &Reporter,
        results: &Sender<Event>,
    ) -> Result<(), ClientError> {
        let (request, report) = (Arc::clone(&self.request), report.clone().of_renewals());
        let (number, last) = (self.latest, self.own.destinations());
        let object = request.server.clone();
        start_knock(object, (server, number), results.clone(), move || {
            let resolved = if occasion == Occasion::Change { None } else { resolve(&request) };
            let to = match &resolved {
                // The server has not moved: its other addresses would cost more knocks.
                Some(found) if occasion == Occasion::Renewal && last.iter().all(|to| found.contains(to)) => {
                    last
                }
                Some(found) => found.clone(),
                None => last,
            };
            let request = ClientRequest::One(Box::new(request.at(to)));
            (resolved, carry_out(&request, &report).map(|(knocked, _)| knocked))
        })
    }

    /// Records the result of a knock, unless the address has changed since that knock.
    pub(super) fn record(&mut self, result: RenewalResult, report: &Reporter) {
        if result.number != self.latest {
            return;
        }
        let now = clock::steady();
        if let Some(resolved) = result.resolved {
            self.own.learn(resolved);
        }
        match result.outcome {
            Ok(knocked) => {
                let grant = knocked.success.seconds.filter(|seconds| *seconds > 0);
                self.schedule.succeed(grant.map(|seconds| Duration::from_secs(seconds.into())));
                self.own.watch(&knocked.servers);
                if self.outage.end() {
                    report.note(&format!("{}; renewed again", knocked.text));
                } else {
                    report.detail(|| format!("{}; renewed", knocked.text));
                }
            }
            Err(failure) => {
                let kind = FailureKind::of(failure.cause());
                let pause = self.schedule.fail(kind, now);
                report.detail(|| {
                    format!("{}; trying again in {}", failure.reason(), humantime::format_duration(pause))
                });
                let open_until = self.schedule.open_until();
                self.outage.add(kind, failure.reason().to_owned(), now, open_until);
            }
        }
    }
}

/// Starts a thread that knocks and sends the result, also after a panic.
fn start_knock(
    object: String,
    (server, number): (usize, u64),
    results: Sender<Event>,
    knock: impl FnOnce() -> (Option<Vec<SocketAddr>>, Result<KnockSuccess, ClientError>) + Send + 'static,
) -> Result<(), ClientError> {
    let work = move || {
        let (resolved, outcome) =
            caught(&object, || Ok(knock())).unwrap_or_else(|failure| (None, Err(failure)));
        let result = RenewalResult { server, number, resolved, outcome };
        // Fails only while this process ends.
        let _ = results.send(Event::Result(Box::new(result)));
    };
    thread::Builder::new()
        .spawn(work)
        .map(drop)
        .map_err(|error| ClientError::new(ExitCause::Network, format!("thread: {}", io_error_text(&error))))
}

/// Resolves the server's name again, because the server may have moved; none if that takes long or fails.
fn resolve(request: &Arc<KnockRequest>) -> Option<Vec<SocketAddr>> {
    let (sender, resolved) = channel();
    let request = Arc::clone(request);
    // It can last longer than anything here, so nothing waits for its end.
    thread::Builder::new().spawn(move || sender.send(addresses(&request))).ok()?;
    resolved.recv_timeout(RESOLVE).ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knock_that_panics_has_a_result_which_is_an_unreached_server() {
        let (results, events) = channel();
        start_knock("home".to_owned(), (2, 7), results, || panic!("a bug")).unwrap();
        // Without a result, the channel is closed.
        let Ok(Event::Result(result)) = events.recv() else { panic!("no result") };
        assert_eq!((result.server, result.number), (2, 7));
        let failure = result.outcome.err().unwrap();
        assert_eq!(failure.reason(), "home: interrupted by an error in this program");
        assert_eq!(FailureKind::of(failure.cause()), FailureKind::Unreached);
    }
}
