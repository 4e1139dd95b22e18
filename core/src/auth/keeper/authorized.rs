//! An `Authorized`, the only value that can open anything for an authenticated knock, and what is known of that knock.

use std::net::{IpAddr, SocketAddr};

use super::effects::Effect;
use super::replay::KnockId;
use crate::auth::policy::KeyAge;
use crate::auth::record::{AuditEvent, AuditRecord, Explanation, Via};
use crate::crypto::Fingerprint;
use crate::knock::{ActionName, ClientName, ReplyWanted};

/// A knock that passed every check. Made by the keeper alone.
#[derive(Debug)]
#[must_use]
pub struct Authorized {
    context: KnockContext,
    effects: Vec<Effect>,
}

impl Authorized {
    /// For the keeper alone, once every check has passed.
    pub(super) const fn new(context: KnockContext, effects: Vec<Effect>) -> Self {
        Self { context, effects }
    }

    /// What is to be done, in this order; at least one thing.
    #[must_use]
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// Who ordered it.
    #[must_use]
    pub const fn context(&self) -> &KnockContext {
        &self.context
    }
}

/// Who knocked, from where, with what: enough to answer and to keep the record.
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
}

impl KnockContext {
    /// Who knocked.
    #[must_use]
    pub const fn client(&self) -> &ClientName {
        &self.client
    }

    /// For what, once that is understood.
    #[must_use]
    pub const fn action(&self) -> Option<&ActionName> {
        self.action.as_ref()
    }

    /// The knock, and whose it is.
    #[must_use]
    pub const fn knock(&self) -> (Fingerprint, KnockId) {
        (self.fingerprint, self.id)
    }

    /// Whether the client wants to hear of it.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.reply == ReplyWanted::Yes
    }

    /// With which key.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The record of what came of it.
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
        }
    }
}
