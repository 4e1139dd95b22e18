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

    /// What it says.
    pub(in crate::auth) const fn understand(&self) -> Result<&Knock, UnsupportedFormat> {
        match self {
            Self::Datagram(datagram) => datagram.body().understand(),
            Self::Ports(sequence) => Ok(sequence.knock()),
        }
    }

    /// Where it is remembered.
    pub(in crate::auth) const fn replay_domain(&self) -> ReplayDomain {
        match self {
            Self::Datagram(_) => ReplayDomain::Datagrams,
            Self::Ports(_) => ReplayDomain::Ports,
        }
    }

    /// What the audit log calls its way.
    pub(in crate::auth) const fn via(&self) -> Via {
        match self {
            Self::Datagram(_) => Via::Udp,
            Self::Ports(_) => Via::Ports,
        }
    }
}
