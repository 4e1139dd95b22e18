//! A knock from its first datagram to its result: finds routes to the server, sends the knock, reads the reply.

pub(super) mod attempt;
pub(super) mod command_end;
pub(super) mod diagnosis;
pub(super) mod dry_run;
pub(super) mod exchange;
pub(super) mod nat_cache;
pub(super) mod plan;
pub(super) mod profiles;
pub(super) mod race;
pub(super) mod request;
pub(super) mod route;
mod sealing;
mod signed_request;
pub(super) mod success;
pub(super) mod target;
pub(super) mod unanswered;
pub(super) mod wait;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::{fmt, io};

use super::failure::{ClientError, ExitCause};
use attempt::Attempt;
use exchange::ReceivedReply;
use nat_cache::NatCache;
use plan::{AddressPlan, Claim, Facts};
use race::{Race, RaceEvent};
use request::KnockRequest;

use super::report::Reporter;
use crate::os::files::io_error_text;
use route::{Route, resolve};
use spa_knock_core::crypto::{ClientKeys, Fingerprint};
use spa_knock_core::knock::{Reply, SourceOption, Timestamp};
pub(super) use success::{KnockSuccess, origin};

/// Maximum number of addresses per name that get a knock. No server has more on purpose.
pub(super) const ADDRESSES_MAX: usize = 8;
/// A larger difference between the clocks causes a warning; the server's default window is 30 s.
pub(super) const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// An address to which nothing could be sent, and the reason.
pub(super) type Unsent = Option<(SocketAddr, io::Error)>;

/// The last reply to a knock, whatever its status.
#[derive(Debug, Clone)]
pub(super) struct LastReply {
    /// The local outgoing address toward the server.
    pub(super) own: IpAddr,
    /// The reply.
    pub(super) reply: Reply,
    /// Local time of arrival.
    pub(super) at: Timestamp,
}

/// Knocks as requested, and waits for the reply.
pub(super) fn knock(request: &KnockRequest, report: &Reporter) -> Result<KnockSuccess, ClientError> {
    knock_and_keep(request, report, &mut None)
}

/// The same; also stores the last reply in `last`, for callers that need more than the result.
pub(super) fn knock_and_keep(
    request: &KnockRequest,
    report: &Reporter,
    last: &mut Option<LastReply>,
) -> Result<KnockSuccess, ClientError> {
    Knocker::new(request, report).knock(&mut |event| {
        if let RaceEvent::Reply(reply) = event {
            *last = Some(reply);
        }
    })
}

/// The routes to the server's addresses, and the claim of the first knock at each; at least one. Sends nothing.
pub(super) fn previews(
    request: &KnockRequest,
    fingerprint: Fingerprint,
) -> Result<Vec<(Route, Claim)>, ClientError> {
    let learned = NatCache::of(request, fingerprint);
    let (routes, unsent) = routes_to(addresses(request)?, &Reporter::SILENT);
    if routes.is_empty() {
        return Err(unreachable(request, unsent));
    }
    let plans = plans(request, &learned, &routes);
    Ok(routes.into_iter().zip(plans.iter().map(AddressPlan::first_claim)).collect())
}

/// Everything that a knock needs, independent of the server's address.
pub(super) struct Knocker<'a> {
    pub(super) request: &'a KnockRequest,
    pub(super) report: &'a Reporter,
    pub(super) keys: ClientKeys,
    pub(super) fingerprint: Fingerprint,
    pub(super) learned: NatCache,
    /// Whether the knock is of use; false once another server has done what was requested. None if there is no other.
    pub(super) wanted: Option<Arc<AtomicBool>>,
}

impl<'a> Knocker<'a> {
    /// Derives the keys for the requested server.
    pub(super) fn new(request: &'a KnockRequest, report: &'a Reporter) -> Self {
        let keys = request.keys();
        if let Some(server) = request.key.server().filter(|server| **server != request.target.id) {
            report.note(&format!("warning: the key is for server {server}, not for {}", request.target.id));
        }
        let learned = NatCache::of(request, keys.fingerprint);
        if let Some(problem) = learned.problem() {
            report.note(&format!("warning: learned addresses are not used: {problem}"));
        }
        let (keys, fingerprint) = (keys.client(), keys.fingerprint);
        Self { request, report, keys, fingerprint, learned, wanted: None }
    }

    /// The same, with another report.
    pub(super) fn with_report<'b>(&'b self, report: &'b Reporter) -> Knocker<'b> {
        let learned = NatCache::of(self.request, self.fingerprint);
        let (keys, wanted) = (self.keys.clone(), self.wanted.clone());
        Knocker { report, keys, learned, wanted, ..*self }
    }

    fn knock(&self, on_event: &mut dyn FnMut(RaceEvent)) -> Result<KnockSuccess, ClientError> {
        let (routes, unsent) = self.routes()?;
        Race::new(self, &routes, unsent).run(on_event)
    }

    /// The routes to the server's addresses, and an address without a route.
    pub(super) fn routes(&self) -> Result<(Vec<Route>, Unsent), ClientError> {
        let servers = addresses(self.request)?;
        self.report.detail(|| format!("{}: resolved to {}", self.request.target.host, listed(&servers)));
        Ok(routes_to(servers, self.report))
    }

    pub(super) fn unreachable(&self, unsent: Unsent) -> ClientError {
        unreachable(self.request, unsent)
    }

    /// The server granted the request: saves the learned address, and waits for the end of the command if requested.
    pub(super) fn granted(
        &self,
        attempt: &mut Attempt<'_>,
        received: ReceivedReply,
    ) -> Result<KnockSuccess, ClientError> {
        self.compare_clocks(&received);
        if let Some((own, seen)) = attempt.plan.learned(&received.reply) {
            let saved = self.learned.store(own, seen);
            self.report.detail(|| match saved {
                Ok(()) => format!("{seen}: saved for the next knock"),
                Err(error) => format!("{seen}: not saved: {error}"),
            });
        }
        match self.request.end {
            None => Ok(self.success_of(attempt.route, &received)),
            Some(patience) => {
                let last = command_end::await_end(
                    self.request,
                    &mut attempt.exchange,
                    received,
                    patience,
                    self.origin(attempt.route.server).as_deref(),
                    self.report,
                )?;
                Ok(self.success_of(attempt.route, &last))
            }
        }
    }

    /// An attacker replays knocks from other addresses, and the replies contradict each other. Only a grant is
    /// believed, because only the server can create one, and nothing is saved.
    pub(super) fn conflicting_replies(
        &self,
        one: IpAddr,
        other: IpAddr,
        route: &Route,
        received: &ReceivedReply,
    ) -> Result<KnockSuccess, ClientError> {
        let failure =
            diagnosis::conflicting_replies(self.request, self.origin(route.server).as_deref(), one, other);
        if received.reply.status.is_success() {
            self.report.note(&format!("warning: {failure}"));
            return Ok(self.success_of(route, received));
        }
        Err(failure)
    }

    pub(super) fn compare_clocks(&self, received: &ReceivedReply) {
        let (theirs, ours) = (received.reply.server_time, received.at);
        let difference = theirs.distance(ours);
        if difference > CLOCK_TOLERANCE {
            let side = if theirs > ours { "behind" } else { "ahead of" };
            self.report.note(&format!(
                "warning: clock: {} s {side} the server's clock; the server ignores knocks outside its window (30 s by default)",
                difference.as_secs()
            ));
        }
    }
}

/// The addresses to knock at, in this order, at most [`ADDRESSES_MAX`].
pub(super) fn addresses(request: &KnockRequest) -> Result<Vec<SocketAddr>, ClientError> {
    if let Some(resolved) = &request.resolved {
        return Ok(resolved.clone());
    }
    let mut servers = all_addresses(request)?;
    servers.truncate(ADDRESSES_MAX);
    Ok(servers)
}

/// All addresses to which the requested knock can be sent, in order.
pub(super) fn all_addresses(request: &KnockRequest) -> Result<Vec<SocketAddr>, ClientError> {
    let claimed = match request.source {
        SourceOption::Exact(addresses) => Some(addresses),
        SourceOption::Auto | SourceOption::Observed | SourceOption::Listed(_) => None,
    };
    resolve(&request.target.host, request.target.port, request.family, claimed)
}

/// The plan for the addresses that knocks by this route claim.
pub(super) fn plan(request: &KnockRequest, learned: &NatCache, route: &Route) -> AddressPlan {
    let learned = if request.source == SourceOption::Auto { learned.lookup(route.own) } else { None };
    let (server, own) = (route.server.ip(), route.own);
    let facts = Facts { server, own, learned, reply: request.reply, learning: request.learning };
    AddressPlan::new(request.source, &facts)
}

/// The plans for knocks by these routes, one after the other. A signed knock claims the own addresses of both families,
/// so that one touch of a FIDO key is enough for a server that has both.
pub(super) fn plans(request: &KnockRequest, learned: &NatCache, routes: &[Route]) -> Vec<AddressPlan> {
    let plans: Vec<_> = routes.iter().map(|route| plan(request, learned, route)).collect();
    if request.signing.is_none() {
        return plans;
    }
    let claims: Vec<_> = plans.iter().map(AddressPlan::first_claim).collect();
    let joint = |plan: AddressPlan| {
        let claim = plan.first_claim().joined(&claims);
        plan.with_first_claim(claim)
    };
    plans.into_iter().map(joint).collect()
}

/// The routes to these addresses, and the last address without a route.
pub(super) fn routes_to(servers: Vec<SocketAddr>, report: &Reporter) -> (Vec<Route>, Unsent) {
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
                    "a firewall on this host blocks it: allow outgoing UDP to port {}",
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

#[cfg(test)]
mod tests;
