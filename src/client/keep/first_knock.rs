//! The first knock of `keep`, and the servers that it leads to.

use std::net::SocketAddr;
use std::time::Duration;

use super::outage::Outage;
use super::schedule::{FailureKind, Schedule};
use super::server::KeptServer;
use super::surroundings::OwnAddresses;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::fan_out::FanOut;
use crate::client::fan_out::outcome::ServerOutcome;
use crate::client::knock::request::{ClientRequest, KnockRequest};
use crate::client::knock::{KnockSuccess, addresses};
use crate::client::report::Reporter;
use crate::client::{carry_out, knock_and_wait, wait_for_port};
use crate::config::AddressChoice;
use crate::os::clock;
use spa_knock_core::knock::Steady;

/// What the first knock has led to.
pub(super) struct FirstKnock {
    /// The result as text.
    pub(super) text: String,
    /// For how long the port is open, at the server where that is shortest; zero if nothing is open, none without a reply.
    pub(super) grant: Option<Duration>,
    /// The servers to keep open.
    pub(super) servers: Vec<KeptServer>,
}

/// Whether the failures of the first knock have been printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Printed {
    Yes,
    No,
}

/// Knocks, and waits until the port accepts connections, if requested.
///
/// # Errors
/// If nothing was granted, or the port does not accept connections.
pub(super) fn knock(
    request: ClientRequest,
    every: Option<Duration>,
    printed: Printed,
    report: &Reporter,
) -> Result<FirstKnock, ClientError> {
    let start = clock::steady();
    match request {
        ClientRequest::One(request) => knock_at_one(*request, start, every, report),
        ClientRequest::Several(_) => {
            let (knocked, _) = knock_and_wait(&request, report)?;
            let ClientRequest::Several(several) = request else { return Ok(FirstKnock::none(&knocked)) };
            Ok(FirstKnock::of_several(&several, &knocked, start, every, printed))
        }
    }
}

fn knock_at_one(
    request: KnockRequest,
    start: Steady,
    every: Option<Duration>,
    report: &Reporter,
) -> Result<FirstKnock, ClientError> {
    let known = addresses(&request)?;
    let first = ClientRequest::One(Box::new(request.at(known.clone())));
    let (mut knocked, mut again) = carry_out(&first, report)?;
    // Before the wait, so that a change in the meantime is noticed.
    let mut own = OwnAddresses::toward(&knocked.servers, &known);
    if let Some(open) = wait_for_port(&first, &knocked, again.as_deref_mut(), report)? {
        // Without a reply, only this shows which of several addresses works.
        knocked.servers.retain(|server| server.ip() == open);
        own.watch(&knocked.servers);
    }
    let grant = seconds(&knocked);
    let schedule = Schedule::new(every, start, grant.filter(|grant| !grant.is_zero()));
    let servers = vec![KeptServer::new(request, schedule, own, Outage::default())];
    Ok(FirstKnock { text: knocked.text, grant, servers })
}

impl FirstKnock {
    /// Nothing to keep.
    fn none(knocked: &KnockSuccess) -> Self {
        Self { text: knocked.text.clone(), grant: Some(Duration::ZERO), servers: Vec::new() }
    }

    /// Each server has a schedule of its own, because each has its own grant. One that has not granted yet is knocked at
    /// again, too.
    fn of_several(
        several: &FanOut,
        knocked: &KnockSuccess,
        start: Steady,
        every: Option<Duration>,
        printed: Printed,
    ) -> Self {
        let outcomes = knocked.success.servers.as_deref().unwrap_or_default();
        let mut first = Self::none(knocked);
        let mut grants = Vec::new();
        for outcome in outcomes {
            let Some(request) = request_for(several, outcomes, outcome) else { continue };
            let (schedule, outage) = match outcome.grant() {
                Ok(Some(Duration::ZERO)) if every.is_none() => continue,
                Ok(grant) => {
                    grants.push(grant);
                    let grant = grant.filter(|grant| !grant.is_zero());
                    (Schedule::new(every, start, grant), Outage::default())
                }
                Err((code, reason)) => {
                    let is_refusal = code == ExitCause::Refused.code();
                    let kind = if is_refusal { FailureKind::Refused } else { FailureKind::Unreached };
                    let now = clock::steady();
                    let mut outage = Outage::default();
                    if printed == Printed::No {
                        outage.add(kind, reason.to_owned(), now, start);
                    }
                    (Schedule::after_failure(every, start, kind, now), outage)
                }
            };
            let to: Vec<_> =
                outcome.address().map(|ip| SocketAddr::new(ip, request.target.port)).into_iter().collect();
            let own = OwnAddresses::toward(&to, &to);
            first.servers.push(KeptServer::new(request, schedule, own, outage));
        }
        first.grant = match grants.iter().flatten().min() {
            Some(shortest) => Some(*shortest),
            None if grants.is_empty() => Some(Duration::ZERO),
            None => None,
        };
        first
    }
}

/// The knock at the server, or at the one of its addresses, that an outcome is about; none if no knock is possible.
fn request_for(
    several: &FanOut,
    outcomes: &[ServerOutcome],
    outcome: &ServerOutcome,
) -> Option<KnockRequest> {
    let member = several.members.iter().find(|member| member.name == outcome.server())?;
    let request =
        KnockRequest { addresses: AddressChoice::First, ..(**member.request.as_ref().ok()?).clone() };
    let is_one_of_several = outcomes.iter().filter(|other| other.server() == outcome.server()).count() > 1;
    let Some(address) = outcome.address().filter(|_| is_one_of_several) else { return Some(request) };
    // On a host without IPv6, the server is reached by its other addresses.
    let has_no_route = matches!(outcome.grant(), Err((code, _)) if code == ExitCause::Network.code());
    let at = SocketAddr::new(address, request.target.port);
    (!has_no_route).then(|| request.at(vec![at]))
}

fn seconds(knocked: &KnockSuccess) -> Option<Duration> {
    knocked.success.seconds.map(|seconds| Duration::from_secs(seconds.into()))
}
