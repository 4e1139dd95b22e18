//! Reports that packets were dropped.

use std::time::Duration;

use crate::legacy::fwknop::ipc::DropCounts;
use spa_knock_core::knock::Steady;

/// How often dropped packets are logged at most.
const DROPS_EVERY: Duration = Duration::from_secs(60);

/// Dropped packets that are not logged yet.
#[derive(Default)]
pub(super) struct DropLog {
    counts: DropCounts,
    logged: Option<Steady>,
}

impl DropLog {
    /// Logs that packets were dropped, at most once a minute.
    pub(super) fn add(&mut self, counts: DropCounts, now: Steady) {
        self.counts.unverified = self.counts.unverified.saturating_add(counts.unverified);
        self.counts.throttled = self.counts.throttled.saturating_add(counts.throttled);
        let is_due = self.logged.is_none_or(|last| now.since(last) >= DROPS_EVERY);
        if !is_due || self.counts == DropCounts::default() {
            return;
        }
        let DropCounts { unverified, throttled } = std::mem::take(&mut self.counts);
        self.logged = Some(now);
        if unverified > 0 {
            log::warn!("fwknop: flood: {unverified} possible packets were dropped without a check");
        }
        if throttled > 0 {
            log::warn!("fwknop: {throttled} packets were dropped because their keys had sent too many");
        }
    }
}
