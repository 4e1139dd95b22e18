//! The two forms of an input: unchanged, or with its checksums corrected, because a fuzzer does not find a checksum by
//! itself.

use spa_knock_core::crypto::checksum;

/// Length of a journal's record in bytes.
pub const RECORD: usize = 48;
/// The id in the header record of a journal.
pub const FORMAT: &[u8; 12] = b"spa-knock/1\n";

/// Number of bytes of a record that its checksum covers; zeros follow.
const CHECKED: usize = 37;
/// Offset of the checksum.
const SUM: usize = 40;

/// How an input is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Unchanged.
    Raw,
    /// With corrected checksums and constant fields.
    Sealed,
}

/// The form that the first byte selects, and the rest.
#[must_use]
pub fn form(data: &[u8]) -> (Form, &[u8]) {
    match data.split_first() {
        Some((&first, rest)) if first % 2 == 1 => (Form::Sealed, rest),
        Some((_, rest)) => (Form::Raw, rest),
        None => (Form::Raw, data),
    }
}

impl Form {
    /// The text of a lease with this body.
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

    /// The bytes of a journal.
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
