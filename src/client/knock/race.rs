//! Knocks at the addresses of a server one after the other (RFC 8305): at the next one after a short time without a
//! reply. Each address gets a knock of its own. The first grant is the result; a refusal is the result only if no grant
//! follows.

use std::net::SocketAddr;
use std::time::Duration;

use super::attempt::{Attempt, Reaction};
use super::route::Route;
use super::{KnockSuccess, Knocker, LastReply, Unsent, diagnosis, listed, plan};
use crate::client::failure::ClientError;
use crate::os::clock;
use crate::os::files::io_error_text;
use spa_knock_core::knock::{ReplyStatus, Steady};

/// How long one address may stay silent before the client knocks at the next one (RFC 8305, section 5).
const DELAY: Duration = Duration::from_millis(250);
/// The same for a knock with a one-time password: a server that receives the password at two addresses refuses the
/// second knock, and counts a failure.
const DELAY_WITH_OTP: Duration = Duration::from_secs(1);
/// How long to wait for a grant from another address after a refusal.
const GRACE: Duration = Duration::from_millis(500);
/// How long to listen to one of several addresses at a time.
const SLICE: Duration = Duration::from_millis(4);

/// A knock at several addresses.
pub(in crate::client) struct Race<'a> {
    knocker: &'a Knocker<'a>,
    waiting: std::slice::Iter<'a, Route>,
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

impl<'a> Race<'a> {
    /// Prepares knocks by these routes; `unsent` is an address without a route.
    pub(in crate::client) fn new(knocker: &'a Knocker<'a>, routes: &'a [Route], unsent: Unsent) -> Self {
        let now = clock::steady();
        Self {
            knocker,
            waiting: routes.iter(),
            attempts: Vec::new(),
            tried: Vec::new(),
            next: Some(now),
            end: now.plus(knocker.request.timeout),
            refused: None,
            unsent,
        }
    }

    /// Knocks until the outcome is certain or the time is over; passes each reply to `on_reply`.
    pub(in crate::client) fn run(
        mut self,
        on_reply: &mut dyn FnMut(LastReply),
    ) -> Result<KnockSuccess, ClientError> {
        loop {
            let now = clock::steady();
            if self.next.is_some_and(|next| now >= next) {
                self.knock_at_next(now)?;
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
                let server = attempt.route.server;
                let reaction = attempt.listen(
                    until,
                    |claim| knocker.seal(server, claim),
                    |error| knocker.unreachable(Some((server, error))),
                );
                if let Some(outcome) = self.react(at, reaction, on_reply) {
                    return outcome;
                }
                at = at.saturating_add(1);
            }
        }
    }

    /// Knocks at the next address. If nothing can be sent there, the caller tries the one after it.
    fn knock_at_next(&mut self, now: Steady) -> Result<(), ClientError> {
        let Some(route) = self.waiting.next() else {
            self.next = None;
            return Ok(());
        };
        let knocker = self.knocker;
        let server = route.server;
        knocker.report.detail(|| format!("{}: own address {}", server.ip(), route.own));
        let plan = plan(knocker.request, &knocker.learned, route);
        let datagram = knocker.seal(server, plan.first_claim())?;
        match Attempt::start(route, &knocker.keys.reply, plan, datagram) {
            Ok(attempt) => {
                self.attempts.push(attempt);
                self.tried.push(server);
                self.next = Some(now.plus(self.delay()));
            }
            Err(error) => {
                knocker.report.detail(|| format!("{}: {}", server.ip(), io_error_text(&error)));
                self.unsent = Some((server, error));
            }
        }
        Ok(())
    }

    fn delay(&self) -> Duration {
        if self.knocker.request.otp.is_some() { DELAY_WITH_OTP } else { DELAY }
    }

    /// Handles a reaction; returns the outcome of the whole knock if this decides it.
    fn react(
        &mut self,
        at: usize,
        reaction: Result<Reaction, ClientError>,
        on_reply: &mut dyn FnMut(LastReply),
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
            on_reply(LastReply { own: attempt.route.own, reply: received.reply.clone(), at: received.at });
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
                self.next = Some(clock::steady().plus(self.delay()));
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
            self.waiting = [].iter();
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
