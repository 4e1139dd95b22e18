//! How often each authentic datagram has been passed on. Duplicates above the maximum are dropped here.

use std::collections::HashMap;

use crate::crypto::Tag;

/// How often one datagram may pass: the client's own resends, and some more in case an attacker sends duplicates first.
const PASSES_MAX: u8 = 16;
/// Only a key holder can add a new tag; this limits the memory that a faulty client can use.
const TAGS_MAX: usize = 1 << 16;

/// The tags of the epochs within the window.
#[derive(Debug, Default)]
pub(in crate::auth) struct DuplicateFilter {
    passed: HashMap<Tag, SeenTag>,
}

#[derive(Debug)]
struct SeenTag {
    epoch: u64,
    passes: u8,
}

impl DuplicateFilter {
    /// Whether no further datagram with this tag may pass. False for a tag that has never passed.
    #[must_use]
    pub(in crate::auth) fn is_exhausted(&self, tag: &Tag) -> bool {
        self.passed.get(tag).is_some_and(|passed| passed.passes >= PASSES_MAX)
    }

    /// Whether a datagram with this tag has passed.
    #[must_use]
    pub(in crate::auth) fn knows(&self, tag: &Tag) -> bool {
        self.passed.contains_key(tag)
    }

    /// Counts one more datagram with this tag, which passes.
    pub(in crate::auth) fn count_passed(&mut self, tag: &Tag, epoch: u64) {
        if let Some(passed) = self.passed.get_mut(tag) {
            passed.passes = passed.passes.saturating_add(1);
            return;
        }
        if self.passed.len() >= TAGS_MAX {
            // Forgetting only costs the keeper a lookup in its replay memory.
            self.passed.clear();
        }
        self.passed.insert(*tag, SeenTag { epoch, passes: 1 });
    }

    /// Forgets the tags whose hint is no longer accepted.
    pub(in crate::auth) fn forget_before(&mut self, epoch: u64) {
        self.passed.retain(|_, passed| passed.epoch >= epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_passes_sixteen_times_until_its_epoch_has_passed() {
        let mut filter = DuplicateFilter::default();
        let passed = |filter: &mut DuplicateFilter| {
            let mut passed = 0;
            while passed < 100 && !filter.is_exhausted(&[7; 32]) {
                filter.count_passed(&[7; 32], 5);
                passed += 1;
            }
            passed
        };
        assert!(!filter.is_exhausted(&[7; 32]));
        assert_eq!(passed(&mut filter), 16);
        assert!(filter.is_exhausted(&[7; 32]));
        filter.forget_before(5);
        assert_eq!(passed(&mut filter), 0);
        assert!(!filter.is_exhausted(&[8; 32]), "another datagram passes");
        filter.forget_before(6);
        assert!(filter.passed.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut filter = DuplicateFilter::default();
        for n in 0..200_000_u32 {
            let mut tag = [0; 32];
            tag[..4].copy_from_slice(&n.to_be_bytes());
            filter.count_passed(&tag, 1);
            assert!(filter.knows(&tag));
            assert!(filter.passed.len() <= TAGS_MAX);
        }
    }
}
