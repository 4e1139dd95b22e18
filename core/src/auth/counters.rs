//! Counts the results of knocks: one number for each result of a closed list, and nothing else.

use std::collections::BTreeMap;

use super::record::AuditEvent;
use super::rejection::Reason;

/// The result of an authentic knock, or the end of what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KnockResult {
    /// A port is open.
    Granted,
    /// A command ran, or something was closed.
    Done,
    /// The knock was allowed but its action failed, or an undo task failed.
    Failed,
    /// An undo task ran because the action's time had expired or an action ended it earlier.
    Expired,
    /// A grant ended before its scheduled time.
    Revoked,
    /// A resend of a knock that already had a reply; the same reply was sent again.
    Resent,
    /// A check refused the knock.
    Refused(Reason),
}

impl KnockResult {
    /// All results.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Granted, Self::Done, Self::Failed, Self::Expired, Self::Revoked, Self::Resent]
            .into_iter()
            .chain(Reason::ALL.map(Self::Refused))
    }

    /// The result that an audit event counts as; `None` for events whose reason is counted instead.
    #[must_use]
    pub const fn of(event: AuditEvent) -> Option<Self> {
        match event {
            AuditEvent::Granted => Some(Self::Granted),
            AuditEvent::Done => Some(Self::Done),
            AuditEvent::Failed => Some(Self::Failed),
            AuditEvent::Expired => Some(Self::Expired),
            AuditEvent::Revoked => Some(Self::Revoked),
            AuditEvent::Refused | AuditEvent::Replayed | AuditEvent::Stale => None,
        }
    }

    /// The audit log's name for the result, and `resent` for the one that is not logged.
    #[must_use]
    pub const fn event(self) -> &'static str {
        match self {
            Self::Granted => AuditEvent::Granted.as_str(),
            Self::Done => AuditEvent::Done.as_str(),
            Self::Failed => AuditEvent::Failed.as_str(),
            Self::Expired => AuditEvent::Expired.as_str(),
            Self::Revoked => AuditEvent::Revoked.as_str(),
            Self::Resent => "resent",
            Self::Refused(reason) => reason.event().as_str(),
        }
    }

    /// The reason code of a refusal; empty for other results.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Refused(reason) => reason.as_str(),
            _ => "",
        }
    }
}

/// Numbers of knocks by result since the daemon started.
#[derive(Debug, Clone, Default)]
pub struct KnockCounters(BTreeMap<KnockResult, u64>);

impl KnockCounters {
    /// Counts one result.
    pub fn count(&mut self, result: KnockResult) {
        let count = self.0.entry(result).or_default();
        *count = count.saturating_add(1);
    }

    /// Every result with its count, including those with count 0.
    pub fn counts(&self) -> impl Iterator<Item = (KnockResult, u64)> {
        KnockResult::all().map(|result| (result, self.0.get(&result).copied().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_result_has_a_unique_name_and_is_listed_from_the_start() {
        let names: BTreeSet<_> = KnockResult::all().map(|result| (result.event(), result.reason())).collect();
        assert_eq!(names.len(), KnockResult::all().count());
        let is_code = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        assert!(names.iter().all(|(event, reason)| is_code(event) && is_code(reason)));

        let mut tally = KnockCounters::default();
        assert_eq!(tally.counts().count(), KnockResult::all().count());
        for result in [KnockResult::Granted, KnockResult::Refused(Reason::Stale), KnockResult::Granted] {
            tally.count(result);
        }
        let counted: Vec<_> = tally.counts().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(KnockResult::Granted, 2), (KnockResult::Refused(Reason::Stale), 1)]);
    }

    #[test]
    fn an_event_counts_as_the_result_of_its_name_and_a_refusal_by_its_reason_alone() {
        for result in KnockResult::all() {
            let event = [
                AuditEvent::Granted,
                AuditEvent::Done,
                AuditEvent::Failed,
                AuditEvent::Expired,
                AuditEvent::Revoked,
                AuditEvent::Refused,
                AuditEvent::Replayed,
                AuditEvent::Stale,
            ]
            .into_iter()
            .find(|event| event.as_str() == result.event());
            let expected = if result.reason().is_empty() { Some(result) } else { None };
            assert_eq!(event.and_then(KnockResult::of), expected.filter(|_| result != KnockResult::Resent));
        }
    }
}
