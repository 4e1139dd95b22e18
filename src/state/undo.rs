//! The undo queue. Each undo task has a file, which is written before the action runs and renamed before the undo
//! command runs. Tasks therefore survive every end of the daemon, and none runs twice.

mod adoption;

use std::path::PathBuf;
use std::time::Duration;

use super::undo_file::{FileWork, FileWorkKind, STARTED, UndoFile};
use crate::os::clock;
use crate::os::files::{self, FileError};
use spa_knock_core::auth::AuditRecord;
use spa_knock_core::knock::{BootTime, ClientName};

pub(crate) use adoption::Leftover;

/// The largest number of waiting tasks.
const UNDO_TASKS_MAX: usize = 4096;
/// The largest number of waiting tasks per client, so that no client can block the others.
const EACH_MAX: usize = 32;
/// The interval between attempts to mark a task as started when the disk cannot be written.
const RETRY: Duration = Duration::from_secs(1);

/// A command that undoes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UndoTask {
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// The command is killed after this time.
    pub(crate) timeout: Duration,
    /// The client's argument, which the command can contain.
    pub(crate) argument: String,
    /// Its audit record.
    pub(crate) record: AuditRecord,
}

/// All waiting undo tasks, and the directory of their files.
pub(crate) struct UndoQueue {
    folder: PathBuf,
    boot: String,
    waiting: Vec<WaitingUndo>,
    /// The largest number of waiting tasks per client.
    each: usize,
    next: u64,
    /// Whether a failed start has been logged and none has succeeded since.
    failing: bool,
}

struct WaitingUndo {
    number: u64,
    due: BootTime,
    /// The original due time, if the task was moved forward.
    planned: Option<BootTime>,
    task: UndoTask,
    origin: UndoOrigin,
}

/// Why a task is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Its scheduled time has come.
    InTime,
    /// It was moved forward: the command that it undoes may still be running.
    Early,
}

/// Where a task comes from, and whether it is allowed to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UndoOrigin {
    /// From this daemon: an action in its config generated it.
    Config,
    /// From a file. It does not run until [`UndoQueue::confirm`] finds that the config generates it.
    File,
    /// From a file, and the config does not generate it. Reported once.
    UnknownFile,
    /// From this daemon, but its file is being written or renamed: it must not run now.
    InProgress,
}

/// A task whose action has not started.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct ScheduledUndo(u64);

/// A task that has been started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartedUndo(u64);

/// Why an undo task cannot be scheduled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UndoError {
    /// Its file cannot be written.
    #[error("undo: {0}")]
    File(#[from] FileError),
    /// Too many tasks are waiting.
    #[error("undo: {UNDO_TASKS_MAX} tasks are already waiting")]
    Full,
    /// Too many tasks of one client are waiting.
    #[error("undo: {0} tasks of client {1} are already waiting")]
    FullForClient(usize, ClientName),
}

impl UndoQueue {
    /// Creates a queue without a directory; no task can be scheduled.
    #[must_use]
    #[cfg(feature = "legacy")]
    pub(crate) fn nowhere() -> Self {
        let (folder, boot) = (PathBuf::from("/nonexistent"), String::new());
        Self { folder, boot, waiting: Vec::new(), each: EACH_MAX, next: 1, failing: false }
    }

    /// Removes the limit per client.
    #[must_use]
    #[cfg(feature = "legacy")]
    pub(crate) fn shared(self) -> Self {
        Self { each: UNDO_TASKS_MAX, ..self }
    }

    /// Writes a task that is due after `after`. None if an equal task is due at that time or later.
    ///
    /// # Errors
    /// If it cannot be written. The action must not start then.
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

    /// Like `plan`, but the caller writes the file, on a thread that is allowed to wait for the disk. If that fails,
    /// the caller must call `forget`.
    ///
    /// # Errors
    /// If too many tasks are waiting.
    pub(crate) fn prepare(
        &mut self,
        task: UndoTask,
        after: Duration,
    ) -> Result<Option<(ScheduledUndo, FileWork)>, UndoError> {
        let due = clock::boot().plus(after);
        let does_the_same = |waiting: &WaitingUndo| waiting.task.argv == task.argv && waiting.due >= due;
        if self.waiting.iter().filter(|waiting| waiting.can_run()).any(does_the_same) {
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
        self.waiting.push(WaitingUndo { number, due, task, planned: None, origin: UndoOrigin::InProgress });
        Ok(Some((
            ScheduledUndo(number),
            FileWork { folder: self.folder.clone(), number, kind: FileWorkKind::Write(text) },
        )))
    }

    /// Schedules a task after its action has started, and drops equal tasks that are due earlier.
    pub(crate) fn schedule(&mut self, ScheduledUndo(number): ScheduledUndo) {
        let Some(kept) = self.waiting.iter().find(|waiting| waiting.number == number) else { return };
        let due = kept.due;
        let does_the_same = |waiting: &WaitingUndo| waiting.task.argv == kept.task.argv && waiting.due >= due;
        if self.waiting.iter().filter(|waiting| waiting.can_run()).any(does_the_same) {
            // An equal task was scheduled at the same time.
            return self.forget(&ScheduledUndo(number));
        }
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.number == number) {
            waiting.origin = UndoOrigin::Config;
        }
        if let Err(error) = self.drop_shorter(number, due) {
            log::error!("undo: {error}");
        }
    }

    /// Removes a task whose action has not started.
    pub(crate) fn forget(&mut self, planned: &ScheduledUndo) {
        self.waiting.retain(|waiting| waiting.number != planned.0);
        match files::remove(&self.file(planned.0)) {
            Err(error) if !error.missing => log::error!("undo: {error}"),
            _ => {}
        }
    }

    /// Moves matching tasks forward: they are due now.
    pub(crate) fn run_now(&mut self, which: impl Fn(&AuditRecord) -> bool) {
        let now = clock::boot();
        for waiting in self.waiting.iter_mut().filter(|waiting| which(&waiting.task.record)) {
            if waiting.due > now {
                waiting.planned = Some(waiting.due);
                waiting.due = now;
            }
        }
    }

    /// Removes matching tasks. Returns whether there were any.
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

    /// All waiting tasks.
    #[cfg(feature = "legacy")]
    pub(crate) fn all(&self) -> impl Iterator<Item = &UndoTask> {
        self.waiting.iter().map(|waiting| &waiting.task)
    }

    /// Time until the first matching task is due.
    #[cfg(feature = "legacy")]
    pub(crate) fn due_of(&self, which: impl Fn(&UndoTask) -> bool) -> Option<Duration> {
        let due =
            self.waiting.iter().filter(|waiting| which(&waiting.task)).map(|waiting| waiting.due).min()?;
        Some(due.since(clock::boot()))
    }

    /// The number of waiting tasks.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Time until the next task is due. Ignores tasks that are due already but that `may` does not allow to run now.
    pub(crate) fn next_due(&self, may: impl Fn(&UndoTask, Due) -> bool) -> Option<Duration> {
        let now = clock::boot();
        let runs = self.waiting.iter().filter(|waiting| waiting.can_run());
        let runs = runs.filter(|waiting| waiting.due > now || may(&waiting.task, waiting.why(now)));
        let left = runs.map(|waiting| waiting.due).min()?.since(now);
        Some(if self.failing { left.max(RETRY) } else { left })
    }

    /// Starts a task that is due and that `may` allows to run now. It never runs again, whatever happens.
    #[cfg(any(test, feature = "legacy"))]
    pub(crate) fn start_due(
        &mut self,
        may: impl Fn(&UndoTask, Due) -> bool,
    ) -> Option<(StartedUndo, UndoTask)> {
        let work = self.prepare_start(may)?;
        let number = work.number;
        let outcome = work.run();
        self.finish_start(number, outcome)
    }

    /// Selects a task that is due and that `may` allows to run now. Returns the work that marks it as started, for a
    /// thread that is allowed to wait for the disk.
    pub(crate) fn prepare_start(&mut self, may: impl Fn(&UndoTask, Due) -> bool) -> Option<FileWork> {
        let now = clock::boot();
        let runs = |waiting: &&mut WaitingUndo| {
            waiting.due <= now && waiting.can_run() && may(&waiting.task, waiting.why(now))
        };
        let waiting = self.waiting.iter_mut().find(runs)?;
        waiting.origin = UndoOrigin::InProgress;
        Some(FileWork { folder: self.folder.clone(), number: waiting.number, kind: FileWorkKind::Begin })
    }

    /// Takes the result of that work. Returns the task to run if it succeeded; it never runs again, whatever happens.
    pub(crate) fn finish_start(
        &mut self,
        number: u64,
        outcome: Result<(), FileError>,
    ) -> Option<(StartedUndo, UndoTask)> {
        let place = self.waiting.iter().position(|waiting| waiting.number == number)?;
        if let Err(error) = outcome {
            // The task is retried later. Running it twice must be avoided, but a delay is acceptable.
            if !std::mem::replace(&mut self.failing, true) {
                log::error!("undo: a task cannot be started: {error}; trying again");
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

    /// Removes the file of a started task that has ended.
    pub(crate) fn end(&self, StartedUndo(number): StartedUndo) {
        if let Err(error) = files::remove(&self.file(number).with_extension(STARTED)) {
            log::error!("undo: {error}");
        }
    }

    /// Removes tasks that are equal to `number` but due earlier.
    fn drop_shorter(&mut self, number: u64, due: BootTime) -> Result<(), FileError> {
        let Some(argv) = self.waiting.iter().find(|waiting| waiting.number == number) else { return Ok(()) };
        let argv = argv.task.argv.clone();
        let shorter = |waiting: &WaitingUndo| {
            let in_progress = waiting.origin == UndoOrigin::InProgress;
            waiting.number != number && waiting.task.argv == argv && waiting.due <= due && !in_progress
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

    /// Whether the config generates its command, so that it is allowed to run.
    fn can_run(&self) -> bool {
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
                claim: None,
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
    fn a_finished_task_and_a_forgotten_task_leave_no_file() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        assert!(plan(&mut undo_queue, "soon", Duration::ZERO));
        let (started, _) = undo_queue.start_due(|_, _| true).unwrap();
        undo_queue.end(started);
        let planned = undo_queue.plan(task("never"), HOUR).unwrap().unwrap();
        undo_queue.forget(&planned);
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_later_task_replaces_an_equal_earlier_one_and_never_the_reverse() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        assert!(plan(&mut undo_queue, "a", HOUR));
        assert!(plan(&mut undo_queue, "b", HOUR));
        assert!(!plan(&mut undo_queue, "a", HOUR / 2), "an equal task is due later");
        assert!(plan(&mut undo_queue, "a", HOUR * 2));
        assert_eq!(waiting(&undo_queue), ["b", "a"]);
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap().len(), 2);
        // A daemon that crashes between the two steps leaves both tasks; the later one is kept.
        let _ = undo_queue.plan(task("b"), HOUR * 3).unwrap();
        drop(undo_queue);
        let (undo_queue, _) = open(state.path());
        assert_eq!(waiting(&undo_queue), ["a", "b"]);
        assert!(undo_queue.waiting[1].due > clock::boot().plus(HOUR * 2));
    }

    #[test]
    fn after_a_reboot_the_wall_clock_decides_and_a_task_is_never_delayed_beyond_its_duration() {
        let entry = UndoFile::of(&task("a"), "boot-1", clock::boot().plus(HOUR), HOUR);
        let about = |left: Duration, hours: Duration| left <= hours && left + Duration::from_secs(60) > hours;
        assert!(about(entry.left("boot-1"), HOUR));
        assert!(about(entry.left("boot-2"), HOUR));
        let overdue =
            UndoFile { due_wall: 1, ..UndoFile::of(&task("a"), "boot-1", clock::boot_at(3_600_000), HOUR) };
        assert_eq!(overdue.left("boot-2"), Duration::ZERO);
        let due_in_this_boot =
            UndoFile { due_wall: 1, ..UndoFile::of(&task("a"), "boot-1", clock::boot().plus(HOUR), HOUR) };
        assert!(about(due_in_this_boot.left("boot-1"), HOUR));
        assert_eq!(due_in_this_boot.left("boot-2"), Duration::ZERO);
        let clock_went_back = UndoFile { due_wall: u64::MAX, due: u64::MAX, ..overdue };
        assert_eq!((clock_went_back.left("boot-1"), clock_went_back.left("boot-2")), (HOUR, HOUR));
    }

    #[test]
    fn a_task_that_is_moved_forward_is_due_early_and_others_in_time() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        for (word, after) in [("now", Duration::ZERO), ("a", HOUR), ("b", HOUR)] {
            assert!(plan(&mut undo_queue, word, after));
        }
        undo_queue.run_now(|record| record.client.as_str() == "phone");
        assert_eq!(undo_queue.start_due(|_, due| due == Due::Early), None, "of another client");
        undo_queue.run_now(|record| record.client.as_str() == "laptop");
        assert_eq!(undo_queue.next_due(|_, due| due == Due::Early), Some(Duration::ZERO));
        // The time for which one of them was planned has come.
        undo_queue.waiting[2].planned = Some(clock::boot_at(0));
        let mut started = |why| {
            let one = || undo_queue.start_due(|_, due| due == why).map(|(_, task)| task.argv[1].clone());
            std::iter::from_fn(one).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(started(Due::InTime), ["b".to_owned(), "now".to_owned()].into());
        assert_eq!(started(Due::Early), ["a".to_owned()].into());
        assert_eq!(undo_queue.next_due(|_, _| true), None);
    }

    #[test]
    fn a_task_that_is_due_but_not_allowed_to_run_wakes_no_one_until_the_next_one_is_due() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        assert!(plan(&mut undo_queue, "now", Duration::ZERO));
        assert_eq!(undo_queue.next_due(|_, _| false), None);
        assert!(plan(&mut undo_queue, "later", HOUR));
        let left = undo_queue.next_due(|_, _| false).unwrap();
        assert!(left > HOUR / 2 && left <= HOUR, "{left:?}");
        assert_eq!(undo_queue.next_due(|_, _| true), Some(Duration::ZERO));
    }

    #[test]
    fn a_task_that_cannot_be_marked_as_started_is_retried_and_does_not_run_before() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        assert!(plan(&mut undo_queue, "soon", Duration::ZERO));
        let (file, kept) = (undo_queue.file(1), state.path().join("kept"));
        files::rename(&file, &kept).unwrap();
        for _ in 0..2 {
            assert_eq!(undo_queue.start_due(|_, _| true), None);
            assert!(undo_queue.failing && undo_queue.next_due(|_, _| true).unwrap() >= RETRY / 2);
            undo_queue.waiting[0].due = clock::boot();
            assert_eq!(undo_queue.next_due(|_, _| true), Some(RETRY), "not in a busy loop");
        }
        files::rename(&kept, &file).unwrap();
        assert_eq!(undo_queue.start_due(|_, _| true).unwrap().1, task("soon"));
        assert!(!undo_queue.failing);
        assert!(undo_queue.finish_start(1, Ok(())).is_none(), "it never runs again");
    }

    #[test]
    fn of_two_equal_tasks_whose_actions_start_simultaneously_the_later_one_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        let [(first, write_first), (second, write_second)] =
            [HOUR, HOUR * 2].map(|after| undo_queue.prepare(task("a"), after).unwrap().unwrap());
        assert_eq!((write_first.number(), write_second.number()), (1, 2));
        write_first.run().unwrap();
        write_second.run().unwrap();
        undo_queue.schedule(second);
        undo_queue.schedule(first);
        assert_eq!((waiting(&undo_queue), undo_queue.waiting()), (vec!["a"], 1));
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap(), [undo_queue.file(2)]);
        undo_queue.schedule(ScheduledUndo(1));
        assert_eq!(undo_queue.waiting(), 1, "a forgotten task is not scheduled");
    }

    #[test]
    fn a_file_that_cannot_be_removed_does_not_keep_its_task_except_an_equal_earlier_one() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        // A directory in its place cannot be removed as a file.
        let block = |path: PathBuf| {
            files::remove(&path).unwrap();
            files::create_folder(&path, files::FileMode::Private).unwrap();
        };
        let planned = undo_queue.plan(task("forgotten"), HOUR).unwrap().unwrap();
        block(undo_queue.file(1));
        undo_queue.forget(&planned);
        assert_eq!(waiting(&undo_queue), Vec::<&str>::new());

        assert!(plan(&mut undo_queue, "ended", Duration::ZERO));
        let (started, _) = undo_queue.start_due(|_, _| true).unwrap();
        block(undo_queue.file(2).with_extension(STARTED));
        undo_queue.end(started);
        assert_eq!(waiting(&undo_queue), Vec::<&str>::new());

        // Both files would be loaded at the next start, which keeps the later task.
        assert!(plan(&mut undo_queue, "a", HOUR));
        block(undo_queue.file(3));
        assert!(plan(&mut undo_queue, "a", HOUR * 2));
        assert_eq!(waiting(&undo_queue), ["a", "a"]);
        assert!(undo_queue.waiting.iter().all(WaitingUndo::can_run));
    }

    #[test]
    fn a_task_whose_file_cannot_be_written_is_not_planned_and_leaves_no_part_of_it() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        let file = undo_queue.file(1);
        files::create_folder(&file, files::FileMode::Private).unwrap();
        let error = undo_queue.plan(task("a"), HOUR).unwrap_err().to_string();
        assert!(error.starts_with("undo: "), "{error}");
        assert_eq!((undo_queue.waiting(), files::list(&state.path().join(FOLDER)).unwrap()), (0, vec![file]));
        assert!(plan(&mut undo_queue, "a", HOUR), "the next number is free");
    }

    #[test]
    fn the_tasks_in_a_state_directory_are_listed_with_their_files() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        assert!(plan(&mut undo_queue, "a", HOUR) && plan(&mut undo_queue, "b", HOUR));
        files::create_new(&undo_queue.file(3), files::FileMode::Private, b"damaged").unwrap();
        // One whose action has not started.
        let unwritten = undo_queue.file(4).with_extension(crate::state::undo_file::NEW);
        files::create_new(&unwritten, files::FileMode::Private, b"").unwrap();
        let expected = [(undo_queue.file(1), task("a")), (undo_queue.file(2), task("b"))];
        assert_eq!(crate::state::waiting_undo_tasks(state.path()).unwrap(), expected);
        assert_eq!(crate::state::undo_file::damaged(state.path()).unwrap(), [undo_queue.file(3)]);
    }

    #[cfg(feature = "legacy")]
    #[test]
    fn a_canceled_task_has_no_file_and_never_runs() {
        let state = tempfile::tempdir().unwrap();
        let (mut undo_queue, _) = open(state.path());
        for (word, after) in [("a", HOUR), ("b", Duration::ZERO), ("c", HOUR * 2)] {
            assert!(plan(&mut undo_queue, word, after));
        }
        let is = |word: &'static str| move |task: &UndoTask| task.argv[1] == word;
        assert_eq!(undo_queue.due_of(is("b")), Some(Duration::ZERO));
        assert!(undo_queue.due_of(|_| true) == Some(Duration::ZERO) && undo_queue.due_of(is("d")).is_none());
        assert!(undo_queue.due_of(is("c")).unwrap() > undo_queue.due_of(is("a")).unwrap() + HOUR / 2);
        assert!(!undo_queue.cancel(is("d")));
        assert!(undo_queue.cancel(is("b")) && !undo_queue.cancel(is("b")));
        assert_eq!(undo_queue.start_due(|_, _| true), None);
        assert!(undo_queue.all().eq(&[task("a"), task("c")]));
        files::remove(&undo_queue.file(1)).unwrap();
        assert!(undo_queue.cancel(is("a")), "also without its file");
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap(), [undo_queue.file(3)]);
    }

    #[cfg(feature = "legacy")]
    #[test]
    fn only_a_shared_queue_has_no_limit_per_client_and_one_without_a_directory_plans_nothing() {
        let state = tempfile::tempdir().unwrap();
        for (is_shared, tasks) in [(false, EACH_MAX), (true, EACH_MAX + 1)] {
            let (mut undo_queue, _) = open(&state.path().join(format!("{is_shared}")));
            if is_shared {
                undo_queue = undo_queue.shared();
            }
            let planned = (0..=EACH_MAX).filter(|n| undo_queue.prepare(task(&n.to_string()), HOUR).is_ok());
            assert_eq!(planned.count(), tasks);
        }
        let mut nowhere = UndoQueue::nowhere();
        assert!(matches!(nowhere.plan(task("a"), HOUR), Err(UndoError::File(error)) if error.missing));
        assert_eq!((nowhere.waiting(), nowhere.next_due(|_, _| true)), (0, None));
    }

    #[test]
    fn waiting_tasks_are_limited_in_total_and_per_client() {
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
        assert_eq!(full.to_string(), "undo: 32 tasks of client client-0 are already waiting");
        let other = undo_queue.plan(of(1, 0).task, HOUR).unwrap().unwrap();
        undo_queue.forget(&other);
        for client in 1..UNDO_TASKS_MAX / EACH_MAX {
            undo_queue.waiting.extend((0..EACH_MAX).map(|word| of(client, word)));
        }
        assert!(matches!(undo_queue.plan(task("one more"), HOUR), Err(UndoError::Full)));
    }
}
