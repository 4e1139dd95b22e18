//! What client and servers have agreed on, what the attacker has stolen, and which rule is broken. The checks are those of
//! the code: each names its function.

use super::message::{
    Action, Body, KeyName, KnockMessage, Label, Nonce, ReplyMessage, Sealed, Server, Signature, Tag, Version,
};

/// The setting of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The version of the client's keys: version 2 if it has a public key.
    pub version: Version,
    /// What the attacker has.
    pub stolen: &'static [Stolen],
    /// Whether both servers have the same server id, such as 10.0.0.7 in two networks.
    pub same_ids: bool,
    /// What is wrong.
    pub variant: ProtocolVariant,
}

/// Something that the attacker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stolen {
    /// The keys of A's watcher: the attacker runs code in it.
    WatcherOfA,
    /// The pair secret of the client and A: a copy of A's keys directory, or of the client's key file.
    PairA,
    /// The pair secret of the client and B: the attacker runs B.
    PairB,
    /// The root secret of the client.
    Root,
    /// The use of the client's SSH agent.
    Agent,
}

/// What is wrong with a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolVariant {
    /// Nothing.
    Sound,
    /// The server id is not among what keys are derived from, and the client uses one secret for both servers.
    KeysWithoutServer,
    /// A server does not remember nonces.
    NonceForgotten,
    /// The body is encrypted with the key that the watcher has.
    SealKeyIsSignKey,
    /// A reply is not bound to the nonce of its knock.
    ReplyWithoutNonce,
    /// The nonce is not among what the AEAD authenticates.
    NonceUnsealed,
    /// A server accepts version 1 of a client with a public key.
    Downgrade,
    /// A server accepts a knock whose signature is of something else.
    SignatureUnchecked,
    /// The signature does not cover `k_id`.
    SignatureWithoutKeyId,
    /// The signature does not cover the nonce.
    SignatureWithoutNonce,
    /// The signature does not cover the body.
    SignatureWithoutBody,
    /// A knock is recorded before its signature is verified.
    RecordsBeforeSignature,
}

impl Setting {
    /// A setting in which nothing is wrong and nothing stolen.
    #[must_use]
    pub const fn of(version: Version) -> Self {
        Self { version, stolen: &[], same_ids: false, variant: ProtocolVariant::Sound }
    }

    /// `PairSecret::keys` and `signed_keys`.
    pub(super) fn key(&self, server: Server, version: Version, label: Label) -> KeyName {
        let server = if self.variant == ProtocolVariant::KeysWithoutServer { Server::A } else { server };
        let is_merged = self.variant == ProtocolVariant::SealKeyIsSignKey && label == Label::Seal;
        KeyName { server, version, label: if is_merged { Label::Sign } else { label } }
    }

    /// Whether the attacker has this key.
    #[must_use]
    pub fn knows(&self, key: KeyName) -> bool {
        self.stolen.iter().any(|stolen| match stolen {
            Stolen::WatcherOfA => key.server == Server::A && matches!(key.label, Label::Hint | Label::Sign),
            Stolen::PairA => key.server == Server::A,
            Stolen::PairB => key.server == Server::B,
            Stolen::Root => true,
            Stolen::Agent => false,
        })
    }

    /// `Datagram::seal` and `SignedDraft::seal`.
    pub(super) fn knock(&self, server: Server, nonce: Nonce, body: Body) -> KnockMessage {
        let key = |label| self.key(server, self.version, label);
        let hint = key(Label::Hint);
        let sealed = self.sealed(key(Label::Seal), nonce, hint, body);
        KnockMessage { hint, nonce, sealed, tag: Tag { key: key(Label::Sign), over: (hint, nonce, sealed) } }
    }

    /// What the client's SSH key signs; none in version 1.
    pub(super) fn signature(&self, server: Server, nonce: Nonce, action: Action) -> Option<Signature> {
        let covers = |omitted| self.variant != omitted;
        (self.version == Version::V2).then(|| Signature {
            id: if self.same_ids || server == Server::A { 0 } else { 1 },
            key_id: covers(ProtocolVariant::SignatureWithoutKeyId).then_some((server, Version::V2)),
            // The hint is a MAC under the pair secret, so it binds as much as k_id, but to eight bytes only. M without k_id
            // is M without both.
            hint: self.key(
                if covers(ProtocolVariant::SignatureWithoutKeyId) { server } else { Server::A },
                Version::V2,
                Label::Hint,
            ),
            nonce: covers(ProtocolVariant::SignatureWithoutNonce).then_some(nonce),
            action: covers(ProtocolVariant::SignatureWithoutBody).then_some(action),
        })
    }

    pub(super) fn sealed(&self, key: KeyName, nonce: Nonce, hint: KeyName, body: Body) -> Sealed {
        let nonce = if self.variant == ProtocolVariant::NonceUnsealed { 0 } else { nonce };
        Sealed { key, nonce, hint, body }
    }

    /// Steps 2 to 4, `Watcher::judge` and `Decrypted::open`: the version of a knock that passes them.
    pub(super) fn opens(&self, server: Server, knock: &KnockMessage) -> Option<Version> {
        let versions: &[Version] = match (self.version, self.variant) {
            (Version::V1, _) => &[Version::V1],
            (Version::V2, ProtocolVariant::Downgrade) => &[Version::V1, Version::V2],
            (Version::V2, _) => &[Version::V2],
        };
        versions.iter().copied().find(|version| {
            let key = |label| self.key(server, *version, label);
            let expected = self.sealed(key(Label::Seal), knock.nonce, knock.hint, knock.sealed.body);
            knock.hint == key(Label::Hint)
                && knock.tag == Tag { key: key(Label::Sign), over: (knock.hint, knock.nonce, knock.sealed) }
                && knock.sealed == expected
        })
    }

    /// Step 6b, `SignedBody::verify`.
    pub(super) fn verifies(&self, server: Server, knock: &KnockMessage) -> bool {
        let Some(signature) = knock.sealed.body.signature else { return false };
        self.variant == ProtocolVariant::SignatureUnchecked
            || Some(signature) == self.signature(server, knock.nonce, knock.sealed.body.action)
    }

    /// `seal_reply`.
    pub(super) fn reply(&self, server: Server, nonce: Nonce) -> ReplyMessage {
        let to = if self.variant == ProtocolVariant::ReplyWithoutNonce { 0 } else { nonce };
        ReplyMessage { key: self.key(server, self.version, Label::Reply), to }
    }

    /// `open_reply`, of the client that waits for a reply to this knock to A.
    pub(super) fn believes(&self, reply: &ReplyMessage, nonce: Nonce) -> bool {
        *reply == self.reply(Server::A, nonce)
    }
}
