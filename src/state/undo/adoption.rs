//! The undo tasks of an earlier daemon: their files are adopted at a start, and only commands that the config makes are
//! run.

use std::path::{Path, PathBuf};

use super::{EACH_MAX, UndoOrigin, UndoQueue, UndoTask, WaitingUndo};
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};
use crate::state::undo_file::{BEGUN, COMING, FOLDER, UndoFile};

/// What an earlier daemon left that cannot be done any more; for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// It had begun; whether it ended nobody knows.
    Begun(UndoTask),
    /// Its file is not as it was written.
    Damaged(PathBuf),
}

impl UndoQueue {
    /// Reads what an earlier daemon left in the state folder `state`, in the boot `boot`.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
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
        // Of two that do the same, an earlier daemon died before it took the shorter one away.
        let all: Vec<_> = undo_queue.waiting.iter().map(|waiting| (waiting.number, waiting.due)).collect();
        for (number, due) in all {
            undo_queue.drop_shorter(number, due)?;
        }
        Ok((undo_queue, left))
    }

    /// Runs what an earlier daemon left only where `makes` finds that the config, or a door, makes that very command for
    /// the client and addresses that the file names. Whatever else could write that file cannot choose a command.
    /// Returns those that are not run, once; they stay on the disk.
    pub(crate) fn confirm(&mut self, makes: impl Fn(&UndoTask) -> bool) -> Vec<(PathBuf, UndoTask)> {
        let mut refused = Vec::new();
        for place in 0..self.waiting.len() {
            let is_ours = |origin| matches!(origin, UndoOrigin::Config | UndoOrigin::UnderWay);
            let Some(waiting) = self.waiting.get(place).filter(|waiting| !is_ours(waiting.origin)) else {
                continue;
            };
            let (reported, number) = (waiting.origin == UndoOrigin::FileAlone, waiting.number);
            let origin = if makes(&waiting.task) { UndoOrigin::Config } else { UndoOrigin::FileAlone };
            if origin == UndoOrigin::FileAlone && !reported {
                refused.push((self.file(number), waiting.task.clone()));
            }
            if let Some(waiting) = self.waiting.get_mut(place) {
                waiting.origin = origin;
            }
        }
        refused
    }

    /// Takes up a file of an earlier daemon; says what it was where it cannot be done.
    fn adopt(&mut self, path: &Path) -> Result<Option<Leftover>, FileError> {
        let is = |what| path.extension().is_some_and(|extension| extension == what);
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        let Some(number) = number else { return Ok(Some(Leftover::Damaged(path.to_owned()))) };
        self.next = self.next.max(number.saturating_add(1));
        let Some(entry) = UndoFile::read(&files::read_bytes(path)?) else {
            if is(COMING) {
                // It was not on the disk yet, and so its action had not begun.
                files::remove(path)?;
                return Ok(None);
            }
            return Ok(Some(Leftover::Damaged(path.to_owned())));
        };
        if is(COMING) {
            // A power cut took its name back. Its action may have begun.
            files::rename(path, &self.file(number))?;
            files::sync_folder(&self.folder)?;
        }
        let left = entry.left(&self.boot);
        let Some(task) = entry.task() else { return Ok(Some(Leftover::Damaged(path.to_owned()))) };
        if is(BEGUN) {
            files::remove(path)?;
            return Ok(Some(Leftover::Begun(task)));
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
    fn what_is_planned_waits_for_the_next_daemon_and_is_begun_once() {
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
        let (begun, what) = second.start_due(|_, _| true).unwrap();
        assert_eq!(what, task("soon"));
        assert_eq!(second.start_due(|_, _| true), None);
        // It dies before this one ends: nobody knows whether it has.
        drop(second);
        let (mut third, left) = open(state.path());
        assert_eq!(left, [Leftover::Begun(task("soon"))]);
        assert_eq!(waiting(&third), ["later"]);
        assert_eq!((third.start_due(|_, _| true), begun), (None, StartedUndo(1)));

        drop(third);
        assert!(open(state.path()).1.is_empty(), "that was told");
    }

    #[test]
    fn a_changed_bit_or_a_cut_file_is_damage() {
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
    fn a_file_whose_command_the_config_does_not_make_is_reported_once_kept_and_not_run() {
        let state = tempfile::tempdir().unwrap();
        let (mut first, _) = open(state.path());
        assert!(plan(&mut first, "good", Duration::ZERO));
        assert!(plan(&mut first, "bad", Duration::ZERO));
        drop(first);
        let (mut second, _) = UndoQueue::open(state.path(), "boot-1".to_owned()).unwrap();
        assert_eq!(second.start_due(|_, _| true), None, "nothing runs before it is confirmed");
        let is_good = |task: &UndoTask| task.argv[1] == "good";
        let refused = second.confirm(is_good);
        assert_eq!(refused, [(second.file(2), task("bad"))]);
        assert_eq!(second.confirm(is_good), [], "once");
        assert_eq!(second.start_due(|_, _| true).unwrap().1, task("good"));
        assert_eq!((second.start_due(|_, _| true), second.next_due(|_, _| true)), (None, None));
        assert!(files::exists(&second.file(2)));
        assert!(plan(&mut second, "bad", Duration::ZERO), "the same of a knock of now is run");
        assert_eq!(second.start_due(|_, _| true).unwrap().1, task("bad"));
        assert_eq!(second.confirm(|_| true), [], "a config that makes it again has it run");
    }

    #[test]
    fn a_whole_file_whose_name_a_power_cut_took_back_is_adopted_and_a_cut_one_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let (mut first, _) = open(state.path());
        assert!(plan(&mut first, "whole", Duration::ZERO));
        assert!(plan(&mut first, "cut", Duration::ZERO));
        let [whole, cut] = [1, 2].map(|number| first.file(number));
        drop(first);
        let bytes = files::read_bytes(&cut).unwrap();
        files::remove(&cut).unwrap();
        files::create_new(&cut.with_extension(COMING), FileMode::Private, &bytes[..bytes.len() / 2]).unwrap();
        files::rename(&whole, &whole.with_extension(COMING)).unwrap();
        let (mut second, left) = open(state.path());
        assert_eq!((left, waiting(&second)), (vec![], vec!["whole"]));
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap(), [whole]);
        assert_eq!(second.start_due(|_, _| true).unwrap().1, task("whole"));
    }
}
