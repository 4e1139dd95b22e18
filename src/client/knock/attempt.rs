//! One address of the server: the knocks that go there, and what the answers to them lead to.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::exchange::{Exchange, ReceivedReply, Resend};
use super::plan::{AddressPlan, Claim, KnockAttempt, NextAttempt};
use super::route::{Route, local_address_toward};
use crate::client::failure::ClientError;
use crate::os::clock;
use spa_knock_core::crypto::SealKey;
use spa_knock_core::knock::Steady;
use spa_knock_core::wire::Datagram;

/// How long other answers to the first knock may take, before the address in the first of them is believed.
const LINGER: Duration = Duration::from_millis(100);

/// Knocks at one address.
pub(in crate::client) struct Attempt<'a> {
    pub(in crate::client) route: &'a Route,
    pub(in crate::client) exchange: Exchange<'a>,
    pub(in crate::client) plan: AddressPlan,
    /// Until when contradictions are listened for, before the second knock.
    linger: Option<Steady>,
}

/// What listening for a while has led to.
pub(in crate::client) enum Reaction {
    /// No new answer.
    Silence,
    /// The server answers here, and a second knock follows unless another answer contradicts.
    Answered(ReceivedReply),
    /// The second knock has been sent.
    KnockedAgain,
    /// The answer that ends this attempt.
    Outcome(ReceivedReply),
    /// Two answers to one knock name different addresses.
    Contradiction(IpAddr, IpAddr, ReceivedReply),
}

impl<'a> Attempt<'a> {
    /// Sends the first knock of `plan`.
    pub(in crate::client) fn start(
        route: &'a Route,
        key: &'a SealKey,
        plan: AddressPlan,
        datagram: Datagram,
    ) -> io::Result<Self> {
        let mut exchange = Exchange::new(&route.socket, key);
        exchange.send(datagram)?;
        Ok(Self { route, exchange, plan, linger: None })
    }

    /// Listens until `until` at most. `seal` makes the datagram of the second knock.
    pub(in crate::client) fn listen(
        &mut self,
        until: Steady,
        seal: impl FnOnce(Claim) -> Result<Datagram, ClientError>,
        unsent: impl FnOnce(io::Error) -> ClientError,
    ) -> Result<Reaction, ClientError> {
        let (until, resend) = match self.linger {
            Some(end) => (end.min(until), Resend::No),
            None => (until, Resend::Yes),
        };
        let Some(heard) = self.exchange.receive(until, resend) else {
            if self.linger.is_none_or(|end| clock::steady() < end) {
                return Ok(Reaction::Silence);
            }
            self.linger = None;
            let Some(claim) = self.plan.retry() else { return Ok(Reaction::Silence) };
            self.exchange.send(seal(claim)?).map_err(unsent)?;
            return Ok(Reaction::KnockedAgain);
        };
        let turn = if heard.knock == 0 { KnockAttempt::First } else { KnockAttempt::Second };
        let own = local_address_for_family(self.route.own, heard.reply.observed);
        Ok(match self.plan.heard(turn, &heard.reply, own) {
            NextAttempt::Report => Reaction::Outcome(heard),
            NextAttempt::Listen => Reaction::Silence,
            NextAttempt::Linger => {
                self.linger = Some(clock::steady().plus(LINGER));
                Reaction::Answered(heard)
            }
            NextAttempt::Contradiction(one, other) => Reaction::Contradiction(one, other, heard),
        })
    }

    /// How often was sent, and with what success.
    pub(in crate::client) fn times(&self, answered: bool) -> String {
        let outcome = if answered { "answered" } else { "not answered" };
        format!("{}: times sent: {}, {outcome}", self.route.server.ip(), self.exchange.times_sent())
    }
}

/// The own outgoing address of the family of `observed`.
fn local_address_for_family(own: IpAddr, observed: IpAddr) -> Option<IpAddr> {
    if own.is_ipv4() == observed.is_ipv4() { Some(own) } else { local_address_toward(observed) }
}
