//! A knock from its first datagram to its outcome: finds the ways to the server, knocks, reads the answer.

pub(super) mod attempt;
pub(super) mod command_end;
pub(super) mod diagnosis;
pub(super) mod dry_run;
pub(super) mod exchange;
pub(super) mod nat_cache;
pub(super) mod plan;
pub(super) mod race;
pub(super) mod request;
pub(super) mod route;
pub(super) mod target;
pub(super) mod unanswered;
pub(super) mod wait;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use std::{fmt, io};

use super::failure::{ClientError, ExitCause};
use attempt::Attempt;
use command_end::CommandStage;
use exchange::ReceivedReply;
use nat_cache::NatCache;
use plan::{AddressPlan, Claim, Facts};
use race::Race;
use request::KnockRequest;

use super::report::{Reporter, Success};
use crate::os::files::io_error_text;
use route::{Route, resolve};
use spa_knock_core::crypto::{ClientKeys, Fingerprint};
use spa_knock_core::knock::{AddressPolicy, Reply, ReplyStatus, SourceOption, Timestamp};
use spa_knock_core::wire::Datagram;

/// So many addresses of a name are knocked at; none has that many by intent.
pub(super) const ADDRESSES_MAX: usize = 8;
/// From here on a difference of the clocks is worth a word; the server's window is 30 s.
pub(super) const CLOCKS_APART: Duration = Duration::from_secs(5);

/// Where nothing could be sent to, and why.
pub(super) type Unsent = Option<(SocketAddr, io::Error)>;

/// A knock that was not refused.
#[derive(Debug)]
pub(super) struct KnockSuccess {
    /// Where the knock went to; several addresses where no answer names one of them.
    pub(super) servers: Vec<SocketAddr>,
    /// What to tell scripts.
    pub(super) success: Success,
    /// What to tell people.
    pub(super) text: String,
}

/// The last answer to a knock, whatever it led to.
#[derive(Debug, Clone)]
pub(super) struct LastReply {
    /// The own outgoing address towards the server.
    pub(super) own: IpAddr,
    /// What it said.
    pub(super) reply: Reply,
    /// Our clock when it came.
    pub(super) at: Timestamp,
}

/// Knocks as it is meant, and waits for the answer.
pub(super) fn knock(request: &KnockRequest, report: &Reporter) -> Result<KnockSuccess, ClientError> {
    knock_and_keep(request, report, &mut None)
}

/// The same, and keeps the last answer for who wants to know more than what came of it.
pub(super) fn knock_and_keep(
    request: &KnockRequest,
    report: &Reporter,
    last: &mut Option<LastReply>,
) -> Result<KnockSuccess, ClientError> {
    Knocker::new(request, report).knock(last)
}

/// The first way to the server that the system knows, what the first knock says there, and where it goes next without
/// an answer. Sends nothing.
pub(super) fn rehearse(
    request: &KnockRequest,
    fingerprint: Fingerprint,
) -> Result<(Route, Claim, Vec<SocketAddr>), ClientError> {
    let learnt = NatCache::new(request.state.as_deref(), fingerprint);
    let (routes, unsent) = ways(addresses(request)?, &Reporter::SILENT);
    let mut routes = routes.into_iter();
    let Some(route) = routes.next() else { return Err(unreachable(request, unsent)) };
    let claim = plan(request, &learnt, &route).first_claim();
    Ok((route, claim, routes.map(|route| route.server).collect()))
}

/// What knocking takes, whatever the address.
pub(super) struct Knocker<'a> {
    pub(super) request: &'a KnockRequest,
    pub(super) report: &'a Reporter,
    pub(super) keys: ClientKeys,
    pub(super) fingerprint: Fingerprint,
    pub(super) learnt: NatCache,
}

impl<'a> Knocker<'a> {
    /// Derives the keys for the server that is meant.
    pub(super) fn new(request: &'a KnockRequest, report: &'a Reporter) -> Self {
        let keys = request.key.keys(&request.target.id);
        if let Some(server) = request.key.server().filter(|server| **server != request.target.id) {
            report.note(&format!("warning: the key is for server {server}, not for {}", request.target.id));
        }
        let learnt = NatCache::new(request.state.as_deref(), keys.fingerprint);
        if let Some(problem) = learnt.problem() {
            report.note(&format!("warning: learned addresses are not used: {problem}"));
        }
        Self { request, report, keys: keys.client(), fingerprint: keys.fingerprint, learnt }
    }

    fn knock(&self, last: &mut Option<LastReply>) -> Result<KnockSuccess, ClientError> {
        let (routes, unsent) = self.ways()?;
        Race::new(self, &routes, unsent).run(last)
    }

    /// The ways to the server's addresses, and why there is none to another one.
    pub(super) fn ways(&self) -> Result<(Vec<Route>, Unsent), ClientError> {
        let servers = addresses(self.request)?;
        self.report.detail(|| format!("{}: resolved to {}", self.request.target.host, listed(&servers)));
        Ok(ways(servers, self.report))
    }

    /// A datagram for one of the server's addresses.
    pub(super) fn seal(&self, server: SocketAddr, claim: Claim) -> Result<Datagram, ClientError> {
        self.report.detail(|| format!("{}: knocking at {} {}", self.request.server, server.ip(), claim));
        Datagram::seal(&self.request.knock(claim), &self.keys)
            .map_err(|error| ClientError::new(ExitCause::Network, error.to_string()))
    }

    pub(super) fn unreachable(&self, unsent: Unsent) -> ClientError {
        unreachable(self.request, unsent)
    }

    /// The server did what was asked for: keeps what was learned, and waits for the end where that is wanted.
    pub(super) fn granted(
        &self,
        attempt: &mut Attempt<'_>,
        heard: ReceivedReply,
    ) -> Result<KnockSuccess, ClientError> {
        self.compare_clocks(&heard);
        if let Some((own, seen)) = attempt.plan.learnt(&heard.reply) {
            let kept = self.learnt.store(own, seen);
            self.report.detail(|| match kept {
                Ok(()) => format!("{seen}: kept for the next knock"),
                Err(error) => format!("{seen}: not kept: {error}"),
            });
        }
        match self.request.end {
            None => Ok(self.answered(attempt.route, &heard)),
            Some(patience) => {
                let last = command_end::await_end(
                    self.request,
                    &mut attempt.exchange,
                    heard,
                    patience,
                    self.report,
                )?;
                Ok(self.answered(attempt.route, &last))
            }
        }
    }

    /// Somebody copies knocks, and forges the way of the answers too: nothing is believed but a grant, which only
    /// the server can make, and nothing is kept.
    pub(super) fn conflicting_replies(
        &self,
        one: IpAddr,
        other: IpAddr,
        route: &Route,
        heard: &ReceivedReply,
    ) -> Result<KnockSuccess, ClientError> {
        let failure = diagnosis::conflicting_replies(self.request, one, other);
        if heard.reply.status.is_success() {
            self.report.note(&format!("warning: {failure}"));
            return Ok(self.answered(route, heard));
        }
        Err(failure)
    }

    fn answered(&self, route: &Route, heard: &ReceivedReply) -> KnockSuccess {
        let Reply { status, observed, seconds, text, .. } = &heard.reply;
        let whom = match self.request.source {
            // Whatever address the knock came from.
            SourceOption::Listed(addresses) => {
                named(Claim { policy: AddressPolicy::Listed, addresses }).join(",")
            }
            SourceOption::Auto | SourceOption::Observed | SourceOption::Exact(_) => observed.to_string(),
        };
        let stage = CommandStage::of(&heard.reply);
        let done = if stage == CommandStage::Started { "started" } else { "done" };
        let (result, name) = match status {
            ReplyStatus::Done => (done, done),
            _ => ("granted", "granted"),
        };
        let mut line = format!("{}: {} {name}", self.request.server, self.request.action);
        if *seconds > 0 {
            let time = humantime::format_duration(Duration::from_secs((*seconds).into()));
            line.push_str(&match status {
                ReplyStatus::Done => format!("; it is undone after {time}"),
                _ => format!(" to {whom} for {time}"),
            });
            if self.request.seconds > *seconds {
                line.push_str(", the most that this action gives");
            }
        }
        line.push_str(&match (status, stage) {
            (ReplyStatus::Granted, CommandStage::Started) => "; its command has started".to_owned(),
            (ReplyStatus::Granted, CommandStage::Ended) => "; its command has ended".to_owned(),
            (_, CommandStage::Unknown) if !text.as_str().is_empty() => format!(" ({})", text.as_str()),
            _ => String::new(),
        });
        let success = Success {
            address: Some(whom),
            seconds: Some(*seconds),
            server_time_ms: Some(heard.reply.server_time.as_millis()),
            round_trip_ms: Some(milliseconds(heard.round_trip)),
            ..self.success(result)
        };
        KnockSuccess { servers: vec![route.server], success, text: line }
    }

    pub(super) fn sent(&self, route: &Route, claim: Claim) -> KnockSuccess {
        let text = format!(
            "{}: {} sent to {} port {}, no reply asked for",
            self.request.server,
            self.request.action,
            route.server.ip(),
            route.server.port()
        );
        let whom = named(claim).join(",");
        let success = Success { address: Some(whom).filter(|whom| !whom.is_empty()), ..self.success("sent") };
        KnockSuccess { servers: vec![route.server], success, text }
    }

    fn success(&self, result: &'static str) -> Success {
        Success {
            result,
            action: self.request.action.to_string(),
            server: self.request.server.clone(),
            address: None,
            seconds: None,
            server_time_ms: None,
            round_trip_ms: None,
        }
    }

    pub(super) fn compare_clocks(&self, heard: &ReceivedReply) {
        let (theirs, ours) = (heard.reply.server_time, heard.at);
        let apart = theirs.distance(ours);
        if apart > CLOCKS_APART {
            let side = if theirs > ours { "behind" } else { "ahead of" };
            self.report.note(&format!(
                "warning: clock: {} s {side} the server's; beyond its window (30 s unless configured) knocks stay unanswered",
                apart.as_secs()
            ));
        }
    }
}

/// Where to knock, in this order.
pub(super) fn addresses(request: &KnockRequest) -> Result<Vec<SocketAddr>, ClientError> {
    let claimed = match request.source {
        SourceOption::Exact(addresses) => Some(addresses),
        SourceOption::Auto | SourceOption::Observed | SourceOption::Listed(_) => None,
    };
    let mut servers = resolve(&request.target.host, request.target.port, request.family, claimed)?;
    servers.truncate(ADDRESSES_MAX);
    Ok(servers)
}

/// What a knock by this way says about the address.
pub(super) fn plan(request: &KnockRequest, learnt: &NatCache, route: &Route) -> AddressPlan {
    let learnt = if request.source == SourceOption::Auto { learnt.lookup(route.own) } else { None };
    let facts = Facts { server: route.server.ip(), own: route.own, learnt, reply: request.reply };
    AddressPlan::new(request.source, &facts)
}

/// The ways to these addresses, and why there is none to the last one without.
fn ways(servers: Vec<SocketAddr>, report: &Reporter) -> (Vec<Route>, Unsent) {
    let (mut routes, mut unsent) = (Vec::new(), None);
    for server in servers {
        match Route::to(server) {
            Ok(route) => routes.push(route),
            Err(error) => {
                report.detail(|| format!("{}: {}", server.ip(), io_error_text(&error)));
                unsent = Some((server, error));
            }
        }
    }
    (routes, unsent)
}

fn unreachable(request: &KnockRequest, failed: Unsent) -> ClientError {
    let host = &request.target.host;
    match failed {
        Some((server, error)) => {
            let reason =
                format!("{host}: nothing could be sent to {}: {}", server.ip(), io_error_text(&error));
            let failure = ClientError::new(ExitCause::Network, reason);
            if error.kind() == io::ErrorKind::PermissionDenied {
                return failure.hint(format!(
                    "a firewall of this host forbids it: let UDP to port {} out",
                    server.port()
                ));
            }
            failure
        }
        None => ClientError::new(ExitCause::Network, format!("{host}: no address to knock at")),
    }
}

pub(super) fn listed(servers: &[SocketAddr]) -> String {
    servers.iter().map(|server| server.ip().to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = named(*self);
        write!(f, "{}", self.policy)?;
        if addresses.is_empty() { Ok(()) } else { write!(f, " {}", addresses.join(", ")) }
    }
}

/// The addresses of a claim.
pub(super) fn named(claim: Claim) -> Vec<String> {
    let v4 = claim.addresses.ipv4().map(|address| address.to_string());
    v4.into_iter().chain(claim.addresses.ipv6().map(|address| address.to_string())).collect()
}

/// Milliseconds with three decimals.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests;
