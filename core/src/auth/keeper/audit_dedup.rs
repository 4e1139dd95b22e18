//! What stands in the audit log already: a copy that comes again and again is told once.

use std::collections::VecDeque;

use super::replay::KnockKey;
use crate::auth::record::AuditEvent;

/// Enough for the copies of a few attackers at once; beyond it, one is told again.
const TOLD_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(in crate::auth) struct AuditDedup(VecDeque<(KnockKey, AuditEvent)>);

impl AuditDedup {
    /// Whether this is told for the first time.
    #[must_use]
    pub(in crate::auth) fn is_first(&mut self, knock: KnockKey, event: AuditEvent) -> bool {
        if self.0.contains(&(knock, event)) {
            return false;
        }
        if self.0.len() >= TOLD_MAX {
            self.0.pop_front();
        }
        self.0.push_back((knock, event));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Fingerprint;

    #[test]
    fn each_end_of_a_knock_is_told_once_and_the_memory_is_bounded() {
        let mut told = AuditDedup::default();
        let key = Fingerprint::from_bytes([1; 8]);
        assert!(told.is_first((key, [1; 12]), AuditEvent::Stale));
        assert!(!told.is_first((key, [1; 12]), AuditEvent::Stale));
        assert!(told.is_first((key, [1; 12]), AuditEvent::Replayed));
        for n in 0..5_000_u32 {
            let mut id = [9; 12];
            id[..4].copy_from_slice(&n.to_be_bytes());
            assert!(told.is_first((key, id), AuditEvent::Refused));
        }
        assert_eq!(told.0.len(), TOLD_MAX);
    }
}
