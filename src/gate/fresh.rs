//! What steps 4 and 5 leave, however it came: a knock that only a client can have made, and in time.

use super::opened::InTime;
use super::record::Via;
use super::replay::{KnockId, Lane};
use super::touched::Touched;
use crate::knock::{Knock, ReplyWanted, Timestamp};
use crate::wire::NotUnderstood;

/// A knock whose time is ours. What is in it can be made by the checks alone.
pub(super) enum Fresh {
    /// A datagram.
    Opened(InTime),
    /// A port sequence.
    Touched(Touched),
}

impl Fresh {
    pub(super) const fn id(&self) -> &KnockId {
        match self {
            Self::Opened(datagram) => datagram.id(),
            Self::Touched(sequence) => sequence.id(),
        }
    }

    pub(super) const fn timestamp(&self) -> Timestamp {
        match self {
            Self::Opened(datagram) => datagram.body().timestamp(),
            Self::Touched(sequence) => sequence.knock().timestamp,
        }
    }

    pub(super) const fn reply(&self) -> ReplyWanted {
        match self {
            Self::Opened(datagram) => datagram.body().reply(),
            Self::Touched(_) => ReplyWanted::No,
        }
    }

    /// What it says.
    pub(super) const fn understand(&self) -> Result<&Knock, NotUnderstood> {
        match self {
            Self::Opened(datagram) => datagram.body().understand(),
            Self::Touched(sequence) => Ok(sequence.knock()),
        }
    }

    /// Where it is remembered.
    pub(super) const fn lane(&self) -> Lane {
        match self {
            Self::Opened(_) => Lane::Datagrams,
            Self::Touched(_) => Lane::Ports,
        }
    }

    /// What the audit log calls its way.
    pub(super) const fn via(&self) -> Via {
        match self {
            Self::Opened(_) => Via::Udp,
            Self::Touched(_) => Via::Ports,
        }
    }
}
