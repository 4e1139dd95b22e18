//! What reaches the disk in the background: the renewed lease, the rewritten journal, use counts and pauses. A thread
//! writes them, so that the keeper's loop does not wait for the disk.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{LEASE, LEASE_AHEAD, ReplayState, lease_wanted};
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::state::disk::Disk;
use crate::state::error::StateError;
use crate::state::journal_file::WrittenJournal;
use crate::state::lease::LeaseLimit;
use crate::state::otp_pauses::OtpPauses;
use crate::state::{otp_pauses, uses};
use spa_knock_core::auth::{ReplayMemory, UseCounts};
use spa_knock_core::knock::{Now, Steady, Timestamp};

/// It is renewed when it reaches no further beyond the window than this.
const LEASE_MIN: Duration = Duration::from_secs(30);
/// It is lowered when it reaches so much further than it needs: a clock was ahead and has been set right.
const LEASE_SLACK: Duration = Duration::from_secs(600);
/// Between two tries to renew it.
const LEASE_RETRY: Duration = Duration::from_secs(1);
/// How much sooner, where a knock waits for it.
const LEASE_HASTE: Duration = Duration::from_millis(800);

/// What has ended in the background that a knock may wait for.
#[derive(Debug, Default)]
pub(crate) struct FinishedSyncs {
    /// A lease has been written, or could not be.
    pub(crate) lease: Option<Result<(), String>>,
    /// Use counts have been recorded, or could not be.
    pub(crate) uses: Option<Result<(), String>>,
}

/// What can fail while the others work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatePart {
    Lease,
    Record,
    Rewrite,
    Uses,
    OtpPauses,
}

pub(super) enum Renewal {
    UnderWay,
    /// Nothing is, and nothing will be before `usual`, or before `hasty` where a knock waits for it.
    From {
        usual: Steady,
        hasty: Steady,
    },
}

pub(super) enum SyncJob<F> {
    Lease(Result<Timestamp, FileError>),
    Journal(Result<WrittenJournal<F>, StateError>),
    Names(Result<(), FileError>),
    OtpPauses(Result<(), FileError>),
    Uses(UseCounts, Result<(), StateError>),
}

impl<D: Disk> ReplayState<D> {
    /// Begins to put on record how often clients have acted; [`Self::ended`] reports when the disk knows it. Only then
    /// may they act once more.
    pub(crate) fn begin_uses(&mut self, uses: UseCounts) {
        let disk = self.disk.clone();
        self.worker.ask(move || {
            let recorded = uses::record(&disk, &uses);
            SyncJob::Uses(uses, recorded)
        });
    }

    /// Puts other pauses on record, in the background.
    pub(crate) fn record_otp_pauses(&mut self, pauses: OtpPauses) {
        // An end that moves by the milliseconds in which it was computed is no other.
        let counts = |pauses: &OtpPauses| -> Vec<_> {
            pauses.iter().map(|(name, pause)| (name.clone(), pause.count)).collect()
        };
        if counts(&self.otp_pauses) == counts(&pauses) {
            return;
        }
        let (disk, text) = (self.disk.clone(), otp_pauses::text(&pauses));
        self.otp_pauses = pauses;
        self.worker
            .ask(move || SyncJob::OtpPauses(disk.replace(otp_pauses::PAUSES, text.as_bytes()).map(drop)));
    }

    /// What has ended since the last call.
    pub(crate) fn ended(&mut self) -> FinishedSyncs {
        std::mem::take(&mut self.ended)
    }

    /// Work that no knock should wait for: the lease is renewed in the background, a long journal written again.
    pub(crate) fn run_due(&mut self, memory: &ReplayMemory, now: Now, window: Duration) {
        self.upkept = now.steady;
        for written in self.worker.finished() {
            self.on_synced(written);
        }
        self.renew_lease(memory, now, window);
        if self.journal.is_long() {
            // What is copied here is small; the checksums of all records take longer.
            let rewrite = self.journal.begin_rewrite(self.disk.clone(), memory.clone());
            self.worker.ask(move || SyncJob::Journal(rewrite()));
        }
    }

    /// Waits for all work in the background.
    pub(crate) fn settle(&mut self) {
        for written in self.worker.settle() {
            self.on_synced(written);
        }
    }

    fn renew_lease(&mut self, memory: &ReplayMemory, now: Now, window: Duration) {
        let Renewal::From { usual: from, hasty } = self.renewal else { return };
        let usual = lease_wanted(memory, now.wall, window);
        let is_missed = self.wanted > self.until;
        let wanted = if is_missed { usual.max(self.wanted.plus(LEASE_AHEAD)) } else { usual };
        let short = self.until < now.wall.plus(window).plus(LEASE_MIN);
        let long = self.until > wanted.plus(LEASE_SLACK);
        let from = if is_missed { hasty } else { from };
        if now.steady < from || !(short || long || is_missed) {
            return;
        }
        // From here on a lower one counts: what is above it must wait for the disk.
        self.until = self.until.min(wanted);
        let (disk, text) = (self.disk.clone(), self.lease(wanted, LeaseLimit::Open).to_text());
        self.renewal = Renewal::UnderWay;
        self.worker.ask(move || SyncJob::Lease(disk.replace(LEASE, text.as_bytes()).map(|_| wanted)));
    }

    fn on_synced(&mut self, written: SyncJob<D::File>) {
        let (part, outcome) = match written {
            SyncJob::Lease(outcome) => {
                let retry = if outcome.is_ok() { Duration::ZERO } else { LEASE_RETRY };
                self.renewal = Renewal::From {
                    usual: self.upkept.plus(retry),
                    hasty: self.upkept.plus(retry.saturating_sub(LEASE_HASTE)),
                };
                let outcome = outcome.map(|until| self.until = until).map_err(StateError::from);
                self.wanted = Timestamp::default();
                self.ended.lease = Some(described(&outcome));
                (StatePart::Lease, outcome)
            }
            SyncJob::Journal(written) => {
                let outcome = self.journal.finish_rewrite(&self.disk, written);
                if outcome.is_ok() {
                    let disk = self.disk.clone();
                    self.worker.ask(move || SyncJob::Names(disk.sync_names()));
                }
                (StatePart::Rewrite, outcome)
            }
            SyncJob::Names(outcome) => (StatePart::Rewrite, outcome.map_err(StateError::from)),
            SyncJob::OtpPauses(outcome) => (StatePart::OtpPauses, outcome.map_err(StateError::from)),
            SyncJob::Uses(uses, outcome) => {
                let outcome = outcome.map(|()| self.uses = uses);
                self.ended.uses = Some(described(&outcome));
                (StatePart::Uses, outcome)
            }
        };
        self.warn_once(part, &outcome);
    }

    /// Says once that a part fails, and once that it works again.
    pub(super) fn warn_once(&mut self, part: StatePart, outcome: &Result<(), StateError>) {
        match (outcome, self.failing.contains(&part)) {
            (Ok(()), true) => {
                self.failing.retain(|failing| *failing != part);
                log::info!("replay state: can be written again");
            }
            (Err(error), false) => {
                self.failing.push(part);
                log::error!("{error}; what cannot be put on record is refused");
            }
            _ => {}
        }
    }
}

impl<D: Disk> Polled for ReplayState<D> {
    /// Readable when work in the background has ended.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.push(self.worker.descriptor());
    }

    fn deadline(&self) -> Option<Steady> {
        match self.renewal {
            Renewal::From { hasty, .. } if self.wanted > self.until => Some(hasty),
            _ => None,
        }
    }
}

fn described(outcome: &Result<(), StateError>) -> Result<(), String> {
    outcome.as_ref().map_err(ToString::to_string).copied()
}
