//! Suppresses duplicate audit records: a refusal that an attacker can repeat by resending a captured knock is logged
//! only once.

use std::collections::VecDeque;

use super::replay::KnockKey;
use crate::auth::record::AuditEvent;

/// Enough for the resends of several simultaneous attackers. Beyond it, the oldest entry is forgotten and logged again.
const ENTRIES_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(in crate::auth) struct AuditDedup(VecDeque<(KnockKey, AuditEvent)>);

impl AuditDedup {
    /// Whether this event of the knock has not been logged yet. Remembers it.
    #[must_use]
    pub(in crate::auth) fn is_first(&mut self, knock: KnockKey, event: AuditEvent) -> bool {
        if self.0.contains(&(knock, event)) {
            return false;
        }
        if self.0.len() >= ENTRIES_MAX {
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
    fn each_event_of_a_knock_is_first_only_once_and_the_memory_is_bounded() {
        let mut dedup = AuditDedup::default();
        let key = Fingerprint::from_bytes([1; 8]);
        assert!(dedup.is_first((key, [1; 12]), AuditEvent::Stale));
        assert!(!dedup.is_first((key, [1; 12]), AuditEvent::Stale));
        assert!(dedup.is_first((key, [1; 12]), AuditEvent::Replayed));
        for n in 0..5_000_u32 {
            let mut id = [9; 12];
            id[..4].copy_from_slice(&n.to_be_bytes());
            assert!(dedup.is_first((key, id), AuditEvent::Refused));
        }
        assert_eq!(dedup.0.len(), ENTRIES_MAX);
    }
}
