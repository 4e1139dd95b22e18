//! How often knocks have ended in which way: a number for each of a closed list of ends, and nothing else.

use std::collections::BTreeMap;

use super::record::AuditEvent;
use super::rejection::Reason;

/// How an authentic knock, or what it led to, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KnockResult {
    /// A port is open.
    Granted,
    /// A command ran, or something was closed.
    Done,
    /// Allowed, but it did not work; nor did what should have undone something.
    Failed,
    /// A command's time was over, and it has been undone.
    Expired,
    /// A grant was ended before its time.
    Revoked,
    /// A copy of a knock that was answered already.
    Resent,
    /// A check said no.
    Refused(Reason),
}

impl KnockResult {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Granted, Self::Done, Self::Failed, Self::Expired, Self::Revoked, Self::Resent]
            .into_iter()
            .chain(Reason::ALL.map(Self::Refused))
    }

    /// What a record is counted as; nothing for those whose reason is counted.
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

    /// The audit log's word for it, and one for what leaves no line there.
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

    /// Why a check said no; empty for the others.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Refused(reason) => reason.as_str(),
            _ => "",
        }
    }
}

/// The numbers, since the start.
#[derive(Debug, Clone, Default)]
pub struct KnockCounters(BTreeMap<KnockResult, u64>);

impl KnockCounters {
    /// One more.
    pub fn count(&mut self, ending: KnockResult) {
        let count = self.0.entry(ending).or_default();
        *count = count.saturating_add(1);
    }

    /// Every end and how often it came, those that never came too.
    pub fn counts(&self) -> impl Iterator<Item = (KnockResult, u64)> {
        KnockResult::all().map(|ending| (ending, self.0.get(&ending).copied().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_end_has_a_name_of_its_own_and_a_number_from_the_start() {
        let names: BTreeSet<_> = KnockResult::all().map(|ending| (ending.event(), ending.reason())).collect();
        assert_eq!(names.len(), KnockResult::all().count());
        let machine = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        assert!(names.iter().all(|(event, reason)| machine(event) && machine(reason)));

        let mut tally = KnockCounters::default();
        assert_eq!(tally.counts().count(), KnockResult::all().count());
        for ending in [KnockResult::Granted, KnockResult::Refused(Reason::Stale), KnockResult::Granted] {
            tally.count(ending);
        }
        let counted: Vec<_> = tally.counts().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(KnockResult::Granted, 2), (KnockResult::Refused(Reason::Stale), 1)]);
    }
}
