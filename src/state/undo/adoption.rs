//! Undo tasks of an earlier daemon. Their files are loaded at startup, and a command runs only if the config generates
//! it.

use std::path::{Path, PathBuf};

use super::{EACH_MAX, UndoOrigin, UndoQueue, UndoTask, WaitingUndo};
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};
use crate::state::undo_file::{FOLDER, NEW, STARTED, UndoFile};

/// A task of an earlier daemon that cannot run anymore; the administrator must check it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// It was started; it is unknown whether it has finished.
    Begun(Box<UndoTask>),
    /// Its file is damaged.
    Damaged(PathBuf),
}

impl UndoQueue {
    /// Loads the tasks of an earlier daemon from the state directory `state`, in boot `boot`.
    ///
    /// # Errors
    /// If the directory cannot be created or read.
    pub(crate) fn open(state: &Path, boot: String) -> Result<(Self, Vec<Leftover>), FileError> {
        let folder = state.join(FOLDER);
        files::create_folder(&folder, FileMode::Private)?;
        let (waiting, each) = (Vec::new(), EACH_MAX);
        let mut undo_queue = Self { folder, boot, waiting, each, next: 1, failing: false };
        let mut left = Vec::new();
        for path in files::list(&undo_queue.folder)? {
            left.extend(undo_queue.adopt(&path)?);
        }
        undo_queue.waiting.sort_by_key(|waiting| waiting.number);
        // If there are two equal tasks, an earlier daemon crashed before it removed the one that is due earlier.
        let all: Vec<_> = undo_queue.waiting.iter().map(|waiting| (waiting.number, waiting.due)).collect();
        for (number, due) in all {
            undo_queue.drop_shorter(number, due)?;
        }
        Ok((undo_queue, left))
    }

    /// Releases tasks of an earlier daemon for which `generates` returns true: the config, or a door of knockd.conf,
    /// must generate exactly this command for the client and addresses in the file. A process that can write the file
    /// can therefore not choose a command. Returns each refused task once; its file is kept.
    pub(crate) fn confirm(&mut self, generates: impl Fn(&UndoTask) -> bool) -> Vec<(PathBuf, UndoTask)> {
        let mut refused = Vec::new();
        for place in 0..self.waiting.len() {
            let is_ours = |origin| matches!(origin, UndoOrigin::Config | UndoOrigin::InProgress);
            let Some(waiting) = self.waiting.get(place).filter(|waiting| !is_ours(waiting.origin)) else {
                continue;
            };
            let (reported, number) = (waiting.origin == UndoOrigin::UnknownFile, waiting.number);
            let origin = if generates(&waiting.task) { UndoOrigin::Config } else { UndoOrigin::UnknownFile };
            if origin == UndoOrigin::UnknownFile && !reported {
                refused.push((self.file(number), waiting.task.clone()));
            }
            if let Some(waiting) = self.waiting.get_mut(place) {
                waiting.origin = origin;
            }
        }
        refused
    }

    /// Loads one file of an earlier daemon. Returns the leftover if the task cannot run.
    fn adopt(&mut self, path: &Path) -> Result<Option<Leftover>, FileError> {
        let is = |what| path.extension().is_some_and(|extension| extension == what);
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        let Some(number) = number else { return Ok(Some(Leftover::Damaged(path.to_owned()))) };
        self.next = self.next.max(number.saturating_add(1));
        let Some(entry) = UndoFile::read(&files::read_bytes(path)?) else {
            if is(NEW) {
                // The file was not completely written, so its action had not started.
                files::remove(path)?;
                return Ok(None);
            }
            return Ok(Some(Leftover::Damaged(path.to_owned())));
        };
        if is(NEW) {
            // A power loss has undone the rename. Its action may have started.
            files::rename(path, &self.file(number))?;
            files::sync_folder(&self.folder)?;
        }
        let left = entry.left(&self.boot);
        let Some(task) = entry.task() else { return Ok(Some(Leftover::Damaged(path.to_owned()))) };
        if is(STARTED) {
            files::remove(path)?;
            return Ok(Some(Leftover::Begun(Box::new(task))));
        }
        let due = clock::boot().plus(left);
        self.waiting.push(WaitingUndo { number, due, task, planned: None, origin: UndoOrigin::File });
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::StartedUndo;
    use super::super::tests::{HOUR, open, plan, task, waiting};
    use super::*;
    use crate::state::undo_file::damaged;

    #[test]
    fn a_scheduled_task_survives_the_daemon_and_is_started_once() {
        let state = tempfile::tempdir().unwrap();
        let (mut first, left) = open(state.path());
        assert!(left.is_empty());
        assert!(plan(&mut first, "soon", Duration::ZERO));
        assert!(plan(&mut first, "later", HOUR));
        drop(first);

        let (mut second, left) = open(state.path());
        assert!(left.is_empty());
        assert_eq!(waiting(&second), ["soon", "later"]);
        assert_eq!(second.next_due(|_, _| true), Some(Duration::ZERO));
        let (started, what) = second.start_due(|_, _| true).unwrap();
        assert_eq!(what, task("soon"));
        assert_eq!(second.start_due(|_, _| true), None);
        // The daemon crashes before the task ends: it is unknown whether the task has finished.
        drop(second);
        let (mut third, left) = open(state.path());
        assert_eq!(left, [Leftover::Begun(Box::new(task("soon")))]);
        assert_eq!(waiting(&third), ["later"]);
        assert_eq!((third.start_due(|_, _| true), started), (None, StartedUndo(1)));

        drop(third);
        assert!(open(state.path()).1.is_empty(), "each leftover is reported once");
    }

    #[test]
    fn a_changed_bit_or_a_truncated_file_is_damage() {
        let text = UndoFile::of(&task("a"), "boot-1", clock::boot_at(3_600_000), HOUR).to_text().into_bytes();
        assert_eq!(UndoFile::read(&text).and_then(UndoFile::task), Some(task("a")));
        for bit in 0..text.len() * 8 {
            let mut changed = text.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(UndoFile::read(&changed).is_none(), "bit {bit}");
            assert!(UndoFile::read(&text[..bit / 8]).is_none(), "length {}", bit / 8);
        }
        let state = tempfile::tempdir().unwrap();
        let (undo_queue, _) = open(state.path());
        let file = undo_queue.file(3);
        files::create_new(&file, FileMode::Private, &text[1..]).unwrap();
        let (undo_queue, left) = open(state.path());
        assert_eq!(damaged(state.path()).unwrap(), std::slice::from_ref(&file));
        assert_eq!((left, waiting(&undo_queue).len()), (vec![Leftover::Damaged(file)], 0));
    }

    #[test]
    fn a_task_that_the_config_does_not_generate_is_reported_once_kept_and_not_run() {
        let state = tempfile::tempdir().unwrap();
        let (mut first, _) = open(state.path());
        assert!(plan(&mut first, "good", Duration::ZERO));
        assert!(plan(&mut first, "bad", Duration::ZERO));
        drop(first);
        let (mut second, _) = UndoQueue::open(state.path(), "boot-1".to_owned()).unwrap();
        assert_eq!(second.start_due(|_, _| true), None, "no task runs before it is confirmed");
        let is_good = |task: &UndoTask| task.argv[1] == "good";
        let refused = second.confirm(is_good);
        assert_eq!(refused, [(second.file(2), task("bad"))]);
        assert_eq!(second.confirm(is_good), [], "once");
        assert_eq!(second.start_due(|_, _| true).unwrap().1, task("good"));
        assert_eq!((second.start_due(|_, _| true), second.next_due(|_, _| true)), (None, None));
        assert!(files::exists(&second.file(2)));
        assert!(plan(&mut second, "bad", Duration::ZERO), "an equal task of a new knock is scheduled");
        assert_eq!(second.start_due(|_, _| true).unwrap().1, task("bad"));
        assert_eq!(second.confirm(|_| true), [], "a config that generates the command again releases it");
    }

    #[test]
    fn after_a_power_loss_a_complete_file_is_adopted_and_a_truncated_one_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let (mut first, _) = open(state.path());
        assert!(plan(&mut first, "whole", Duration::ZERO));
        assert!(plan(&mut first, "cut", Duration::ZERO));
        let [whole, cut] = [1, 2].map(|number| first.file(number));
        drop(first);
        let bytes = files::read_bytes(&cut).unwrap();
        files::remove(&cut).unwrap();
        files::create_new(&cut.with_extension(NEW), FileMode::Private, &bytes[..bytes.len() / 2]).unwrap();
        files::rename(&whole, &whole.with_extension(NEW)).unwrap();
        let (mut second, left) = open(state.path());
        assert_eq!((left, waiting(&second)), (vec![], vec!["whole"]));
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap(), [whole]);
        assert_eq!(second.start_due(|_, _| true).unwrap().1, task("whole"));
    }
}
