//! Knocks at one address of the server, and what follows from the replies.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::exchange::{Exchange, ReceivedReply, Resend, times};
use super::plan::{AddressPlan, Claim, KnockAttempt, NextAttempt};
use super::route::{Route, local_address_toward};
use crate::client::failure::ClientError;
use crate::os::clock;
use spa_knock_core::crypto::ReplyKey;
use spa_knock_core::knock::{Reply, Steady};
use spa_knock_core::wire::Datagram;

/// How long to wait for other replies to the first knock before the address in the first reply is believed.
pub(in crate::client) const LINGER: Duration = Duration::from_millis(100);

/// Knocks at one address.
pub(in crate::client) struct Attempt<'a> {
    pub(in crate::client) route: &'a Route,
    pub(in crate::client) exchange: Exchange<'a>,
    pub(in crate::client) plan: AddressPlan,
    /// Until when to listen for contradictory replies before the second knock.
    linger: Option<Steady>,
    /// The reply that the second knock follows from.
    reported: Option<Reply>,
}

/// The result of listening for some time.
pub(in crate::client) enum Reaction {
    /// No new reply.
    Silence,
    /// The server replied, and a second knock follows unless another reply contradicts the first.
    Replied(ReceivedReply),
    /// The second knock has been sent.
    KnockedAgain,
    /// The reply that ends this attempt.
    Outcome(ReceivedReply),
    /// Two replies to one knock report different addresses.
    Contradiction(IpAddr, IpAddr, ReceivedReply),
}

impl<'a> Attempt<'a> {
    /// Sends the first knock of `plan`.
    pub(in crate::client) fn start(
        route: &'a Route,
        key: &'a ReplyKey,
        plan: AddressPlan,
        datagram: Datagram,
    ) -> io::Result<Self> {
        let mut exchange = Exchange::new(&route.socket, key);
        exchange.send(datagram)?;
        Ok(Self { route, exchange, plan, linger: None, reported: None })
    }

    /// Listens until `until` at most. `seal` creates the datagram of the second knock, which follows from a reply.
    pub(in crate::client) fn listen(
        &mut self,
        until: Steady,
        seal: impl FnOnce(Claim, &Reply) -> Result<Datagram, ClientError>,
        unsent: impl FnOnce(io::Error) -> ClientError,
    ) -> Result<Reaction, ClientError> {
        let (until, resend) = match self.linger {
            Some(end) => (end.min(until), Resend::No),
            None => (until, Resend::Yes),
        };
        let Some(received) = self.exchange.receive(until, resend) else {
            if self.linger.is_none_or(|end| clock::steady() < end) {
                return Ok(Reaction::Silence);
            }
            self.linger = None;
            let (Some(claim), Some(reply)) = (self.plan.retry(), self.reported.take()) else {
                return Ok(Reaction::Silence);
            };
            self.exchange.send(seal(claim, &reply)?).map_err(unsent)?;
            return Ok(Reaction::KnockedAgain);
        };
        let turn = if received.knock == 0 { KnockAttempt::First } else { KnockAttempt::Second };
        let own = local_address_for_family(self.route.own, received.reply.observed);
        Ok(match self.plan.after_reply(turn, &received.reply, own) {
            NextAttempt::Report => Reaction::Outcome(received),
            NextAttempt::Listen => Reaction::Silence,
            NextAttempt::Linger => {
                self.linger = Some(clock::steady().plus(LINGER));
                self.reported = Some(received.reply.clone());
                Reaction::Replied(received)
            }
            NextAttempt::Contradiction(one, other) => Reaction::Contradiction(one, other, received),
        })
    }

    /// How often the latest knock was sent, and whether there was a reply, as text.
    pub(in crate::client) fn summary(&self, replied: bool) -> String {
        let outcome = if replied { "got a reply" } else { "no reply" };
        let times = times(self.exchange.times_sent());
        format!("{}: sent {times}; {outcome}", self.route.server.ip())
    }
}

/// The local outgoing address in the family of `observed`.
fn local_address_for_family(own: IpAddr, observed: IpAddr) -> Option<IpAddr> {
    if own.is_ipv4() == observed.is_ipv4() { Some(own) } else { local_address_toward(observed) }
}
