//! How often each authentic datagram has been passed on: copies of a captured one stop here.

use std::collections::HashMap;

use crate::crypto::Tag;

/// Copies of one datagram that may pass: the client's own resends, and some more for those whose own an
/// attacker sends first.
const COPIES_MAX: u8 = 16;
/// Only who has a key gets a new tag in here; this bounds what a broken client can take.
const TAGS_MAX: usize = 1 << 16;

/// The tags of the epochs that the window reaches.
#[derive(Debug, Default)]
pub(in crate::auth) struct DuplicateFilter {
    passed: HashMap<Tag, SeenTag>,
}

#[derive(Debug)]
struct SeenTag {
    epoch: u64,
    copies: u8,
}

impl DuplicateFilter {
    /// Whether no more copies of what has this tag may pass. Nothing is known of one that has never passed.
    #[must_use]
    pub(in crate::auth) fn is_exhausted(&self, tag: &Tag) -> bool {
        self.passed.get(tag).is_some_and(|passed| passed.copies >= COPIES_MAX)
    }

    /// Whether one with this tag has passed.
    #[must_use]
    pub(in crate::auth) fn knows(&self, tag: &Tag) -> bool {
        self.passed.contains_key(tag)
    }

    /// Whether one more copy may pass.
    #[must_use]
    pub(in crate::auth) fn admit(&mut self, tag: &Tag, epoch: u64) -> bool {
        if let Some(passed) = self.passed.get_mut(tag) {
            let admitted = passed.copies < COPIES_MAX;
            passed.copies = passed.copies.saturating_add(u8::from(admitted));
            return admitted;
        }
        if self.passed.len() >= TAGS_MAX {
            // Forgetting only costs the keeper a look into its replay memory.
            self.passed.clear();
        }
        self.passed.insert(*tag, SeenTag { epoch, copies: 1 });
        true
    }

    /// Forgets the tags whose hint no lookup finds any more.
    pub(in crate::auth) fn forget_before(&mut self, epoch: u64) {
        self.passed.retain(|_, passed| passed.epoch >= epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_copies_of_a_datagram_pass_and_no_more_until_its_epoch_is_over() {
        let mut copies = DuplicateFilter::default();
        let passed = |copies: &mut DuplicateFilter| (0..100).filter(|_| copies.admit(&[7; 32], 5)).count();
        assert!(!copies.is_exhausted(&[7; 32]));
        assert_eq!(passed(&mut copies), 16);
        assert!(copies.is_exhausted(&[7; 32]));
        copies.forget_before(5);
        assert_eq!(passed(&mut copies), 0);
        assert!(copies.admit(&[8; 32], 5), "another datagram passes");
        copies.forget_before(6);
        assert!(copies.passed.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut copies = DuplicateFilter::default();
        for n in 0..200_000_u32 {
            let mut tag = [0; 32];
            tag[..4].copy_from_slice(&n.to_be_bytes());
            assert!(copies.admit(&tag, 1));
            assert!(copies.passed.len() <= TAGS_MAX);
        }
    }
}
