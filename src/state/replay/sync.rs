//! Background writes: the renewed lease, the rewritten journal, use counts and pauses. A thread writes them, so that
//! the keeper's event loop does not wait for the disk.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{LEASE, LEASE_AHEAD, ReplayState, ahead_of, lease_wanted, usual_lease};
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::state::disk::Disk;
use crate::state::error::StateError;
use crate::state::journal_file::WrittenJournal;
use crate::state::lease::{KeyBounds, LeaseLimit};
use crate::state::otp_pauses::OtpPauses;
use crate::state::{otp_pauses, uses};
use spa_knock_core::auth::{ReplayMemory, UseCounts};
use spa_knock_core::knock::{Now, Steady, Timestamp};

/// The lease is renewed when it extends beyond the window by less than this.
const LEASE_MIN: Duration = Duration::from_secs(30);
/// The lease is lowered when it extends this much further than needed, after a clock that was ahead has been corrected.
const LEASE_SLACK: Duration = Duration::from_secs(600);
/// The interval between attempts to renew the lease.
const LEASE_RETRY: Duration = Duration::from_secs(1);
/// How much earlier the next attempt is made if a knock waits for the lease.
const LEASE_URGENCY: Duration = Duration::from_millis(800);

/// Finished background writes for which knocks can wait.
#[derive(Debug, Default)]
pub(crate) struct FinishedSyncs {
    /// The result of writing a lease.
    pub(crate) lease: Option<Result<(), String>>,
    /// The result of writing use counts.
    pub(crate) uses: Option<Result<(), String>>,
}

/// The parts of the state that can fail independently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatePart {
    Lease,
    Record,
    Rewrite,
    Uses,
    OtpPauses,
}

pub(super) enum Renewal {
    InProgress,
    /// No renewal is in progress. The next one starts at `usual` at the earliest, or at `urgent` if a knock waits for
    /// it.
    From {
        usual: Steady,
        urgent: Steady,
    },
}

pub(super) enum SyncJob<F> {
    Lease(Result<(Timestamp, KeyBounds), FileError>),
    Journal(Result<WrittenJournal<F>, StateError>),
    Names(Result<(), FileError>),
    OtpPauses(Result<(), FileError>),
    Uses(UseCounts, Result<(), StateError>),
}

impl<D: Disk> ReplayState<D> {
    /// Starts writing the use counts; [`Self::ended`] reports when they are on disk. The knocks that raised them must
    /// not act before.
    pub(crate) fn begin_uses(&mut self, uses: UseCounts) {
        let disk = self.disk.clone();
        self.worker.submit(move || {
            let recorded = uses::record(&disk, &uses);
            SyncJob::Uses(uses, recorded)
        });
    }

    /// Starts writing the pauses if they have changed.
    pub(crate) fn record_otp_pauses(&mut self, pauses: OtpPauses) {
        // The computed end of a pause can vary by milliseconds, so only the counts are compared.
        let counts = |pauses: &OtpPauses| -> Vec<_> {
            pauses.iter().map(|(name, pause)| (name.clone(), pause.count)).collect()
        };
        if counts(&self.otp_pauses) == counts(&pauses) {
            return;
        }
        let (disk, text) = (self.disk.clone(), otp_pauses::text(&pauses));
        self.otp_pauses = pauses;
        self.worker
            .submit(move || SyncJob::OtpPauses(disk.replace(otp_pauses::PAUSES, text.as_bytes()).map(drop)));
    }

    /// The writes that have finished since the last call.
    pub(crate) fn ended(&mut self) -> FinishedSyncs {
        std::mem::take(&mut self.ended)
    }

    /// Collects finished writes, and starts renewing the lease or rewriting a long journal in the background.
    pub(crate) fn run_due(&mut self, memory: &ReplayMemory, now: Now, window: Duration) {
        self.upkept = now.steady;
        for written in self.worker.finished() {
            self.on_synced(written);
        }
        self.renew_lease(memory, now, window);
        if self.journal.is_long() {
            // Copying the memory is fast; computing the checksums of all records is not, so the thread does it.
            let rewrite = self.journal.begin_rewrite(self.disk.clone(), memory.clone());
            self.worker.submit(move || SyncJob::Journal(rewrite()));
        }
    }

    /// Writes the whole memory, and a lease that covers it. Waits for the disk.
    ///
    /// # Errors
    /// If they are not on disk. The files are then as they were, or newer.
    pub(crate) fn persist(
        &mut self,
        memory: &ReplayMemory,
        now: Now,
        window: Duration,
    ) -> Result<(), StateError> {
        self.settle();
        let written = self.journal.begin_rewrite(self.disk.clone(), memory.clone())();
        self.journal.finish_rewrite(&self.disk, written)?;
        self.disk.sync_names()?;
        let until = self.until.max(lease_wanted(memory, &self.ahead, now.wall, window));
        self.write_lease(until, LeaseLimit::Open)?;
        self.until = until;
        Ok(())
    }

    /// Waits for all background writes.
    pub(crate) fn settle(&mut self) {
        for written in self.worker.settle() {
            self.on_synced(written);
        }
    }

    fn renew_lease(&mut self, memory: &ReplayMemory, now: Now, window: Duration) {
        let Renewal::From { usual: from, urgent } = self.renewal else { return };
        // Also keys whose knocks could not be recorded: the memory knows them.
        let mut ahead = ahead_of(memory, usual_lease(now.wall, window));
        for (key, until) in &self.ahead {
            let bound = ahead.entry(*key).or_default();
            *bound = (*bound).max(*until);
        }
        for (key, wanted) in &self.wanted_ahead {
            let bound = ahead.entry(*key).or_default();
            *bound = (*bound).max(wanted.plus(LEASE_AHEAD));
        }
        let usual = lease_wanted(memory, &ahead, now.wall, window);
        let is_missed = self.wanted > self.until;
        let wanted = if is_missed { usual.max(self.wanted.plus(LEASE_AHEAD)) } else { usual };
        // Bounds that the lease has reached are not needed any more.
        ahead.retain(|_, until| *until > wanted);
        let is_missed = is_missed || !self.wanted_ahead.is_empty();
        let short = self.until < now.wall.plus(window).plus(LEASE_MIN);
        let long = self.until > wanted.plus(LEASE_SLACK);
        let from = if is_missed { urgent } else { from };
        if now.steady < from || !(short || long || is_missed) {
            return;
        }
        // From now on a lower lease applies: knocks beyond it must wait for the disk.
        self.until = self.until.min(wanted);
        let lease = self.lease(wanted, ahead.clone(), LeaseLimit::Open);
        let (disk, text) = (self.disk.clone(), lease.to_text());
        self.renewal = Renewal::InProgress;
        self.worker
            .submit(move || SyncJob::Lease(disk.replace(LEASE, text.as_bytes()).map(|_| (wanted, ahead))));
    }

    fn on_synced(&mut self, written: SyncJob<D::File>) {
        let (part, outcome) = match written {
            SyncJob::Lease(outcome) => {
                let retry = if outcome.is_ok() { Duration::ZERO } else { LEASE_RETRY };
                self.renewal = Renewal::From {
                    usual: self.upkept.plus(retry),
                    urgent: self.upkept.plus(retry.saturating_sub(LEASE_URGENCY)),
                };
                let outcome = outcome.map_err(StateError::from).map(|(until, ahead)| {
                    (self.until, self.ahead) = (until, ahead);
                });
                self.wanted = Timestamp::default();
                // Others may have been requested in the meantime.
                let wanted = std::mem::take(&mut self.wanted_ahead);
                if outcome.is_ok() {
                    self.wanted_ahead =
                        wanted.into_iter().filter(|(key, time)| !self.covers(*key, *time)).collect();
                }
                self.ended.lease = Some(described(&outcome));
                (StatePart::Lease, outcome)
            }
            SyncJob::Journal(written) => {
                let outcome = self.journal.finish_rewrite(&self.disk, written);
                if outcome.is_ok() {
                    let disk = self.disk.clone();
                    self.worker.submit(move || SyncJob::Names(disk.sync_names()));
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

    /// Logs once that a part fails, and once that it works again.
    pub(super) fn warn_once(&mut self, part: StatePart, outcome: &Result<(), StateError>) {
        match (outcome, self.failing.contains(&part)) {
            (Ok(()), true) => {
                self.failing.retain(|failing| *failing != part);
                log::info!("replay state: can be written again");
            }
            (Err(error), false) => {
                self.failing.push(part);
                log::error!("{error}; refusing knocks that cannot be recorded");
            }
            _ => {}
        }
    }
}

impl<D: Disk> Polled for ReplayState<D> {
    /// Readable when a background write has finished.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.push(self.worker.descriptor());
    }

    fn deadline(&self) -> Option<Steady> {
        match self.renewal {
            Renewal::From { urgent, .. } if self.wanted > self.until || !self.wanted_ahead.is_empty() => {
                Some(urgent)
            }
            _ => None,
        }
    }
}

fn described(outcome: &Result<(), StateError>) -> Result<(), String> {
    outcome.as_ref().map_err(ToString::to_string).copied()
}
