//! The finding about one packet, as a line of text or as one JSON object.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

use crate::os::clock;
use spa_knock_core::auth::{Dropped, Reason};
use spa_knock_core::knock::{ActionName, ClientName, Timestamp};

/// The check that stopped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Check {
    /// Not a knock.
    Other,
    /// A port hit that completes no port sequence.
    PortHit,
    /// Incomplete in the capture.
    Cut,
    /// Step 1: a fragment of a datagram.
    Fragment,
    /// Step 1: a knock, to another port.
    Port,
    /// Step 1: not the length of a knock.
    Length,
    /// Step 2: the hint belongs to no client at this time.
    Hint,
    /// Step 3: not signed by the client that the hint belongs to.
    Signature,
    /// Step 3: a duplicate beyond the watcher's limit.
    Copies,
    /// Step 3: over the key's rate limit.
    Throttled,
    /// Steps 4 to 8.
    Keeper(Reason),
    /// Step 6: a resend of a knock that just got its reply.
    Resent,
    /// No check stopped it.
    Passed,
    /// A packet of fwknop that a stanza of `[legacy]` authenticates. The daemon decides about it.
    #[cfg_attr(not(feature = "fwknop"), allow(dead_code, reason = "only packets of fwknop"))]
    Fwknop,
    /// A packet of fwknop that the daemon drops.
    #[cfg_attr(not(feature = "fwknop"), allow(dead_code, reason = "only packets of fwknop"))]
    FwknopDropped,
}

/// The finding about one packet. It contains no secrets and no text from unauthenticated senders.
#[derive(Debug)]
pub(super) struct PacketFinding {
    /// The packet's number, from 1.
    pub(super) number: u64,
    pub(super) time: Timestamp,
    /// Its source and destination, if known.
    pub(super) endpoints: Option<(SocketAddr, SocketAddr)>,
    pub(super) check: Check,
    /// The client that sent it, if known.
    pub(super) client: Option<ClientName>,
    pub(super) action: Option<ActionName>,
    /// The reason that the check found.
    pub(super) reason: String,
    /// The likely cause.
    pub(super) cause: Option<String>,
}

impl Check {
    /// The machine-readable name; its meaning never changes.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other-traffic",
            Self::PortHit => "port-hit",
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
            Self::Fwknop => "fwknop",
            Self::FwknopDropped => "fwknop-dropped",
        }
    }

    /// The processing step (`docs/internals/protocol.md`) that stopped the packet, if one did.
    const fn step(self) -> Option<u8> {
        match self {
            Self::Other | Self::PortHit | Self::Cut | Self::Passed | Self::Fwknop | Self::FwknopDropped => {
                None
            }
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
    /// Whether the packet may have been meant as a knock.
    pub(super) const fn is_about_knocks(&self) -> bool {
        !matches!(self.check, Check::Other | Check::PortHit)
    }

    /// As one line of JSON.
    pub(super) fn to_json(&self) -> String {
        let line = FindingLine {
            packet: self.number,
            time: clock::rfc3339(self.time),
            from: self.endpoints.map(|(from, _)| from),
            to: self.endpoints.map(|(_, to)| to),
            check: self.check.as_str(),
            step: self.check.step(),
            client: self.client.as_ref().map(ClientName::as_str),
            action: self.action.as_ref().map(ActionName::as_str),
            reason: &self.reason,
            cause: self.cause.as_deref(),
        };
        // All field types can be serialized as JSON.
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    }
}

impl fmt::Display for PacketFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, clock::rfc3339(self.time))?;
        if let Some((from, to)) = self.endpoints {
            write!(f, " {from} > {to}")?;
        }
        for name in
            [self.client.as_ref().map(ClientName::as_str), self.action.as_ref().map(ActionName::as_str)]
        {
            write!(f, "{}{}", if name.is_some() { " " } else { "" }, name.unwrap_or_default())?;
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
