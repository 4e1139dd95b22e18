//! What steps 4 and 5 leave, however it came: a knock that only a client can have made, and in time.

use super::opened::FreshDatagram;
use super::proof::ProvenSequence;
use super::replay::{KnockId, ReplayDomain};
use crate::auth::record::Via;
use crate::knock::{Knock, ReplyWanted, Timestamp};
use crate::wire::UnsupportedFormat;

/// A knock whose time is ours. What is in it can be made by the checks alone.
pub(in crate::auth) enum Fresh {
    /// A datagram.
    Opened(FreshDatagram),
    /// A port sequence.
    Touched(ProvenSequence),
}

impl Fresh {
    pub(in crate::auth) const fn id(&self) -> &KnockId {
        match self {
            Self::Opened(datagram) => datagram.id(),
            Self::Touched(sequence) => sequence.id(),
        }
    }

    pub(in crate::auth) const fn timestamp(&self) -> Timestamp {
        match self {
            Self::Opened(datagram) => datagram.body().timestamp(),
            Self::Touched(sequence) => sequence.knock().timestamp,
        }
    }

    pub(in crate::auth) const fn reply(&self) -> ReplyWanted {
        match self {
            Self::Opened(datagram) => datagram.body().reply(),
            Self::Touched(_) => ReplyWanted::No,
        }
    }

    /// What it says.
    pub(in crate::auth) const fn understand(&self) -> Result<&Knock, UnsupportedFormat> {
        match self {
            Self::Opened(datagram) => datagram.body().understand(),
            Self::Touched(sequence) => Ok(sequence.knock()),
        }
    }

    /// Where it is remembered.
    pub(in crate::auth) const fn lane(&self) -> ReplayDomain {
        match self {
            Self::Opened(_) => ReplayDomain::Datagrams,
            Self::Touched(_) => ReplayDomain::Ports,
        }
    }

    /// What the audit log calls its way.
    pub(in crate::auth) const fn via(&self) -> Via {
        match self {
            Self::Opened(_) => Via::Udp,
            Self::Touched(_) => Via::Ports,
        }
    }
}
