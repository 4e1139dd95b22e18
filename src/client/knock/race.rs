//! Knocks at the addresses of a server one after the other (RFC 8305): at the next one after a short time without a
//! reply. Each address gets a knock of its own, unless a person had to confirm its signature. The first grant is the
//! result; a refusal is the result only if no grant follows.

use std::net::SocketAddr;
use std::time::Duration;

use super::attempt::{Attempt, Reaction};
use super::plan::{AddressPlan, Claim};
use super::route::Route;
use super::{KnockSuccess, Knocker, LastReply, Unsent, diagnosis, listed, plans};
use crate::client::failure::ClientError;
use crate::os::clock;
use crate::os::files::io_error_text;
use spa_knock_core::knock::{ReplyStatus, Steady};
use spa_knock_core::wire::Datagram;

/// How long one address may stay silent before the client knocks at the next one (RFC 8305, section 5).
const DELAY: Duration = Duration::from_millis(250);
/// The same for a knock with a one-time password: a server that receives the password at two addresses refuses the
/// second knock, and counts a failure.
const DELAY_WITH_OTP: Duration = Duration::from_secs(1);
/// The same if someone has to touch a device for the next knock, or to confirm it.
const DELAY_WITH_SIGNATURE: Duration = Duration::from_secs(1);
/// How long a signed knock is used for other addresses of the server. Someone who copies it at one address can use it up at
/// another one before the client does, so only the effort of a person justifies this.
const SIGNED_USE: Duration = Duration::from_secs(5);
/// How long to wait for a grant from another address after a refusal.
const GRACE: Duration = Duration::from_millis(500);
/// How long to listen to one of several addresses at a time.
const SLICE: Duration = Duration::from_millis(4);

/// A knock at several addresses.
pub(in crate::client) struct Race<'a> {
    knocker: &'a Knocker<'a>,
    waiting: std::vec::IntoIter<(&'a Route, AddressPlan)>,
    /// The latest knock whose signature a person had to confirm: another address of the server gets the same one if it has
    /// the same claim.
    signed: Option<SignedDatagram>,
    attempts: Vec<Attempt<'a>>,
    /// The addresses that a knock was sent to.
    tried: Vec<SocketAddr>,
    /// When to knock at the next address; none once the server has replied.
    next: Option<Steady>,
    /// Until when to wait for a reply.
    end: Steady,
    refused: Option<ClientError>,
    unsent: Unsent,
}

/// What happens before the outcome.
pub(in crate::client) enum RaceEvent {
    /// A knock was sent to an address for the first time.
    Sent,
    /// A reply has arrived.
    Reply(LastReply),
}

struct SignedDatagram {
    claim: Claim,
    datagram: Datagram,
    at: Steady,
}

impl<'a> Race<'a> {
    /// Prepares knocks by these routes; `unsent` is an address without a route.
    pub(in crate::client) fn new(knocker: &'a Knocker<'a>, routes: &'a [Route], unsent: Unsent) -> Self {
        let now = clock::steady();
        let plans = plans(knocker.request, &knocker.learned, routes);
        Self {
            knocker,
            waiting: routes.iter().zip(plans).collect::<Vec<_>>().into_iter(),
            signed: None,
            attempts: Vec::new(),
            tried: Vec::new(),
            next: Some(now),
            end: now.plus(knocker.request.timeout),
            refused: None,
            unsent,
        }
    }

    /// Knocks until the outcome is certain or the time is over.
    pub(in crate::client) fn run(
        mut self,
        on_event: &mut dyn FnMut(RaceEvent),
    ) -> Result<KnockSuccess, ClientError> {
        loop {
            let now = clock::steady();
            if self.next.is_some_and(|next| now >= next) {
                if let Err(failure) = self.knock_at_next(on_event) {
                    self.give_up_waiting(failure)?;
                }
                continue;
            }
            if now >= self.end || self.attempts.is_empty() {
                return Err(self.fail());
            }
            let until = match self.attempts.len() {
                1 => self.next.map_or(self.end, |next| next.min(self.end)),
                _ => now.plus(SLICE).min(self.end),
            };
            let mut at = 0_usize;
            while let Some(attempt) = self.attempts.get_mut(at) {
                let until = until.max(clock::steady().plus(SLICE)).min(self.end);
                let knocker = self.knocker;
                let (server, own) = (attempt.route.server, attempt.route.own);
                let reaction = attempt.listen(
                    until,
                    |claim, reply| knocker.seal_again(server, own, claim, reply),
                    |error| knocker.unreachable(Some((server, error))),
                );
                if let Some(outcome) = self.react(at, reaction, on_event) {
                    return outcome;
                }
                at = at.saturating_add(1);
            }
        }
    }

    /// Knocks at the next address. If nothing can be sent there, the caller tries the one after it.
    fn knock_at_next(&mut self, on_event: &mut dyn FnMut(RaceEvent)) -> Result<(), ClientError> {
        let Some((route, plan)) = self.waiting.next() else {
            self.next = None;
            return Ok(());
        };
        let knocker = self.knocker;
        let server = route.server;
        knocker.report.detail(|| format!("{}: own address {}", server.ip(), route.own));
        let datagram = self.datagram(server, plan.first_claim())?;
        match Attempt::start(route, &knocker.keys.reply, plan, datagram) {
            Ok(attempt) => {
                self.attempts.push(attempt);
                self.tried.push(server);
                self.next = Some(clock::steady().plus(self.delay()));
                on_event(RaceEvent::Sent);
            }
            Err(error) => {
                knocker.report.detail(|| format!("{}: {}", server.ip(), io_error_text(&error)));
                self.unsent = Some((server, error));
            }
        }
        Ok(())
    }

    /// No knock could be made, for example because no SSH key signed it. Those that have been sent can still succeed.
    fn give_up_waiting(&mut self, failure: ClientError) -> Result<(), ClientError> {
        if self.attempts.is_empty() {
            return Err(failure);
        }
        self.waiting = Vec::new().into_iter();
        self.next = None;
        self.refused = Some(failure);
        Ok(())
    }

    fn datagram(&mut self, server: SocketAddr, claim: Claim) -> Result<Datagram, ClientError> {
        let knocker = self.knocker;
        if knocker.request.signing.is_none() {
            return knocker.seal(server, claim);
        }
        if let Some(signed) = self.signed_for(claim) {
            return Ok(signed.datagram.clone());
        }
        let before = clock::steady();
        let datagram = knocker.seal(server, claim)?;
        let at = clock::steady();
        // The time for the signature is not the server's.
        self.end = self.end.plus(at.since(before));
        if knocker.needs_person() {
            self.signed = Some(SignedDatagram { claim, datagram: datagram.clone(), at });
        }
        Ok(datagram)
    }

    fn signed_for(&self, claim: Claim) -> Option<&SignedDatagram> {
        let is_usable =
            |signed: &&SignedDatagram| signed.claim == claim && clock::steady().since(signed.at) < SIGNED_USE;
        self.signed.as_ref().filter(is_usable)
    }

    /// How long the address that was knocked at last may stay silent.
    fn delay(&self) -> Duration {
        let is_signed = |(_, plan): &(&Route, AddressPlan)| self.signed_for(plan.first_claim()).is_some();
        match self.waiting.as_slice().first() {
            _ if self.knocker.request.otp.is_some() => DELAY_WITH_OTP,
            Some(next) if self.knocker.needs_person() && !is_signed(next) => DELAY_WITH_SIGNATURE,
            _ => DELAY,
        }
    }

    /// Handles a reaction; returns the outcome of the whole knock if this decides it.
    fn react(
        &mut self,
        at: usize,
        reaction: Result<Reaction, ClientError>,
        on_event: &mut dyn FnMut(RaceEvent),
    ) -> Option<Result<KnockSuccess, ClientError>> {
        let knocker = self.knocker;
        let attempt = self.attempts.get_mut(at)?;
        let server = attempt.route.server;
        if let Ok(
            Reaction::Replied(received)
            | Reaction::Outcome(received)
            | Reaction::Contradiction(_, _, received),
        ) = &reaction
        {
            knocker.report.detail(|| attempt.summary(true));
            let (own, reply, at) = (attempt.route.own, received.reply.clone(), received.at);
            on_event(RaceEvent::Reply(LastReply { own, reply, at }));
        }
        match reaction {
            Ok(Reaction::Silence) => None,
            Ok(Reaction::Replied(received)) => {
                knocker.report.detail(|| {
                    format!("{}: the server sees the address {}", server.ip(), received.reply.observed)
                });
                self.next = None;
                None
            }
            Ok(Reaction::KnockedAgain) => {
                let now = clock::steady();
                if knocker.request.signing.is_some() {
                    self.end = now.plus(knocker.request.timeout);
                }
                self.next = Some(now.plus(self.delay()));
                None
            }
            Ok(Reaction::Outcome(received)) if received.reply.status.is_success() => {
                Some(knocker.granted(attempt, received))
            }
            Ok(Reaction::Outcome(received)) => {
                knocker.compare_clocks(&received);
                let failure = diagnosis::refused(knocker.request, &received.reply, &knocker.by(server));
                self.refuse(at, failure, received.reply.status == ReplyStatus::AddressRefused);
                None
            }
            Ok(Reaction::Contradiction(one, other, received)) => {
                Some(knocker.conflicting_replies(one, other, attempt.route, &received))
            }
            Err(failure) => {
                self.refuse(at, failure, true);
                None
            }
        }
    }

    /// Ends an attempt. The remaining addresses are tried only if the route was the reason.
    fn refuse(&mut self, at: usize, failure: ClientError, route_is_the_reason: bool) {
        self.attempts.remove(at);
        if route_is_the_reason {
            self.next = Some(clock::steady());
            self.refused.get_or_insert(failure);
        } else {
            self.waiting = Vec::new().into_iter();
            self.next = None;
            self.refused = Some(failure);
        }
        if self.waiting.as_slice().is_empty() {
            self.end = self.end.min(clock::steady().plus(GRACE));
        }
    }

    fn fail(self) -> ClientError {
        let knocker = self.knocker;
        for attempt in &self.attempts {
            knocker.report.detail(|| attempt.summary(false));
        }
        match self.refused {
            Some(failure) => failure,
            None if self.tried.is_empty() => knocker.unreachable(self.unsent),
            None => {
                let origin = self.tried.first().and_then(|server| knocker.origin(*server));
                let tried = origin.filter(|_| self.tried.len() == 1).unwrap_or_else(|| listed(&self.tried));
                diagnosis::no_reply(knocker.request, &tried, knocker.fingerprint)
            }
        }
    }
}
