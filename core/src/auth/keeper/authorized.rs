//! An `Authorized`, the only value that grants anything to an authenticated knock, and the context of the knock.

use std::net::{IpAddr, SocketAddr};

use super::effects::Effect;
use super::replay::{KnockId, ReplayDomain};
use crate::auth::policy::KeyAge;
use crate::auth::record::{AuditEvent, AuditRecord, ClaimNote, Explanation, Via};
use crate::crypto::Fingerprint;
use crate::knock::{ActionName, ClientName, ReplyWanted, Timestamp};

/// A knock that has passed every check. Created only by the keeper.
#[derive(Debug)]
#[must_use]
pub struct Authorized {
    context: KnockContext,
    effects: Vec<Effect>,
}

impl Authorized {
    /// For the keeper only, once every check has passed.
    pub(super) const fn new(context: KnockContext, effects: Vec<Effect>) -> Self {
        Self { context, effects }
    }

    /// The effects, in this order; at least one.
    #[must_use]
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// The context of the knock.
    #[must_use]
    pub const fn context(&self) -> &KnockContext {
        &self.context
    }

    /// Adds what the store of the fleet has decided to the audit record.
    pub const fn with_claim(mut self, claim: ClaimNote) -> Self {
        self.context.claim = Some(claim);
        self
    }
}

/// Who knocked, from where and with what: enough to reply and to write the audit record.
#[derive(Debug, Clone)]
pub struct KnockContext {
    pub(in crate::auth) client: ClientName,
    pub(in crate::auth) key: KeyAge,
    pub(in crate::auth) fingerprint: Fingerprint,
    pub(in crate::auth) id: KnockId,
    pub(in crate::auth) via: Via,
    pub(in crate::auth) source: SocketAddr,
    pub(in crate::auth) reply: ReplyWanted,
    pub(in crate::auth) action: Option<ActionName>,
    pub(in crate::auth) addresses: Vec<IpAddr>,
    pub(in crate::auth) seconds: u32,
    /// The timestamp of the knock, or the start of the time step of a port sequence.
    pub(in crate::auth) timestamp: Timestamp,
    /// Whether the knock asks for its own source address alone, which it names and which is authenticated.
    pub(in crate::auth) is_exact: bool,
    pub(in crate::auth) claim: Option<ClaimNote>,
}

impl KnockContext {
    /// The client that knocked.
    #[must_use]
    pub const fn client(&self) -> &ClientName {
        &self.client
    }

    /// The requested action, once it is known.
    #[must_use]
    pub const fn action(&self) -> Option<&ActionName> {
        self.action.as_ref()
    }

    /// The key and the id of the knock.
    #[must_use]
    pub const fn knock(&self) -> (Fingerprint, KnockId) {
        (self.fingerprint, self.id)
    }

    /// The replay domain and the timestamp of the knock.
    #[must_use]
    pub const fn moment(&self) -> (ReplayDomain, Timestamp) {
        let domain = match self.via {
            Via::Ports => ReplayDomain::Ports,
            Via::Udp | Via::Knockd | Via::Fwknop => ReplayDomain::Datagrams,
        };
        (domain, self.timestamp)
    }

    /// Whether a copy of the knock could open nothing but the address that its client has signed.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// For how many seconds the knock opens something.
    #[must_use]
    pub const fn seconds(&self) -> u32 {
        self.seconds
    }

    /// Whether the client requested a reply.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.reply == ReplyWanted::Yes
    }

    /// The key that was used.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The audit record of an event of this knock.
    #[must_use]
    pub fn record(&self, event: AuditEvent, reason: Option<Explanation>) -> AuditRecord {
        AuditRecord {
            event,
            client: self.client.clone(),
            key: self.key,
            action: self.action.clone(),
            addresses: self.addresses.clone(),
            source: Some(self.source),
            seconds: self.seconds,
            reason,
            knock: Some(self.id),
            via: Some(self.via),
            claim: self.claim,
        }
    }
}
