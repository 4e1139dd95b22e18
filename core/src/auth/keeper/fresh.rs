//! Steps 4 and 5: decrypts the body of a datagram and checks that its timestamp is within the window. A port sequence
//! ([`super::proof`]) leads to the same result.

use std::time::Duration;

use super::proof::ProvenSequence;
use super::replay::{KnockId, ReplayDomain};
use crate::auth::Authentic;
use crate::auth::record::Via;
use crate::crypto::{DecryptionFailed, KeeperKeys};
use crate::knock::{Knock, ReplyWanted, Timestamp};
use crate::wire::{Body, UnsupportedFormat};

/// A signed datagram whose body could be decrypted.
pub(in crate::auth) struct Decrypted {
    id: KnockId,
    body: Body,
}

/// A decrypted datagram whose timestamp is within the window.
pub(in crate::auth) struct FreshDatagram {
    id: KnockId,
    body: Body,
}

impl Decrypted {
    /// Step 4: decrypts the body.
    pub(in crate::auth) fn open(knock: &Authentic<'_>, keys: &KeeperKeys) -> Result<Self, DecryptionFailed> {
        let envelope = knock.envelope();
        Ok(Self { id: *envelope.nonce, body: envelope.open(keys)? })
    }

    pub(in crate::auth) const fn id(&self) -> &KnockId {
        &self.id
    }

    /// Step 5: fresh, or how far the clocks differ and in which direction.
    pub(in crate::auth) fn check_time(self, now: Timestamp, window: Duration) -> Result<Fresh, Skew> {
        let stamped = self.body.timestamp();
        let apart = stamped.distance(now);
        if apart <= window {
            Ok(Fresh::Datagram(FreshDatagram { id: self.id, body: self.body }))
        } else if stamped < now {
            Err(Skew::Behind(apart))
        } else {
            Err(Skew::Ahead(apart))
        }
    }
}

/// The difference between a knock's timestamp and the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    /// The timestamp is older than the window.
    Behind(Duration),
    /// The timestamp is further in the future than the window.
    Ahead(Duration),
}

impl FreshDatagram {
    pub(in crate::auth) const fn id(&self) -> &KnockId {
        &self.id
    }

    pub(in crate::auth) const fn body(&self) -> &Body {
        &self.body
    }
}

/// A fresh knock. Its content can be created only by the checks.
pub(in crate::auth) enum Fresh {
    /// A datagram.
    Datagram(FreshDatagram),
    /// A port sequence.
    Ports(ProvenSequence),
}

impl Fresh {
    pub(in crate::auth) const fn id(&self) -> &KnockId {
        match self {
            Self::Datagram(datagram) => datagram.id(),
            Self::Ports(sequence) => sequence.id(),
        }
    }

    pub(in crate::auth) const fn timestamp(&self) -> Timestamp {
        match self {
            Self::Datagram(datagram) => datagram.body().timestamp(),
            Self::Ports(sequence) => sequence.knock().timestamp,
        }
    }

    pub(in crate::auth) const fn reply(&self) -> ReplyWanted {
        match self {
            Self::Datagram(datagram) => datagram.body().reply(),
            Self::Ports(_) => ReplyWanted::No,
        }
    }

    /// The content of the knock.
    pub(in crate::auth) const fn understand(&self) -> Result<&Knock, UnsupportedFormat> {
        match self {
            Self::Datagram(datagram) => datagram.body().understand(),
            Self::Ports(sequence) => Ok(sequence.knock()),
        }
    }

    /// The replay domain in which the knock is remembered.
    pub(in crate::auth) const fn replay_domain(&self) -> ReplayDomain {
        match self {
            Self::Datagram(_) => ReplayDomain::Datagrams,
            Self::Ports(_) => ReplayDomain::Ports,
        }
    }

    /// How the knock was received, for the audit log.
    pub(in crate::auth) const fn via(&self) -> Via {
        match self {
            Self::Datagram(_) => Via::Udp,
            Self::Ports(_) => Via::Ports,
        }
    }
}
