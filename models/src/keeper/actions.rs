//! What can happen to a keeper.

use super::disk::{Appended, Journal, Lease, Lost};
use super::process::{Process, Progress, Renewal, Stage};
use super::variant::Variant;
use super::{CLOCK_END, CLOCK_STEP, KNOCKS, Keeper, State, TIMESTAMPS, WINDOW};

/// A step of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// 30 s pass.
    Wait,
    /// The clock is set: forward, or back.
    SetClock(bool),
    /// The daemon is started: it reads the files.
    Start,
    /// The next step of a start or of a clean stop.
    Proceed,
    /// A clean stop begins.
    Stop,
    /// A knock, or a copy of it, arrives.
    Deliver(usize),
    /// A knock that waited for the lease is recorded.
    Record(usize),
    /// A recorded knock acts.
    Act(usize),
    /// A knock that waits for the lease is refused.
    Expire(usize),
    /// The next step of a renewal of the lease.
    Renew,
    /// A rewrite of the journal begins.
    Rewrite,
    /// The rewritten journal gets its name.
    Rewritten,
    /// The name of the rewritten journal is synced.
    SyncNames,
    /// The process is killed.
    Kill,
    /// The process is killed while it appends a record of this knock.
    KillRecording(usize),
    /// The power fails.
    LosePower(Lost),
}

impl State {
    /// The actions that are possible, and some that are not: [`Self::apply`] returns false for them.
    pub(super) fn actions(&self, actions: &mut Vec<Action>, variant: Variant) {
        actions.extend([Action::Wait, Action::SetClock(true), Action::SetClock(false)]);
        actions.extend(Lost::all(&self.disk, variant).into_iter().map(Action::LosePower));
        if self.process.is_none() {
            return actions.push(Action::Start);
        }
        for knock in 0..KNOCKS {
            actions.extend([
                Action::Deliver(knock),
                Action::Record(knock),
                Action::Act(knock),
                Action::Expire(knock),
                Action::KillRecording(knock),
            ]);
        }
        actions.extend([
            Action::Proceed,
            Action::Stop,
            Action::Renew,
            Action::Rewrite,
            Action::Rewritten,
            Action::SyncNames,
            Action::Kill,
        ]);
    }

    /// Changes the state; returns whether the action was possible.
    pub(super) fn apply(&mut self, action: Action, keeper: &Keeper) -> bool {
        let variant = keeper.variant;
        match action {
            Action::Wait => self.set_clock(1),
            Action::SetClock(forward) => {
                spend(&mut self.clock_steps_left)
                    && self.set_clock(if forward { CLOCK_STEP } else { -CLOCK_STEP })
            }
            Action::Start => {
                let is_down = self.process.is_none();
                self.process = Process::start(&self.disk, self.wall, variant);
                is_down && self.process.is_some()
            }
            Action::LosePower(lost) => {
                self.process = None;
                spend(&mut self.losses_left) && self.disk.lose_power(lost, keeper.losses, variant)
            }
            Action::Kill => self.process.take().is_some() && spend(&mut self.kills_left),
            _ => self.run(action, variant),
        }
    }

    fn set_clock(&mut self, by: i8) -> bool {
        self.wall += by;
        (0..=CLOCK_END).contains(&self.wall)
    }

    /// A step of the process.
    fn run(&mut self, action: Action, variant: Variant) -> bool {
        let Some(mut process) = self.process else { return false };
        let is_serving = process.stage == Stage::Serving;
        let is_possible = match action {
            Action::Proceed => return self.proceed(process, variant),
            Action::Renew => self.renew(&mut process, variant),
            Action::Act(knock) => self.act(&mut process, knock, variant),
            Action::SyncNames => {
                let is_due = self.disk.journal.previous.is_some() && process.renewal == Renewal::None;
                self.disk.sync_names();
                is_due && (is_serving || process.stage == Stage::Stopping)
            }
            Action::Rewritten => self.finish_rewrite(&mut process, variant),
            _ if !is_serving => false,
            Action::Stop => {
                process.stage = Stage::Stopping;
                process.knocks.iter().all(|progress| *progress == Progress::Idle)
            }
            Action::Deliver(knock) => {
                let is_fresh = (TIMESTAMPS[knock] - self.wall).abs() <= WINDOW;
                is_fresh && process.memory.accept(knock) && self.receive(&mut process, knock, variant)
            }
            Action::Record(knock) => {
                let is_possible =
                    process.knocks[knock] == Progress::Waiting && TIMESTAMPS[knock] <= process.until;
                is_possible && self.receive(&mut process, knock, variant)
            }
            Action::Expire(knock) => {
                std::mem::replace(&mut process.knocks[knock], Progress::Idle) == Progress::Waiting
            }
            Action::Rewrite => {
                let is_idle = process.rewrite.is_none() && spend(&mut self.rewrites_left);
                process.rewrite = Some((process.memory, [false; KNOCKS]));
                is_idle
            }
            Action::KillRecording(knock) => {
                let is_new = (TIMESTAMPS[knock] - self.wall).abs() <= WINDOW && process.memory.accept(knock);
                let journal = self.disk.journal.current.as_mut();
                let is_possible = is_new && TIMESTAMPS[knock] <= process.until && spend(&mut self.kills_left);
                self.process = None;
                return journal.is_some_and(|journal| {
                    journal.is_torn = true;
                    is_possible
                });
            }
            _ => false,
        };
        self.process = Some(process);
        is_possible
    }

    /// `Daemon::record` in `src/daemon/knocks.rs`: waits for the lease, or records.
    fn receive(&mut self, process: &mut Process, knock: usize, variant: Variant) -> bool {
        if TIMESTAMPS[knock] > process.until && variant != Variant::LeaseNotAwaited {
            process.knocks[knock] = Progress::Waiting;
            return true;
        }
        process.knocks[knock] = Progress::Ready;
        if variant != Variant::ActsBeforeRecord {
            self.append(process, knock);
        }
        true
    }

    /// `JournalFile::append`.
    fn append(&mut self, process: &mut Process, knock: usize) {
        if let Some(journal) = &mut self.disk.journal.current {
            journal.appended[knock] = Appended::Unsynced;
        }
        if let Some((_, since)) = &mut process.rewrite {
            since[knock] = true;
        }
    }

    fn act(&mut self, process: &mut Process, knock: usize, variant: Variant) -> bool {
        match process.knocks[knock] {
            Progress::Ready => {
                self.acts[knock] += 1;
                let records_later = variant == Variant::ActsBeforeRecord;
                process.knocks[knock] = if records_later { Progress::Unrecorded } else { Progress::Idle };
                true
            }
            Progress::Unrecorded => {
                self.append(process, knock);
                process.knocks[knock] = Progress::Idle;
                true
            }
            Progress::Idle | Progress::Waiting => false,
        }
    }

    /// The worker thread in `src/state/replay/sync.rs`, and `ReplayState::on_synced`.
    fn renew(&mut self, process: &mut Process, variant: Variant) -> bool {
        let is_running = [Stage::Serving, Stage::Stopping].contains(&process.stage);
        process.renewal = match process.renewal {
            Renewal::None if process.stage == Stage::Serving => {
                let Some((until, ahead)) = process.renew(self.wall, variant) else { return false };
                let lease = Process { until, ahead, ..*process }.lease(false);
                self.write_lease(lease, variant);
                Renewal::Named(until, ahead)
            }
            Renewal::None => return false,
            Renewal::Named(until, ahead) => {
                self.disk.sync_names();
                Renewal::Synced(until, ahead)
            }
            Renewal::Synced(until, ahead) => {
                (process.until, process.ahead) = (until, ahead);
                Renewal::None
            }
        };
        is_running
    }

    /// `JournalFile::finish_rewrite`.
    fn finish_rewrite(&mut self, process: &mut Process, variant: Variant) -> bool {
        let Some((memory, since)) = process.rewrite.take() else { return false };
        let mut journal = Journal::new(memory);
        for knock in (0..KNOCKS).filter(|knock| since[*knock] && variant != Variant::RewriteForgets) {
            journal.appended[knock] = Appended::Unsynced;
        }
        self.disk.journal.adopt(journal, variant.leaves_unsynced(false));
        true
    }

    /// `ReplayState::initialize` and `ReplayState::close`.
    fn proceed(&mut self, mut process: Process, variant: Variant) -> bool {
        let is_swapped = variant == Variant::LeaseBeforeJournal;
        process.stage = match process.stage {
            Stage::JournalRead => {
                self.write_first(&process, is_swapped, variant);
                Stage::JournalNamed
            }
            Stage::JournalNamed => {
                self.disk.sync_names();
                let skips = variant == Variant::ServesBeforeLease;
                if skips { Stage::Serving } else { Stage::JournalSynced }
            }
            Stage::JournalSynced => {
                self.write_first(&process, !is_swapped, variant);
                Stage::LeaseNamed
            }
            Stage::LeaseNamed => {
                self.disk.sync_names();
                Stage::Serving
            }
            Stage::Stopping if process.renewal == Renewal::None && process.rewrite.is_none() => {
                self.sync_records(variant);
                Stage::RecordsSynced
            }
            Stage::RecordsSynced => {
                self.disk.sync_names();
                Stage::NamesSynced
            }
            Stage::NamesSynced => {
                self.write_lease(process.lease(true), variant);
                Stage::CleanNamed
            }
            Stage::CleanNamed => {
                self.disk.sync_names();
                self.process = None;
                return true;
            }
            Stage::Serving | Stage::Stopping => return false,
        };
        self.process = Some(process);
        true
    }

    fn write_first(&mut self, process: &Process, is_lease: bool, variant: Variant) {
        if !is_lease {
            self.disk.journal.adopt(Journal::new(process.memory), variant.leaves_unsynced(false));
        } else if variant != Variant::CleanMarkKept
            || !self.disk.lease.current.is_some_and(|old| old.is_clean)
        {
            self.write_lease(process.lease(false), variant);
        }
    }

    fn write_lease(&mut self, lease: Lease, variant: Variant) {
        if variant == Variant::LeaseInPlace {
            self.disk.lease.overwrite(lease);
        } else {
            self.disk.lease.adopt(lease, variant.leaves_unsynced(true));
        }
    }

    fn sync_records(&mut self, variant: Variant) {
        if variant == Variant::CleanBeforeSync {
            return;
        }
        if variant == Variant::MarkInsteadOfSync {
            self.disk.journal.current.iter_mut().for_each(|journal| journal.mark = Appended::Unsynced);
            return;
        }
        for appended in self.disk.journal.current.iter_mut().flat_map(|journal| &mut journal.appended) {
            if *appended == Appended::Unsynced {
                *appended = Appended::Synced;
            }
        }
    }
}

fn spend(budget: &mut u8) -> bool {
    let is_possible = *budget > 0;
    *budget = budget.saturating_sub(1);
    is_possible
}
