//! Steps 4 and 5 of the ladder: the body opens, and its time is ours.

use std::time::Duration;

use super::fresh::Fresh;
use super::replay::KnockId;
use crate::auth::Authentic;
use crate::crypto::{DecryptionFailed, KeeperKeys};
use crate::knock::Timestamp;
use crate::wire::Body;

/// A signed datagram whose body could be opened.
pub(in crate::auth) struct Decrypted {
    id: KnockId,
    body: Body,
}

/// An opened knock whose timestamp lies within the window.
pub(in crate::auth) struct FreshDatagram {
    id: KnockId,
    body: Body,
}

impl Decrypted {
    /// Step 4.
    pub(in crate::auth) fn open(knock: &Authentic<'_>, keys: &KeeperKeys) -> Result<Self, DecryptionFailed> {
        let envelope = knock.envelope();
        Ok(Self { id: *envelope.nonce, body: envelope.open(keys)? })
    }

    pub(in crate::auth) const fn id(&self) -> &KnockId {
        &self.id
    }

    /// Step 5: fresh, or how far and which way the clocks are apart.
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

/// How far a knock's timestamp is from our clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skew {
    /// It is older than the window.
    Behind(Duration),
    /// It is from further in the future than the window.
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
