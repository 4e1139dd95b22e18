//! Repeated refusals: the first one of a client for a reason is written immediately, the others as one count per
//! minute. So a client that sends as fast as it can cannot fill the audit log. Bounded by the number of clients times
//! reasons.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use spa_knock_core::auth::{AuditCause, AuditEvent, AuditRecord};
use spa_knock_core::knock::{ClientName, Steady};

/// Time between two counts for the same client and reason.
const INTERVAL: Duration = Duration::from_secs(60);

/// Records of the same kind are counted together.
type RepeatKind = (ClientName, AuditEvent, AuditCause);

/// The refusals of the last minute.
#[derive(Default)]
pub(super) struct Repeats {
    running: BTreeMap<RepeatKind, Count>,
    /// When each of them is due, in chronological order.
    ends: VecDeque<(Steady, RepeatKind)>,
}

/// Events that have not been written yet.
#[derive(Default)]
struct Count {
    events: u64,
    last: Option<AuditRecord>,
}

impl Repeats {
    /// Counts `count` events that this record describes. Returns whether the record must be written now.
    #[must_use]
    pub(super) fn admit(&mut self, record: &AuditRecord, count: u64, now: Steady) -> bool {
        let Some(kind) = kind(record) else { return true };
        if let Some(running) = self.running.get_mut(&kind) {
            running.events = running.events.saturating_add(count);
            running.last = Some(record.clone());
            return false;
        }
        self.running.insert(kind.clone(), Count::default());
        self.ends.push_back((now.plus(INTERVAL), kind));
        true
    }

    /// The counts of the intervals that are over. A kind that did not repeat in its interval is removed.
    pub(super) fn take_due(&mut self, now: Steady) -> Vec<(AuditRecord, u64)> {
        let mut due = Vec::new();
        while let Some((end, kind)) = self.ends.pop_front() {
            if end > now {
                self.ends.push_front((end, kind));
                break;
            }
            let Some(count) = self.running.get_mut(&kind).map(std::mem::take) else { continue };
            match count.last {
                Some(last) => {
                    due.push((last, count.events));
                    self.ends.push_back((now.plus(INTERVAL), kind));
                }
                None => {
                    self.running.remove(&kind);
                }
            }
        }
        due
    }

    /// All counts, before the daemon stops or its clients change.
    pub(super) fn take_all(&mut self) -> Vec<(AuditRecord, u64)> {
        self.ends.clear();
        let running = std::mem::take(&mut self.running).into_values();
        running.filter_map(|count| Some((count.last?, count.events))).collect()
    }

    /// When the first interval is over.
    pub(super) fn deadline(&self) -> Option<Steady> {
        self.ends.front().map(|(end, _)| *end)
    }
}

/// The kind of a record; none for records that always get a line of their own. The number of successes is limited by
/// what the client is allowed to do.
fn kind(record: &AuditRecord) -> Option<RepeatKind> {
    let cause = record.reason.as_ref()?.cause;
    let repeats = match record.event {
        AuditEvent::Refused | AuditEvent::Replayed | AuditEvent::Stale => true,
        AuditEvent::Failed => cause == AuditCause::AuditUnavailable,
        AuditEvent::Granted | AuditEvent::Done | AuditEvent::Expired | AuditEvent::Revoked => false,
    };
    repeats.then(|| (record.client.clone(), record.event, cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spa_knock_core::auth::{Explanation, KeyAge, Reason};

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(seconds: u64) -> Steady {
        Steady::from_duration(Duration::from_secs(seconds))
    }

    fn refused(client: &str, reason: Reason, detail: &str) -> AuditRecord {
        AuditRecord {
            event: reason.event(),
            client: client.parse().unwrap(),
            key: KeyAge::Current,
            action: None,
            addresses: Vec::new(),
            source: None,
            seconds: 0,
            reason: Some(Explanation::new(AuditCause::Rejected(reason), detail)),
            knock: None,
            via: None,
            claim: None,
        }
    }

    #[test]
    fn the_first_refusal_is_written_and_the_others_are_counted_per_minute() {
        let mut repeats = Repeats::default();
        let record = |detail: &str| refused("a", Reason::UnknownAction, detail);
        assert!(repeats.admit(&record("first"), 1, at(0)));
        for _ in 0..10_000 {
            assert!(!repeats.admit(&record("later"), 1, at(59)));
        }
        assert_eq!((repeats.take_due(at(59)), repeats.deadline()), (vec![], Some(at(60))));
        assert_eq!(repeats.take_due(at(60)), [(record("later"), 10_000)]);
        assert!(!repeats.admit(&record("last"), 5, at(70)));
        assert_eq!(repeats.take_due(at(120)), [(record("last"), 5)]);
        assert_eq!(
            (repeats.take_due(at(180)), repeats.deadline()),
            (vec![], None),
            "a minute without refusals ends the count"
        );
        assert!(repeats.admit(&record("first again"), 1, at(181)));
    }

    #[test]
    fn clients_and_reasons_are_counted_separately_and_successes_never() {
        let mut repeats = Repeats::default();
        for client in ["a", "b"] {
            for reason in [Reason::Stale, Reason::RateExceeded] {
                assert!(repeats.admit(&refused(client, reason, ""), 1, at(0)));
                assert!(!repeats.admit(&refused(client, reason, ""), 1, at(1)));
            }
        }
        let granted =
            AuditRecord { event: AuditEvent::Granted, reason: None, ..refused("a", Reason::Stale, "") };
        let failed = AuditRecord { event: AuditEvent::Failed, ..refused("a", Reason::Stale, "") };
        for record in [granted, failed] {
            assert!(repeats.admit(&record, 1, at(1)) && repeats.admit(&record, 1, at(1)));
        }
        assert_eq!(repeats.take_all().len(), 4);
        assert_eq!((repeats.take_all(), repeats.deadline()), (vec![], None));
    }
}
