//! The lease: an upper bound of accepted timestamps, written to disk in advance. After a power loss, when any part of
//! the journal can be missing, knocks up to this timestamp are refused. A key with knocks that are further ahead has a
//! bound of its own, so that it does not lock out the others.

use std::collections::BTreeMap;

use spa_knock_core::crypto::{Fingerprint, checksum_hex};
use spa_knock_core::knock::Timestamp;

/// The content of the lease file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    /// The id of the boot in which it was written.
    pub(super) boot: String,
    /// The highest timestamp that can have been accepted.
    pub(super) until: Timestamp,
    /// The same for keys with knocks beyond it.
    pub(super) ahead: KeyBounds,
    /// How the daemon that wrote it ended.
    pub(super) end: LeaseLimit,
}

/// Keys, each with the highest timestamp of its knocks that can have been accepted.
pub(super) type KeyBounds = BTreeMap<Fingerprint, Timestamp>;

/// How the daemon that wrote a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseLimit {
    /// It is running, or it crashed.
    Open,
    /// It stopped after syncing the complete journal.
    Clean,
}

impl Lease {
    /// The file's text.
    pub(super) fn to_text(&self) -> String {
        let end = match self.end {
            LeaseLimit::Open => "open",
            LeaseLimit::Clean => "clean",
        };
        let ahead = self.ahead.iter().map(|(key, until)| format!("ahead {key} {}\n", until.as_millis()));
        let ahead: String = ahead.collect();
        let (boot, until) = (&self.boot, self.until.as_millis());
        let body = format!("spa-knock lease 1\nboot {boot}\nuntil {until}\n{ahead}end {end}\n");
        let sum = sum(&body);
        format!("{body}sum {sum}\n")
    }

    /// Reads the file; none if any byte has changed.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines().skip(1).peekable();
        let boot = lines.next()?.strip_prefix("boot ")?.to_owned();
        let until = Timestamp::from_millis(lines.next()?.strip_prefix("until ")?.parse().ok()?);
        let mut ahead = KeyBounds::new();
        while let Some(bound) = lines.peek().and_then(|line| line.strip_prefix("ahead ")) {
            let (key, until) = bound.split_once(' ')?;
            ahead.insert(fingerprint(key)?, Timestamp::from_millis(until.parse().ok()?));
            lines.next();
        }
        let end = match lines.next()? {
            "end open" => LeaseLimit::Open,
            "end clean" => LeaseLimit::Clean,
            _ => return None,
        };
        let lease = Self { boot, until, ahead, end };
        (lease.to_text() == text).then_some(lease)
    }
}

/// The key with this fingerprint of 16 hex digits.
fn fingerprint(text: &str) -> Option<Fingerprint> {
    Some(Fingerprint::from_bytes(u64::from_str_radix(text, 16).ok()?.to_be_bytes()))
}

fn sum(body: &str) -> String {
    checksum_hex(&[body.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_as_it_was_written_and_any_change_is_detected() {
        for end in [LeaseLimit::Open, LeaseLimit::Clean] {
            let key =
                |number: u8| (Fingerprint::from_bytes([number; 8]), Timestamp::from_millis(number.into()));
            let lease = Lease {
                boot: "b-1".to_owned(),
                until: Timestamp::from_millis(u64::MAX),
                ahead: KeyBounds::from([key(1), key(255)]),
                end,
            };
            let text = lease.to_text();
            assert_eq!(Lease::read(text.as_bytes()).as_ref(), Some(&lease));
            let plain = Lease { ahead: KeyBounds::new(), ..lease.clone() };
            assert_eq!(Lease::read(plain.to_text().as_bytes()), Some(plain));
            for bit in 0..text.len() * 8 {
                let mut bytes = text.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Lease::read(&bytes), None, "bit {bit}");
                assert_eq!(Lease::read(&text.as_bytes()[..bit / 8]), None, "length {}", bit / 8);
            }
        }
    }
}
