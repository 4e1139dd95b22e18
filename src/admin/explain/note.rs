//! What the checks find about one packet: a finding without number, time and addresses. Packets that are not even of a
//! knock's form are explained here; they need no key.

use super::finding::Check;
use crate::capture::Frame;
use crate::packet;
use spa_knock_core::knock::{ActionName, ClientName};
use spa_knock_core::wire::{DATAGRAM_MAX, DATAGRAM_MIN};

/// What is said of a packet.
pub(super) struct Note {
    pub(super) check: Check,
    pub(super) client: Option<ClientName>,
    pub(super) action: Option<ActionName>,
    pub(super) reason: String,
    pub(super) cause: Option<String>,
}

impl Note {
    /// Of a packet that ended at this check.
    pub(super) fn of(check: Check, reason: impl Into<String>) -> Self {
        Self { check, client: None, action: None, reason: reason.into(), cause: None }
    }

    /// The same, of this client.
    pub(super) fn by(self, client: Option<ClientName>) -> Self {
        Self { client, ..self }
    }

    /// The same, with what it is likely to come from.
    pub(super) fn from(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }
}

/// Of a packet that has no whole UDP or TCP header.
pub(super) fn unreadable(frame: &Frame<'_>) -> Note {
    if packet::is_fragment(frame.link, frame.bytes) {
        return Note::of(Check::Fragment, "a fragment of a datagram")
            .from("a network on the way takes no packets of this size, or cuts them; knocks come whole");
    }
    if frame.cut {
        return Note::of(Check::Cut, "the capture has only the beginning of it")
            .from("captured with a short snapshot length: tcpdump -s 0 keeps all");
    }
    Note::of(Check::Other, "neither UDP nor TCP over IP, or broken")
}

/// Of a datagram to our port that is too short or too long for a knock.
pub(super) fn wrong_length(length: usize) -> Note {
    let said =
        Note::of(Check::Length, format!("{length} bytes; knocks have {DATAGRAM_MIN} to {DATAGRAM_MAX}"));
    match length {
        0 => said.from("a port scan, or a step of a port sequence"),
        _ => {
            said.from("no knock: a scan, or a client of another kind (fwknop's packets are of other lengths)")
        }
    }
}
