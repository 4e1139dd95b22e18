//! The result of the checks for one packet: a finding without number, time and addresses. Explains packets without the
//! form of a knock, which need no key.

use super::finding::Check;
use crate::capture::Frame;
use crate::packet;
use spa_knock_core::knock::{ActionName, ClientName};
use spa_knock_core::wire::{DATAGRAM_MAX, DATAGRAM_MIN};

/// A finding without number, time and addresses.
pub(super) struct Note {
    pub(super) check: Check,
    pub(super) client: Option<ClientName>,
    pub(super) action: Option<ActionName>,
    pub(super) reason: String,
    pub(super) cause: Option<String>,
}

impl Note {
    /// A note on a packet that this check stopped.
    pub(super) fn of(check: Check, reason: impl Into<String>) -> Self {
        Self { check, client: None, action: None, reason: reason.into(), cause: None }
    }

    /// The note with the packet's client.
    pub(super) fn by(self, client: Option<ClientName>) -> Self {
        Self { client, ..self }
    }

    /// The note with the likely cause.
    pub(super) fn from(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }
}

/// The note on a packet without a complete UDP or TCP header.
pub(super) fn unreadable(frame: &Frame<'_>) -> Note {
    if packet::is_fragment(frame.link, frame.bytes) {
        return Note::of(Check::Fragment, "a fragment of a datagram").from(
            "a network on the path fragments or drops packets of this size; knocks must arrive unfragmented",
        );
    }
    if frame.cut {
        return Note::of(Check::Cut, "the capture contains only the beginning of the packet")
            .from("captured with a short snapshot length; tcpdump -s 0 keeps whole packets");
    }
    Note::of(Check::Other, "neither UDP nor TCP over IP, or malformed")
}

/// The note on a datagram to the knock port that is too short or too long for a knock.
pub(super) fn wrong_length(length: usize) -> Note {
    let note =
        Note::of(Check::Length, format!("{length} bytes; knocks have {DATAGRAM_MIN} to {DATAGRAM_MAX}"));
    match length {
        0 => note.from("a port scan, or a hit of a port sequence"),
        _ => note.from("not a knock: a scan, or a different client"),
    }
}
