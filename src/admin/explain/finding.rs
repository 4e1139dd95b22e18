//! What was found out about one packet, as a line for people or as one JSON object.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

use crate::os::clock;
use spa_knock_core::auth::{Dropped, Reason};
use spa_knock_core::knock::{ActionName, ClientName, Timestamp};

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Check {
    /// Nobody meant it as a knock.
    Other,
    /// It may be of a port sequence, but no new one is whole with it.
    Touch,
    /// The capture has only a part of it.
    Cut,
    /// Step 1: a part of a datagram.
    Fragment,
    /// Step 1: a knock, to another port.
    Port,
    /// Step 1: not of a knock's length.
    Length,
    /// Step 2: its hint names nobody now.
    Hint,
    /// Step 3: not signed by whom its hint names.
    Signature,
    /// Step 3: the watcher passes on so many copies of one.
    Copies,
    Throttled,
    /// Steps 4 to 8.
    Keeper(Reason),
    /// Step 6: one more of a knock that has just been answered.
    Resent,
    /// None stopped it.
    Passed,
}

/// What was found out about one packet. Nothing in it is secret, and nothing a stranger wrote.
#[derive(Debug)]
pub(super) struct PacketFinding {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) time: Timestamp,
    /// Where it came from and went to, if it says.
    pub(super) way: Option<(SocketAddr, SocketAddr)>,
    pub(super) check: Check,
    /// Whose knock it is, once that is known.
    pub(super) client: Option<ClientName>,
    pub(super) action: Option<ActionName>,
    /// What the check found.
    pub(super) reason: String,
    /// What that is likely to come from.
    pub(super) cause: Option<String>,
}

impl Check {
    /// Its name for machines; it never changes its meaning.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other-traffic",
            Self::Touch => "port-hit",
            Self::Cut => "truncated",
            Self::Fragment => "fragment",
            Self::Port => "other-port",
            Self::Length => "bad-length",
            Self::Hint => "unknown-hint",
            Self::Signature => "forged",
            Self::Copies => "duplicate",
            Self::Throttled => "throttled",
            Self::Keeper(reason) => reason.as_str(),
            Self::Resent => "resent",
            Self::Passed => "passed",
        }
    }

    /// The step of the checks (`docs/protocol.md`) that stopped it; none where none did.
    const fn step(self) -> Option<u8> {
        match self {
            Self::Other | Self::Touch | Self::Cut | Self::Passed => None,
            Self::Fragment | Self::Port | Self::Length => Some(1),
            Self::Hint => Some(2),
            Self::Signature | Self::Copies | Self::Throttled => Some(3),
            Self::Keeper(Reason::UnknownKey | Reason::DecryptionFailed) => Some(4),
            Self::Keeper(Reason::Stale) => Some(5),
            Self::Keeper(Reason::Replayed | Reason::AddressMismatch) | Self::Resent => Some(6),
            Self::Keeper(_) => Some(8),
        }
    }
}

impl From<Dropped> for Check {
    fn from(dropped: Dropped) -> Self {
        match dropped {
            Dropped::Length => Self::Length,
            Dropped::UnknownHint => Self::Hint,
            Dropped::Forged => Self::Signature,
            Dropped::Duplicate => Self::Copies,
            Dropped::Throttled => Self::Throttled,
        }
    }
}

impl PacketFinding {
    /// Whether somebody could have meant it for us.
    pub(super) const fn is_about_knocks(&self) -> bool {
        !matches!(self.check, Check::Other | Check::Touch)
    }

    /// As one line of JSON.
    pub(super) fn to_json(&self) -> String {
        let line = FindingLine {
            packet: self.number,
            time: clock::rfc3339(self.time),
            from: self.way.map(|(from, _)| from),
            to: self.way.map(|(_, to)| to),
            check: self.check.as_str(),
            step: self.check.step(),
            client: self.client.as_ref().map(ClientName::as_str),
            action: self.action.as_ref().map(ActionName::as_str),
            reason: &self.reason,
            cause: self.cause.as_deref(),
        };
        // Nothing in it is of a type that JSON has not.
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    }
}

impl fmt::Display for PacketFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, clock::rfc3339(self.time))?;
        if let Some((from, to)) = self.way {
            write!(f, " {from} > {to}")?;
        }
        for word in
            [self.client.as_ref().map(ClientName::as_str), self.action.as_ref().map(ActionName::as_str)]
        {
            write!(f, "{}{}", if word.is_some() { " " } else { "" }, word.unwrap_or_default())?;
        }
        match self.check.step() {
            Some(step) => write!(f, ": stopped at step {step}, {}: {}", self.check.as_str(), self.reason)?,
            None => write!(f, ": {}: {}", self.check.as_str(), self.reason)?,
        }
        self.cause.iter().try_for_each(|cause| write!(f, "; likely: {cause}"))
    }
}

#[derive(Serialize)]
struct FindingLine<'a> {
    packet: u64,
    time: String,
    from: Option<SocketAddr>,
    to: Option<SocketAddr>,
    check: &'a str,
    step: Option<u8>,
    client: Option<&'a str>,
    action: Option<&'a str>,
    reason: &'a str,
    cause: Option<&'a str>,
}
