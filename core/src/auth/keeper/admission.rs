//! Step 6: which fresh datagrams may be recorded. What is refused here has changed nothing, except the number of replies and
//! of failed verifications.

use std::net::IpAddr;

use super::Keeper;
use super::authorized::KnockContext;
use super::fresh::{Fresh, FreshDatagram, VerifiedDatagram};
use super::last_sources::LastSource;
use super::replay::ReplayDomain;
use super::reply_cache::CacheLookup;
use super::verdict::Judgment;
use crate::auth::rejection::Rejection;
use crate::crypto::Fingerprint;
use crate::knock::{AddressPolicy, Now, Timestamp};

impl Keeper {
    /// The address of the last authorized knock of the client with this key, if the client has a public key.
    #[must_use]
    pub fn usual_source(&self, key: Fingerprint) -> Option<IpAddr> {
        let client = self.client(key).filter(|client| client.signer.is_some())?;
        self.verifications.usual_source(&client.name)
    }

    /// Notes the source of an authorized knock of a client with a public key. The replay memory gets each new address, so
    /// that it can be recorded.
    pub(super) fn note_source(&mut self, context: &KnockContext, timestamp: Timestamp) {
        let (key, address) = (context.fingerprint, context.source.ip());
        let has_signed = self.client(key).is_some_and(|client| client.signer.is_some());
        if has_signed && self.verifications.note_authorized(&context.client, address) {
            self.replay.sources_mut().store(key, LastSource { timestamp, address });
        }
    }

    /// Restores the addresses of the last authorized knocks. Of several keys of a client, the one used last counts.
    pub(super) fn restore_sources(&mut self) {
        let clients = self.policy.clients.iter().filter(|client| client.signer.is_some());
        let sources =
            clients.filter_map(|client| Some((self.replay.sources().of(client.fingerprint)?, &client.name)));
        let mut sources: Vec<_> = sources.collect();
        sources.sort_by_key(|(source, _)| source.timestamp);
        for (source, client) in sources {
            self.verifications.note_authorized(client, source.address);
        }
    }

    /// From now on, refuses every knock with a timestamp up to `time`: another server may have accepted it.
    pub fn refuse_until(&mut self, time: Timestamp) {
        self.replay.raise_floors(time);
    }

    /// Step 6a: the judgment of a knock that is not new; `None` for one that passes. Changes nothing but the number of
    /// replies.
    pub(super) fn check_new(
        &mut self,
        fresh: &FreshDatagram,
        context: &KnockContext,
        now: Now,
    ) -> Option<Judgment> {
        match self.replies.lookup((context.fingerprint, *fresh.id()), context.source, now.steady) {
            CacheLookup::Resend(bytes) => return Some(Judgment::Resend(bytes)),
            CacheLookup::Ignore => return Some(Judgment::Ignore),
            CacheLookup::Unknown => {}
        }
        if self
            .replay
            .check(context.fingerprint, ReplayDomain::Datagrams, fresh.timestamp(), fresh.id())
            .is_err()
        {
            return Some(Judgment::Refuse(self.refuse(context, Rejection::Replayed, now)));
        }
        None
    }

    /// Step 6b, for a client of version 2.
    pub(super) fn check_signature(
        &mut self,
        fresh: FreshDatagram,
        client: usize,
        source: IpAddr,
        now: Now,
    ) -> Result<VerifiedDatagram, Rejection> {
        let client = self.policy.clients.get(client).ok_or(Rejection::UnknownKey)?;
        self.verifications.verify(fresh, client, &self.replay, source, now)
    }

    /// Whether a client of version 2 may have another knock recorded now.
    pub(super) fn has_room(&mut self, client: usize, now: Now) -> bool {
        let client = self.policy.clients.get(client);
        client.is_some_and(|client| self.verifications.admit(client, now))
    }

    /// Step 6c: the judgment of an *exact* knock from another address; `None` for one that passes.
    pub(super) fn check_address(
        &mut self,
        fresh: &Fresh,
        context: &KnockContext,
        now: Now,
    ) -> Option<Judgment> {
        let is_mismatch = fresh.understand().is_ok_and(|knock| {
            knock.policy == AddressPolicy::Exact
                && knock.embedded_like(context.source.ip()) != Some(context.source.ip())
        });
        is_mismatch.then(|| Judgment::Refuse(self.refuse(context, Rejection::AddressMismatch, now)))
    }
}
