//! What is still to be undone: a file for each, there before its action begins and renamed before its undoing does,
//! so that every end of the daemon is outlived and nothing is undone twice.

mod adoption;

use std::path::PathBuf;
use std::time::Duration;

use super::undo_file::{BEGUN, FileWork, FileWorkKind, UndoFile};
use crate::os::clock;
use crate::os::files::{self, FileError};
use spa_knock_core::auth::AuditRecord;
use spa_knock_core::knock::{BootTime, ClientName};

pub(crate) use adoption::Leftover;

/// How many may wait to be undone: in all, and for one client, so that no client can keep the others out.
const UNDO_TASKS_MAX: usize = 4096;
const EACH_MAX: usize = 32;
/// Between two tries to begin one when the disk does not take it.
const RETRY: Duration = Duration::from_secs(1);

/// A command that undoes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UndoTask {
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// When it is ended.
    pub(crate) timeout: Duration,
    /// The client's argument, which the command may have in it.
    pub(crate) argument: String,
    /// What the audit log keeps of it.
    pub(crate) record: AuditRecord,
}

/// All that wait, the folder beside them.
pub(crate) struct UndoQueue {
    folder: PathBuf,
    boot: String,
    waiting: Vec<WaitingUndo>,
    /// How many may wait for one client.
    each: usize,
    next: u64,
    /// Said once, until one can begin again.
    failing: bool,
}

struct WaitingUndo {
    number: u64,
    due: BootTime,
    /// When it was due before it was hastened.
    planned: Option<BootTime>,
    task: UndoTask,
    origin: UndoOrigin,
}

/// Why a command is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Its time has come.
    InTime,
    /// Before its time: what it undoes may still be under way.
    Early,
}

/// Who says that a command is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UndoOrigin {
    /// This daemon: an action of its config made it.
    Config,
    /// A file. It is not run until [`UndoQueue::confirm`] finds that the config makes it.
    File,
    /// A file, and the config does not make it. Reported once.
    FileAlone,
    /// This daemon, but its file is being written, or renamed as it is to be run: not now.
    UnderWay,
}

/// One whose action has not begun.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct ScheduledUndo(u64);

/// One that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartedUndo(u64);

/// Why nothing can be undone later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UndoError {
    /// The disk does not take it.
    #[error("undo: {0}")]
    File(#[from] FileError),
    /// As many wait as may.
    #[error("undo: {UNDO_TASKS_MAX} are waiting already")]
    Full,
    /// As many wait as may of one client.
    #[error("undo: {0} of client {1} are waiting already")]
    FullForClient(usize, ClientName),
}

impl UndoQueue {
    /// Without a folder: nothing can be planned.
    #[must_use]
    #[cfg(feature = "legacy")]
    pub(crate) fn nowhere() -> Self {
        let (folder, boot) = (PathBuf::from("/nonexistent"), String::new());
        Self { folder, boot, waiting: Vec::new(), each: EACH_MAX, next: 1, failing: false }
    }

    /// The same, where all of them may be one client's.
    #[must_use]
    #[cfg(feature = "legacy")]
    pub(crate) fn shared(self) -> Self {
        Self { each: UNDO_TASKS_MAX, ..self }
    }

    /// Puts on record that this is to be done in `after`; nothing where it will be done later than that anyway.
    ///
    /// # Errors
    /// When it is not on record. Its action must not begin then.
    #[cfg(any(test, feature = "legacy"))]
    pub(crate) fn plan(
        &mut self,
        task: UndoTask,
        after: Duration,
    ) -> Result<Option<ScheduledUndo>, UndoError> {
        let Some((planned, work)) = self.prepare(task, after)? else { return Ok(None) };
        match work.run() {
            Ok(()) => Ok(Some(planned)),
            Err(error) => {
                self.forget(&planned);
                Err(error.into())
            }
        }
    }

    /// The same, but the work that puts it on record is left to the caller: a thread that may wait for the disk. Where it
    /// fails, the plan must be forgotten.
    ///
    /// # Errors
    /// When no more may wait.
    pub(crate) fn prepare(
        &mut self,
        task: UndoTask,
        after: Duration,
    ) -> Result<Option<(ScheduledUndo, FileWork)>, UndoError> {
        let due = clock::boot().plus(after);
        let does_the_same = |waiting: &WaitingUndo| waiting.task.argv == task.argv && waiting.due >= due;
        if self.waiting.iter().filter(|waiting| waiting.is_run()).any(does_the_same) {
            return Ok(None);
        }
        let client = &task.record.client;
        let of_client = |waiting: &&WaitingUndo| waiting.task.record.client == *client;
        if self.waiting.iter().filter(of_client).count() >= self.each {
            return Err(UndoError::FullForClient(self.each, client.clone()));
        }
        if self.waiting.len() >= UNDO_TASKS_MAX {
            return Err(UndoError::Full);
        }
        let number = self.next;
        self.next = number.saturating_add(1);
        let text = UndoFile::of(&task, &self.boot, due, after).to_text();
        self.waiting.push(WaitingUndo { number, due, task, planned: None, origin: UndoOrigin::UnderWay });
        Ok(Some((
            ScheduledUndo(number),
            FileWork { folder: self.folder.clone(), number, kind: FileWorkKind::Write(text) },
        )))
    }

    /// The action has begun: this will be done, and what was to be done sooner is not.
    pub(crate) fn schedule(&mut self, ScheduledUndo(number): ScheduledUndo) {
        let Some(kept) = self.waiting.iter().find(|waiting| waiting.number == number) else { return };
        let due = kept.due;
        let does_the_same = |waiting: &WaitingUndo| waiting.task.argv == kept.task.argv && waiting.due >= due;
        if self.waiting.iter().filter(|waiting| waiting.is_run()).any(does_the_same) {
            // That was planned at the same time.
            return self.forget(&ScheduledUndo(number));
        }
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.number == number) {
            waiting.origin = UndoOrigin::Config;
        }
        if let Err(error) = self.drop_shorter(number, due) {
            log::error!("undo: {error}");
        }
    }

    /// The action has not begun, and there is nothing to undo.
    pub(crate) fn forget(&mut self, planned: &ScheduledUndo) {
        self.waiting.retain(|waiting| waiting.number != planned.0);
        match files::remove(&self.file(planned.0)) {
            Err(error) if !error.missing => log::error!("undo: {error}"),
            _ => {}
        }
    }

    /// What undoes these is due now.
    pub(crate) fn run_now(&mut self, which: impl Fn(&AuditRecord) -> bool) {
        let now = clock::boot();
        for waiting in self.waiting.iter_mut().filter(|waiting| which(&waiting.task.record)) {
            if waiting.due > now {
                waiting.planned = Some(waiting.due);
                waiting.due = now;
            }
        }
    }

    /// These will not be done; whether there were any.
    #[cfg(feature = "legacy")]
    pub(crate) fn cancel(&mut self, which: impl Fn(&UndoTask) -> bool) -> bool {
        let withdrawn: Vec<_> = self.waiting.extract_if(.., |waiting| which(&waiting.task)).collect();
        for waiting in &withdrawn {
            if let Err(error) = files::remove(&self.file(waiting.number)) {
                log::error!("undo: {error}");
            }
        }
        !withdrawn.is_empty()
    }

    /// All that wait.
    #[cfg(feature = "legacy")]
    pub(crate) fn all(&self) -> impl Iterator<Item = &UndoTask> {
        self.waiting.iter().map(|waiting| &waiting.task)
    }

    /// In what time the first of these is due.
    #[cfg(feature = "legacy")]
    pub(crate) fn due_of(&self, which: impl Fn(&UndoTask) -> bool) -> Option<Duration> {
        let due =
            self.waiting.iter().filter(|waiting| which(&waiting.task)).map(|waiting| waiting.due).min()?;
        Some(due.since(clock::boot()))
    }

    /// How many wait for their time.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// In what time the next one is due of those that `may` be run now.
    pub(crate) fn next_due(&self, may: impl Fn(&UndoTask, Due) -> bool) -> Option<Duration> {
        let now = clock::boot();
        let runs = self.waiting.iter().filter(|waiting| waiting.is_run());
        let runs = runs.filter(|waiting| waiting.due > now || may(&waiting.task, waiting.why(now)));
        let left = runs.map(|waiting| waiting.due).min()?.since(now);
        Some(if self.failing { left.max(RETRY) } else { left })
    }

    /// Takes one that is due and that `may` be run now. It counts as done from here on, whatever comes.
    #[cfg(any(test, feature = "legacy"))]
    pub(crate) fn start_due(
        &mut self,
        may: impl Fn(&UndoTask, Due) -> bool,
    ) -> Option<(StartedUndo, UndoTask)> {
        let work = self.prepare_to_begin(may)?;
        let number = work.number;
        let outcome = work.run();
        self.begun(number, outcome)
    }

    /// The work that must be done before one is run that is due and that `may` be run now, for a thread that may wait for
    /// the disk.
    pub(crate) fn prepare_to_begin(&mut self, may: impl Fn(&UndoTask, Due) -> bool) -> Option<FileWork> {
        let now = clock::boot();
        let runs = |waiting: &&mut WaitingUndo| {
            waiting.due <= now && waiting.is_run() && may(&waiting.task, waiting.why(now))
        };
        let waiting = self.waiting.iter_mut().find(runs)?;
        waiting.origin = UndoOrigin::UnderWay;
        Some(FileWork { folder: self.folder.clone(), number: waiting.number, kind: FileWorkKind::Begin })
    }

    /// That work has ended: what is to be run. It counts as done from here on, whatever comes.
    pub(crate) fn begun(
        &mut self,
        number: u64,
        outcome: Result<(), FileError>,
    ) -> Option<(StartedUndo, UndoTask)> {
        let place = self.waiting.iter().position(|waiting| waiting.number == number)?;
        if let Err(error) = outcome {
            // Not done now, it is done later; done twice it could not be undone.
            if !std::mem::replace(&mut self.failing, true) {
                log::error!("undo: cannot begin: {error}");
            }
            if let Some(waiting) = self.waiting.get_mut(place) {
                waiting.origin = UndoOrigin::Config;
                waiting.due = clock::boot().plus(RETRY);
            }
            return None;
        }
        self.failing = false;
        let waiting = self.waiting.swap_remove(place);
        Some((StartedUndo(number), waiting.task))
    }

    /// One that had begun has ended.
    pub(crate) fn end(&self, StartedUndo(number): StartedUndo) {
        if let Err(error) = files::remove(&self.file(number).with_extension(BEGUN)) {
            log::error!("undo: {error}");
        }
    }

    /// Takes away what does the same as `number`, but sooner.
    fn drop_shorter(&mut self, number: u64, due: BootTime) -> Result<(), FileError> {
        let Some(argv) = self.waiting.iter().find(|waiting| waiting.number == number) else { return Ok(()) };
        let argv = argv.task.argv.clone();
        let shorter = |waiting: &WaitingUndo| {
            let is_under_way = waiting.origin == UndoOrigin::UnderWay;
            waiting.number != number && waiting.task.argv == argv && waiting.due <= due && !is_under_way
        };
        for waiting in self.waiting.iter().filter(|waiting| shorter(waiting)) {
            files::remove(&self.file(waiting.number))?;
        }
        self.waiting.retain(|waiting| !shorter(waiting));
        Ok(())
    }

    fn file(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }
}

impl WaitingUndo {
    fn why(&self, now: BootTime) -> Due {
        match self.planned {
            Some(planned) if now < planned => Due::Early,
            _ => Due::InTime,
        }
    }

    /// Whether its command is known to be the config's.
    fn is_run(&self) -> bool {
        self.origin == UndoOrigin::Config
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::state::undo_file::FOLDER;
    use spa_knock_core::auth::{AuditEvent, KeyAge, Via};

    pub(super) const HOUR: Duration = Duration::from_secs(3_600);

    pub(super) fn task(word: &str) -> UndoTask {
        UndoTask {
            argv: vec!["/bin/undo".to_owned(), word.to_owned()],
            timeout: Duration::from_secs(10),
            argument: String::new(),
            record: AuditRecord {
                event: AuditEvent::Expired,
                client: "laptop".parse().unwrap(),
                key: KeyAge::Current,
                action: Some("lamp".parse().unwrap()),
                addresses: vec!["10.0.0.1".parse().unwrap()],
                source: Some("10.0.0.1:4000".parse().unwrap()),
                seconds: 60,
                reason: None,
                knock: Some([7; 12]),
                via: Some(Via::Ports),
            },
        }
    }

    pub(super) fn open(state: &Path) -> (UndoQueue, Vec<Leftover>) {
        let (mut undo_queue, left) = UndoQueue::open(state, "boot-1".to_owned()).unwrap();
        assert_eq!(undo_queue.confirm(|_| true), []);
        (undo_queue, left)
    }

    pub(super) fn plan(undo_queue: &mut UndoQueue, word: &str, after: Duration) -> bool {
        let planned = undo_queue.plan(task(word), after).unwrap();
        planned.map(|planned| undo_queue.schedule(planned)).is_some()
    }

    pub(super) fn waiting(undo_queue: &UndoQueue) -> Vec<&str> {
        undo_queue.waiting.iter().map(|waiting| waiting.task.argv[1].as_str()).collect()
    }

    #[test]
    fn one_that_ended_leaves_nothing_and_one_whose_action_never_began_neither() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        assert!(plan(&mut undo_queue, "soon", Duration::ZERO));
        let (begun, _) = undo_queue.start_due(|_, _| true).unwrap();
        undo_queue.end(begun);
        let planned = undo_queue.plan(task("never"), HOUR).unwrap().unwrap();
        undo_queue.forget(&planned);
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_later_one_takes_the_place_of_a_sooner_one_that_does_the_same_and_never_the_other_way_round() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        assert!(plan(&mut undo_queue, "a", HOUR));
        assert!(plan(&mut undo_queue, "b", HOUR));
        assert!(!plan(&mut undo_queue, "a", HOUR / 2), "it is undone later anyway");
        assert!(plan(&mut undo_queue, "a", HOUR * 2));
        assert_eq!(waiting(&undo_queue), ["b", "a"]);
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap().len(), 2);
        // A daemon that dies between the two steps leaves both; the later one counts.
        let _ = undo_queue.plan(task("b"), HOUR * 3).unwrap();
        drop(undo_queue);
        let (undo_queue, _) = open(state.path());
        assert_eq!(waiting(&undo_queue), ["a", "b"]);
        assert!(undo_queue.waiting[1].due > clock::boot().plus(HOUR * 2));
    }

    #[test]
    fn in_another_boot_the_calendar_counts_and_never_for_longer_than_was_asked() {
        let entry = UndoFile::of(&task("a"), "boot-1", clock::boot().plus(HOUR), HOUR);
        let about = |left: Duration, hours: Duration| left <= hours && left + Duration::from_secs(60) > hours;
        assert!(about(entry.left("boot-1"), HOUR));
        assert!(about(entry.left("boot-2"), HOUR));
        let overdue =
            UndoFile { due_wall: 1, ..UndoFile::of(&task("a"), "boot-1", clock::boot_at(3_600_000), HOUR) };
        assert_eq!(overdue.left("boot-2"), Duration::ZERO);
        let clock_went_back = UndoFile { due_wall: u64::MAX, due: u64::MAX, ..overdue };
        assert_eq!((clock_went_back.left("boot-1"), clock_went_back.left("boot-2")), (HOUR, HOUR));
    }

    #[test]
    fn no_more_wait_than_may_and_no_more_of_one_client() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        let of = |client: usize, word: usize| {
            let mut task = task(&format!("{client} {word}"));
            task.record.client = format!("client-{client}").parse().unwrap();
            WaitingUndo {
                number: 0,
                due: clock::boot_at(3_600_000),
                planned: None,
                task,
                origin: UndoOrigin::Config,
            }
        };
        undo_queue.waiting.extend((0..EACH_MAX).map(|word| of(0, word)));
        let full = undo_queue.plan(of(0, EACH_MAX).task, HOUR).err().unwrap();
        assert_eq!(full.to_string(), "undo: 32 of client client-0 are waiting already");
        let other = undo_queue.plan(of(1, 0).task, HOUR).unwrap().unwrap();
        undo_queue.forget(&other);
        for client in 1..UNDO_TASKS_MAX / EACH_MAX {
            undo_queue.waiting.extend((0..EACH_MAX).map(|word| of(client, word)));
        }
        assert!(matches!(undo_queue.plan(task("one more"), HOUR), Err(UndoError::Full)));
    }
}
