//! Access to the journal and the lease for the targets in `fuzz/`.

use super::journal::{self, JournalContent, JournalRecord, RECORD};
use super::lease::Lease;
use spa_knock_core::auth::{Acceptance, ReplayMemory};

/// The result of reading a journal; mirrors `JournalContent`.
#[derive(Debug)]
pub enum JournalText {
    /// Complete.
    Whole(ReplayMemory),
    /// Complete except for its end.
    Torn(ReplayMemory),
    /// Nothing, or only a header.
    Empty,
    /// Damaged.
    Damaged,
}

/// Reads a journal as the daemon does at startup.
#[must_use]
pub fn read_journal(bytes: &[u8]) -> JournalText {
    match journal::read(bytes) {
        JournalContent::Whole(memory) => JournalText::Whole(memory),
        JournalContent::Torn(memory) => JournalText::Torn(memory),
        JournalContent::Empty => JournalText::Empty,
        JournalContent::Damaged => JournalText::Damaged,
    }
}

/// Writes a complete journal of `memory`.
#[must_use]
pub fn write_journal(memory: &ReplayMemory, number: [u8; 8]) -> Vec<u8> {
    journal::whole(memory, &number).0
}

/// Appends an acceptance as a running daemon does: overwrites the end mark and writes a new one after it.
pub fn append_acceptance(journal: &mut Vec<u8>, acceptance: &Acceptance, number: [u8; 8]) {
    journal.truncate(journal.len().saturating_sub(RECORD));
    let end = journal.chunks_exact(RECORD).fold(0, |count: u64, _| count.saturating_add(1));
    journal.extend(journal::appended([JournalRecord::Accepted(*acceptance)], &number, end).0);
}

/// Reads a lease and formats it again.
#[must_use]
pub fn lease_again(bytes: &[u8]) -> Option<String> {
    Lease::read(bytes).map(|lease| lease.to_text())
}
