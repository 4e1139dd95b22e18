//! A file of one-time sequences. The first unused line is the current sequence; a used line begins with `#`.

use super::grammar::pieces;
use super::number::trim;
use super::sequence::{KnockSequence, SequenceError};

/// The contents of a file of one-time sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneTimeList {
    text: Vec<u8>,
    current: Option<Current>,
    skipped: Vec<SequenceError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Current {
    /// Offset of its line.
    start: usize,
    sequence: KnockSequence,
}

impl OneTimeList {
    /// Parses the text of a file. Skips blank lines, comments and invalid lines.
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

    /// The current sequence. `None` if all are used.
    #[must_use]
    pub fn current(&self) -> Option<&KnockSequence> {
        self.current.as_ref().map(|current| &current.sequence)
    }

    /// The errors of invalid lines before the current sequence.
    #[must_use]
    pub fn skipped(&self) -> &[SequenceError] {
        &self.skipped
    }

    /// The text of the file after the current sequence has been used. As in knockd, the first byte of its line is
    /// replaced by `#`, so the length stays the same. `None` if all sequences are used.
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
    fn the_first_unused_line_is_current_and_becomes_a_comment() {
        for (text, sequence, after) in [
            (" 1,2\n 3,4\n", "1,2", "#1,2\n 3,4\n"),
            ("#1,2\n\n  # x\n 3:udp", "3:udp", "#1,2\n\n  # x\n#3:udp"),
            ("100,2\r\n", "100,2", "#00,2\r\n"),
            // knockd marks the invalid line instead, so the same sequence is accepted again.
            ("70000\n1:x\n 5,6\n", "5,6", "70000\n1:x\n#5,6\n"),
        ] {
            assert_eq!(current(text), KnockSequence::read(sequence.as_bytes()).ok(), "{text:?}");
            assert_eq!(used(text).as_deref(), Some(after));
        }
    }

    #[test]
    fn a_list_without_a_valid_line_is_used_up() {
        for text in ["", "\n", "#1,2\n", "70000\n"] {
            assert_eq!((current(text), used(text)), (None, None), "{text:?}");
        }
        let skipped = OneTimeList::read(b"70000\n1:x\n");
        assert_eq!(skipped.skipped(), [SequenceError::Port("70000".to_owned()), SequenceError::Protocol]);
    }

    #[test]
    fn the_rest_of_a_line_over_4095_bytes_is_marked_at_its_start() {
        let text = format!("#{}1,2\n", "x".repeat(4094));
        assert_eq!(used(&text), Some(format!("#{}#,2\n", "x".repeat(4094))));
    }

    proptest! {
        #[test]
        fn each_use_consumes_one_sequence_until_none_is_left(text in "([ #]?[0-9]{1,5}(,[0-9]{1,4})?\n?){0,12}") {
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
