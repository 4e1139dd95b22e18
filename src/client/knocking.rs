//! A knock from its first datagram to its outcome: finds a way to the server, follows the plan, reads the answer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::exchange::{Exchange, Heard, Resend};
use super::failure::{Cause, Failure};
use super::intent::Intent;
use super::learnt::Learnt;
use super::plan::{Claim, Facts, Next, Plan, Turn};
use super::refusal;
use super::report::{Report, Success};
use super::route::{Route, own_towards, resolve};
use crate::crypto::{ClientKeys, Fingerprint};
use crate::knock::{AddressPolicy, Reply, ReplyWanted, Source, Timestamp};
use crate::os::clock;
use crate::os::files::plain;
use crate::wire::Datagram;

/// How long other answers to the first knock may take, before the address in the first of them is believed.
const LINGER: Duration = Duration::from_millis(100);
/// From here on a difference of the clocks is worth a word; the server's window is 30 s.
pub(super) const CLOCKS_APART: Duration = Duration::from_secs(5);

/// A knock that was not refused.
#[derive(Debug)]
pub(super) struct Knocked {
    /// Where the knock went to.
    pub(super) server: SocketAddr,
    /// What to tell scripts.
    pub(super) success: Success,
    /// What to tell people.
    pub(super) text: String,
}

/// The last answer to a knock, whatever it led to.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// The own outgoing address towards the server.
    pub(super) own: IpAddr,
    /// What it said.
    pub(super) reply: Reply,
    /// Our clock when it came.
    pub(super) at: Timestamp,
}

/// Knocks as it is meant.
pub(super) fn knock(intent: &Intent, report: &Report) -> Result<Knocked, Failure> {
    knock_and_keep(intent, report, &mut None)
}

/// The same, and keeps the last answer for who wants to know more than what came of it.
pub(super) fn knock_and_keep(
    intent: &Intent,
    report: &Report,
    last: &mut Option<Answer>,
) -> Result<Knocked, Failure> {
    let keys = intent.key.keys(&intent.target.id);
    let knocker = Knocker {
        intent,
        report,
        keys: keys.client(),
        fingerprint: keys.fingerprint,
        learnt: Learnt::new(intent.state.as_deref(), keys.fingerprint),
    };
    if let Some(server) = intent.key.server().filter(|server| **server != intent.target.id) {
        report.note(&format!("warning: the key is for server {server}, not for {}", intent.target.id));
    }
    knocker.knock(last)
}

/// The first way to the server that the system knows, and what the first knock says there. Sends nothing.
pub(super) fn rehearse(intent: &Intent, fingerprint: Fingerprint) -> Result<(Route, Claim), Failure> {
    let learnt = Learnt::new(intent.state.as_deref(), fingerprint);
    let mut failed = None;
    for server in addresses(intent)? {
        match Route::to(server) {
            Ok(route) => {
                let claim = plan(intent, &learnt, &route).first();
                return Ok((route, claim));
            }
            Err(error) => failed = Some((server, error)),
        }
    }
    Err(no_way(intent, failed))
}

struct Knocker<'a> {
    intent: &'a Intent,
    report: &'a Report,
    keys: ClientKeys,
    fingerprint: Fingerprint,
    learnt: Learnt,
}

impl Knocker<'_> {
    fn knock(&self, last: &mut Option<Answer>) -> Result<Knocked, Failure> {
        let mut failed = None;
        let servers = addresses(self.intent)?;
        self.report.detail(|| format!("{}: resolved to {}", self.intent.target.host, listed(&servers)));
        for (tried, &server) in (1..).zip(&servers) {
            let route = match Route::to(server) {
                Ok(route) => route,
                Err(error) => {
                    self.report.detail(|| format!("{}: {}", server.ip(), plain(&error)));
                    failed = Some((server, error));
                    continue;
                }
            };
            self.report.detail(|| format!("{}: own address {}", server.ip(), route.own));
            let plan = plan(self.intent, &self.learnt, &route);
            let mut exchange = Exchange::new(&route.socket, &self.keys.reply);
            match exchange.send(self.seal(plan.first())?) {
                Ok(()) => {
                    let others = servers.get(tried..).unwrap_or_default();
                    return self.converse(plan, &route, exchange, others, last);
                }
                Err(error) => {
                    self.report.detail(|| format!("{}: {}", server.ip(), plain(&error)));
                    failed = Some((server, error));
                }
            }
        }
        Err(no_way(self.intent, failed))
    }

    fn converse(
        &self,
        mut plan: Plan,
        route: &Route,
        mut exchange: Exchange<'_>,
        others: &[SocketAddr],
        last: &mut Option<Answer>,
    ) -> Result<Knocked, Failure> {
        if self.intent.reply == ReplyWanted::No {
            return Ok(self.sent(route, plan.first()));
        }
        let deadline = clock::steady().saturating_add(self.intent.timeout);
        let (mut until, mut resend) = (deadline, Resend::Yes);
        loop {
            let heard = exchange.hear(until, resend);
            self.report.detail(|| times(&exchange, heard.is_some()));
            let Some(heard) = heard else {
                let claim = plan
                    .again()
                    .ok_or_else(|| refusal::silence(self.intent, route.server, others, self.fingerprint))?;
                exchange
                    .send(self.seal(claim)?)
                    .map_err(|error| no_way(self.intent, Some((route.server, error))))?;
                (until, resend) = (deadline, Resend::Yes);
                continue;
            };
            *last = Some(Answer { own: route.own, reply: heard.reply.clone(), at: heard.at });
            let turn = if heard.knock == 0 { Turn::First } else { Turn::Second };
            match plan.heard(turn, &heard.reply, own_like(route.own, heard.reply.observed)) {
                Next::Report => return self.outcome(&plan, route, &heard),
                Next::Listen => {}
                Next::Linger => {
                    self.report
                        .detail(|| format!("{}: saw us as {}", route.server.ip(), heard.reply.observed));
                    (until, resend) = (clock::steady().saturating_add(LINGER).min(deadline), Resend::No);
                }
                Next::Contradiction(one, other) => return self.contradiction(one, other, route, &heard),
            }
        }
    }

    fn seal(&self, claim: Claim) -> Result<Datagram, Failure> {
        self.report.detail(|| format!("{}: knocking {}", self.intent.server, told(claim)));
        Datagram::seal(&self.intent.knock(claim), &self.keys)
            .map_err(|error| Failure::new(Cause::Network, error.to_string()))
    }

    fn outcome(&self, plan: &Plan, route: &Route, heard: &Heard) -> Result<Knocked, Failure> {
        self.compare_clocks(heard);
        if !heard.reply.status.is_success() {
            return Err(refusal::refused(self.intent, &heard.reply));
        }
        if let Some((own, seen)) = plan.learnt(&heard.reply) {
            let kept = self.learnt.keep(own, seen);
            self.report.detail(|| match kept {
                Ok(()) => format!("{seen}: kept for the next knock"),
                Err(error) => format!("{seen}: not kept: {error}"),
            });
        }
        Ok(self.answered(route, heard))
    }

    /// Somebody copies knocks, and forges the way of the answers too: nothing is believed but a grant, which only
    /// the server can make, and nothing is kept.
    fn contradiction(
        &self,
        one: IpAddr,
        other: IpAddr,
        route: &Route,
        heard: &Heard,
    ) -> Result<Knocked, Failure> {
        let failure = refusal::contradiction(self.intent, one, other);
        if heard.reply.status.is_success() {
            self.report.note(&format!("warning: {failure}"));
            return Ok(self.answered(route, heard));
        }
        Err(failure)
    }

    fn answered(&self, route: &Route, heard: &Heard) -> Knocked {
        let Reply { status, observed, seconds, text, .. } = &heard.reply;
        let whom = match self.intent.source {
            // Whatever address the knock came from.
            Source::Listed(addresses) => named(Claim { policy: AddressPolicy::Listed, addresses }).join(","),
            Source::Auto | Source::Observed | Source::Exact(_) => observed.to_string(),
        };
        let name = status.to_string();
        let mut line = format!("{}: {} {name}", self.intent.server, self.intent.action);
        if *seconds > 0 {
            line.push_str(&format!(
                " to {whom} for {}",
                humantime::format_duration(Duration::from_secs((*seconds).into()))
            ));
            if self.intent.seconds > *seconds {
                line.push_str(", the most that this action gives");
            }
        }
        if !text.as_str().is_empty() {
            line.push_str(&format!(" ({})", text.as_str()));
        }
        let result = if *status == crate::knock::Status::Done { "done" } else { "granted" };
        let success = Success {
            address: Some(whom),
            seconds: Some(*seconds),
            server_time_ms: Some(heard.reply.server_time.as_millis()),
            round_trip_ms: Some(milliseconds(heard.round_trip)),
            ..self.success(result)
        };
        Knocked { server: route.server, success, text: line }
    }

    fn sent(&self, route: &Route, claim: Claim) -> Knocked {
        let text = format!(
            "{}: {} sent to {} port {}, no reply asked for",
            self.intent.server,
            self.intent.action,
            route.server.ip(),
            route.server.port()
        );
        let whom = named(claim).join(",");
        let success = Success { address: Some(whom).filter(|whom| !whom.is_empty()), ..self.success("sent") };
        Knocked { server: route.server, success, text }
    }

    fn success(&self, result: &'static str) -> Success {
        Success {
            result,
            action: self.intent.action.to_string(),
            server: self.intent.server.clone(),
            address: None,
            seconds: None,
            server_time_ms: None,
            round_trip_ms: None,
        }
    }

    fn compare_clocks(&self, heard: &Heard) {
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

/// Where to knock: the system's choice first.
pub(super) fn addresses(intent: &Intent) -> Result<Vec<SocketAddr>, Failure> {
    let claimed = match intent.source {
        Source::Exact(addresses) => Some(addresses),
        Source::Auto | Source::Observed | Source::Listed(_) => None,
    };
    resolve(&intent.target.host, intent.target.port, intent.family, claimed)
}

/// What a knock by this way says about the address.
pub(super) fn plan(intent: &Intent, learnt: &Learnt, route: &Route) -> Plan {
    let learnt = if intent.source == Source::Auto { learnt.recall(route.own) } else { None };
    let facts = Facts { server: route.server.ip(), own: route.own, learnt, reply: intent.reply };
    Plan::new(intent.source, &facts)
}

/// The own outgoing address of the family of `observed`.
fn own_like(own: IpAddr, observed: IpAddr) -> Option<IpAddr> {
    if own.is_ipv4() == observed.is_ipv4() { Some(own) } else { own_towards(observed) }
}

fn no_way(intent: &Intent, failed: Option<(SocketAddr, io::Error)>) -> Failure {
    let host = &intent.target.host;
    match failed {
        Some((server, error)) => {
            let reason = format!("{host}: nothing could be sent to {}: {}", server.ip(), plain(&error));
            let failure = Failure::new(Cause::Network, reason);
            if error.kind() == io::ErrorKind::PermissionDenied {
                return failure.hint(format!(
                    "a firewall of this host forbids it: let UDP to port {} out",
                    server.port()
                ));
            }
            failure
        }
        None => Failure::new(Cause::Network, format!("{host}: no address to knock at")),
    }
}

pub(super) fn listed(servers: &[SocketAddr]) -> String {
    servers.iter().map(|server| server.ip().to_string()).collect::<Vec<_>>().join(", ")
}

fn times(exchange: &Exchange<'_>, answered: bool) -> String {
    let outcome = if answered { "answered" } else { "not answered any more" };
    format!("times sent: {}, {outcome}", exchange.times_sent())
}

/// A claim, for people.
pub(super) fn told(claim: Claim) -> String {
    let addresses = named(claim);
    if addresses.is_empty() {
        claim.policy.to_string()
    } else {
        format!("{} {}", claim.policy, addresses.join(", "))
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
