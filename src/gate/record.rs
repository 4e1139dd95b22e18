//! What the audit log keeps of a knock, and of the end of what it did.

use std::net::{IpAddr, SocketAddr};

use super::policy::KeyAge;
use super::replay::KnockId;
use crate::knock::{ActionName, ClientName};

/// How a knock ended, or what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A port is open.
    Granted,
    /// A command ran, or something was closed.
    Done,
    /// A check said no.
    Refused,
    /// Allowed, but it did not work; nor did what should have undone something.
    Failed,
    /// Its time was over, or an action ended it before, and a command has undone it.
    Expired,
    /// A grant was ended before its time: by its client, by the admin, or as its client was removed.
    Revoked,
    /// A captured knock came again.
    Replayed,
    /// The knock's time was not ours.
    Stale,
}

impl Event {
    /// The word for it in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
        }
    }
}

/// How a knock came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// As one datagram.
    Udp,
    /// As a port sequence that a key signed.
    Ports,
    /// As a plain sequence.
    Knockd,
}

impl Via {
    /// The word for it in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Ports => "ports",
            Self::Knockd => "knockd",
        }
    }
}

/// One line of the audit log. Nothing in it is secret, and nothing a stranger wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How it ended.
    pub event: Event,
    /// Who knocked.
    pub client: ClientName,
    /// With which of its keys.
    pub key: KeyAge,
    /// For what, once that is understood.
    pub action: Option<ActionName>,
    /// Who is, or would have been, let in.
    pub addresses: Vec<IpAddr>,
    /// Where the knock came from, if it is about one knock.
    pub source: Option<SocketAddr>,
    /// For how many seconds.
    pub seconds: u32,
    /// Why not.
    pub reason: Option<String>,
    /// The knock's id, if it is about one.
    pub knock: Option<KnockId>,
    /// How it came, if that is known.
    pub via: Option<Via>,
}
