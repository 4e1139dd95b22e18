//! How an input is meant: as it stands, or with its checksums put right. No fuzzer finds a checksum by itself.

use spa_knock_core::crypto::checksum;

/// Bytes of a journal's record.
pub const RECORD: usize = 48;
/// What a journal's header has for an id.
pub const FORMAT: &[u8; 12] = b"spa-knock/1\n";

/// Bytes of a record that its checksum covers; zeros follow.
const CHECKED: usize = 37;
/// Where the checksum stands.
const SUM: usize = 40;

/// How an input is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it stands.
    Raw,
    /// With the checksums, and what cannot be otherwise, put right.
    Sealed,
}

/// The form that the first byte names, and the rest.
#[must_use]
pub fn form(data: &[u8]) -> (Form, &[u8]) {
    match data.split_first() {
        Some((&first, rest)) if first % 2 == 1 => (Form::Sealed, rest),
        Some((_, rest)) => (Form::Raw, rest),
        None => (Form::Raw, data),
    }
}

impl Form {
    /// The bytes as a lease's.
    #[must_use]
    pub fn lease(self, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Raw => body.to_vec(),
            Self::Sealed => {
                let sum: String = checksum(&[body]).iter().map(|byte| format!("{byte:02x}")).collect();
                [body, b"sum ", sum.as_bytes(), b"\n"].concat()
            }
        }
    }

    /// The bytes as a journal's.
    #[must_use]
    pub fn journal(self, bytes: &[u8]) -> Vec<u8> {
        let mut journal = bytes.to_vec();
        if self == Self::Sealed {
            seal(&mut journal);
        }
        journal
    }
}

fn seal(journal: &mut [u8]) {
    let mut number = [0; 8];
    for (place, record) in (0_u64..).zip(journal.chunks_exact_mut(RECORD)) {
        if place == 0 {
            number.copy_from_slice(&record[1..9]);
            record[0] = 1;
            record[9..25].fill(0);
            record[25..CHECKED].copy_from_slice(FORMAT);
        }
        record[CHECKED..SUM].fill(0);
        let sum = checksum(&[&number, &place.to_be_bytes(), &record[..CHECKED]]);
        record[SUM..].copy_from_slice(&sum);
    }
}
