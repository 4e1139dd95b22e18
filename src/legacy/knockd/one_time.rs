//! A file of one-time sequences: the first line that is still good is the current one; a used line begins with `#`.

use super::grammar::pieces;
use super::number::trim;
use super::sequence::{KnockSequence, SequenceError};

/// What such a file says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneTimeList {
    text: Vec<u8>,
    current: Option<Current>,
    skipped: Vec<SequenceError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Current {
    /// Where its line begins.
    start: usize,
    sequence: KnockSequence,
}

impl OneTimeList {
    /// Reads the text of a file. Blank lines, comments and lines that are no sequence are passed over.
    #[must_use]
    pub fn read(text: &[u8]) -> Self {
        let mut skipped = Vec::new();
        let mut current = None;
        for (start, piece) in pieces(text) {
            let line = trim(piece);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            match KnockSequence::read(line) {
                Ok(sequence) => {
                    current = Some(Current { start, sequence });
                    break;
                }
                Err(error) => skipped.push(error),
            }
        }
        Self { text: text.to_owned(), current, skipped }
    }

    /// The sequence that opens next; nothing when all are used up.
    #[must_use]
    pub fn current(&self) -> Option<&KnockSequence> {
        self.current.as_ref().map(|current| &current.sequence)
    }

    /// What is wrong with the lines before it that are no sequences.
    #[must_use]
    pub fn skipped(&self) -> &[SequenceError] {
        &self.skipped
    }

    /// The file's text once the current sequence has been used: the first byte of its line is a `#`, as knockd writes
    /// it, so that the file keeps its length. Nothing when none is left.
    #[must_use]
    pub fn used(&self) -> Option<Vec<u8>> {
        let start = self.current.as_ref()?.start;
        let mut text = self.text.clone();
        *text.get_mut(start)? = b'#';
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn current(text: &str) -> Option<KnockSequence> {
        OneTimeList::read(text.as_bytes()).current().cloned()
    }

    fn used(text: &str) -> Option<String> {
        OneTimeList::read(text.as_bytes()).used().map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn the_first_line_that_is_still_good_is_the_current_one_and_becomes_a_comment() {
        for (text, sequence, after) in [
            (" 1,2\n 3,4\n", "1,2", "#1,2\n 3,4\n"),
            ("#1,2\n\n  # x\n 3:udp", "3:udp", "#1,2\n\n  # x\n#3:udp"),
            ("100,2\r\n", "100,2", "#00,2\r\n"),
            // knockd marks the line that is no sequence, and the same knock opens again.
            ("70000\n1:x\n 5,6\n", "5,6", "70000\n1:x\n#5,6\n"),
        ] {
            assert_eq!(current(text), KnockSequence::read(sequence.as_bytes()).ok(), "{text:?}");
            assert_eq!(used(text).as_deref(), Some(after));
        }
    }

    #[test]
    fn a_list_without_a_good_line_is_used_up() {
        for text in ["", "\n", "#1,2\n", "70000\n"] {
            assert_eq!((current(text), used(text)), (None, None), "{text:?}");
        }
        let skipped = OneTimeList::read(b"70000\n1:x\n");
        assert_eq!(skipped.skipped(), [SequenceError::Port("70000".to_owned()), SequenceError::Protocol]);
    }

    #[test]
    fn the_rest_of_a_line_over_4095_bytes_is_marked_where_it_begins() {
        let text = format!("#{}1,2\n", "x".repeat(4094));
        assert_eq!(used(&text), Some(format!("#{}#,2\n", "x".repeat(4094))));
    }

    proptest! {
        #[test]
        fn every_use_takes_one_sequence_and_then_there_are_none(text in "([ #]?[0-9]{1,5}(,[0-9]{1,4})?\n?){0,12}") {
            let mut list = OneTimeList::read(text.as_bytes());
            let mut uses = 0;
            while let Some(after) = list.used() {
                prop_assert_eq!(after.len(), text.len());
                uses += 1;
                list = OneTimeList::read(&after);
            }
            prop_assert!(list.current().is_none() && uses <= text.lines().count());
        }
    }
}
