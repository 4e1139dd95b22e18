//! The state's two files as the targets in `fuzz/` see them.

use super::journal::{self, JournalContent, RECORD};
use super::lease::Lease;
use spa_knock_core::auth::{Acceptance, ReplayMemory};

/// What a journal's bytes amount to; for what each means see the journal's own type.
#[derive(Debug)]
pub enum JournalText {
    /// It is whole.
    Whole(ReplayMemory),
    /// It is whole but for its end.
    Torn(ReplayMemory),
    /// It has nothing but its header.
    Empty,
    /// Some of it is not what was written.
    Damaged,
}

/// Reads a journal, as a start does.
#[must_use]
pub fn read_journal(bytes: &[u8]) -> JournalText {
    match journal::read(bytes) {
        JournalContent::Whole(memory) => JournalText::Whole(memory),
        JournalContent::Torn(memory) => JournalText::Torn(memory),
        JournalContent::Empty => JournalText::Empty,
        JournalContent::Damaged => JournalText::Damaged,
    }
}

/// A whole journal of what `memory` remembers.
#[must_use]
pub fn write_journal(memory: &ReplayMemory, number: [u8; 8]) -> Vec<u8> {
    journal::whole(memory, &number).0
}

/// Puts an acceptance on record as a running daemon does: over the end mark, with another one behind it.
pub fn append_acceptance(journal: &mut Vec<u8>, acceptance: &Acceptance, number: [u8; 8]) {
    journal.truncate(journal.len().saturating_sub(RECORD));
    let end = journal.chunks_exact(RECORD).fold(0, |count: u64, _| count.saturating_add(1));
    journal.extend(journal::appended([*acceptance].iter(), &number, end).0);
}

/// A lease, read and written again.
#[must_use]
pub fn lease_again(bytes: &[u8]) -> Option<String> {
    Lease::read(bytes).map(|lease| lease.to_text())
}
