//! What is still to be undone: a file for each, there before its action begins and renamed before its undoing does,
//! so that every end of the daemon is outlived and nothing is undone twice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::crypto::checksum;
use crate::gate::{Event, KeyAge, Record, Via};
use crate::knock::{ActionName, ClientName, Timestamp};
use crate::os::clock;
use crate::os::files::{self, FileError, Mode};

/// The folder in the state folder.
const FOLDER: &str = "undo";
/// What follows the number of one that is being written.
const COMING: &str = "new";
/// What follows the number of one that has begun.
const BEGUN: &str = "begun";
/// How many may wait to be undone.
const UNDOINGS_MAX: usize = 1024;
/// Between two tries to begin one when the disk does not take it.
const RETRY: Duration = Duration::from_secs(1);

/// A command that undoes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct Undoing {
    /// Program and arguments.
    pub(in crate::server) argv: Vec<String>,
    /// When it is ended.
    pub(in crate::server) timeout: Duration,
    /// What the audit log keeps of it.
    pub(in crate::server) record: Record,
}

/// All that wait, the folder beside them.
pub(in crate::server) struct Undoings {
    folder: PathBuf,
    boot: String,
    waiting: Vec<Waiting>,
    next: u64,
    /// Said once, until one can begin again.
    failing: bool,
}

struct Waiting {
    number: u64,
    /// On the clock of this boot.
    due: Duration,
    undoing: Undoing,
}

/// One that is on the disk, and whose action has not begun.
#[must_use]
pub(in crate::server) struct Planned {
    number: u64,
    due: Duration,
    undoing: Undoing,
}

/// One that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) struct Begun(u64);

/// What an earlier daemon left that cannot be done any more; for people.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::server) enum Left {
    /// It had begun; whether it ended nobody knows.
    Begun(Undoing),
    /// Its file is not as it was written.
    Damaged(PathBuf),
}

/// Why nothing can be undone later.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum UndoError {
    /// The disk does not take it.
    #[error("undo: {0}")]
    File(#[from] FileError),
    /// As many wait as may.
    #[error("undo: {UNDOINGS_MAX} are waiting already")]
    Full,
}

impl Undoings {
    /// Reads what an earlier daemon left in the state folder `state`, in the boot `boot`.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(in crate::server) fn open(state: &Path, boot: String) -> Result<(Self, Vec<Left>), FileError> {
        let folder = state.join(FOLDER);
        files::create_folder(&folder, Mode::Private)?;
        let mut undoings = Self { folder, boot, waiting: Vec::new(), next: 1, failing: false };
        let mut left = Vec::new();
        for path in files::list(&undoings.folder)? {
            left.extend(undoings.take_up(&path)?);
        }
        undoings.waiting.sort_by_key(|waiting| waiting.number);
        // Of two that do the same, an earlier daemon died before it took the shorter one away.
        let all: Vec<_> = undoings.waiting.iter().map(|waiting| (waiting.number, waiting.due)).collect();
        for (number, due) in all {
            undoings.drop_shorter(number, due)?;
        }
        Ok((undoings, left))
    }

    /// Puts on record that this is to be done in `after`; nothing where it will be done later than that anyway.
    ///
    /// # Errors
    /// When it is not on record. Its action must not begin then.
    pub(in crate::server) fn plan(
        &mut self,
        undoing: Undoing,
        after: Duration,
    ) -> Result<Option<Planned>, UndoError> {
        let due = clock::boot().saturating_add(after);
        if self.waiting.iter().any(|waiting| waiting.undoing.argv == undoing.argv && waiting.due >= due) {
            return Ok(None);
        }
        if self.waiting.len() >= UNDOINGS_MAX {
            return Err(UndoError::Full);
        }
        let number = self.next;
        self.next = number.saturating_add(1);
        let entry = Entry::of(&undoing, &self.boot, due, after);
        let coming = self.file(number).with_extension(COMING);
        files::create_new(&coming, Mode::Private, entry.to_text().as_bytes())?;
        files::rename(&coming, &self.file(number))?;
        Ok(Some(Planned { number, due, undoing }))
    }

    /// The action has begun: this will be done, and what was to be done sooner is not.
    pub(in crate::server) fn keep(&mut self, planned: Planned) {
        let Planned { number, due, undoing } = planned;
        self.waiting.push(Waiting { number, due, undoing });
        if let Err(error) = self.drop_shorter(number, due) {
            log::error!("undo: {error}");
        }
    }

    /// The action has not begun, and there is nothing to undo.
    pub(in crate::server) fn forget(&self, planned: &Planned) {
        if let Err(error) = files::remove(&self.file(planned.number)) {
            log::error!("undo: {error}");
        }
    }

    /// What undoes this action of this client is due now.
    pub(in crate::server) fn hasten(&mut self, client: &ClientName, action: &ActionName) {
        let now = clock::boot();
        let its_own = |record: &Record| record.client == *client && record.action.as_ref() == Some(action);
        for waiting in self.waiting.iter_mut().filter(|waiting| its_own(&waiting.undoing.record)) {
            waiting.due = waiting.due.min(now);
        }
    }

    /// These will not be done; whether there were any.
    pub(in crate::server) fn withdraw(&mut self, which: impl Fn(&Undoing) -> bool) -> bool {
        let withdrawn: Vec<_> = self.waiting.extract_if(.., |waiting| which(&waiting.undoing)).collect();
        for waiting in &withdrawn {
            if let Err(error) = files::remove(&self.file(waiting.number)) {
                log::error!("undo: {error}");
            }
        }
        !withdrawn.is_empty()
    }

    /// All that wait.
    pub(in crate::server) fn all(&self) -> impl Iterator<Item = &Undoing> {
        self.waiting.iter().map(|waiting| &waiting.undoing)
    }

    /// In what time the first of these is due.
    pub(in crate::server) fn due_of(&self, which: impl Fn(&Undoing) -> bool) -> Option<Duration> {
        let due =
            self.waiting.iter().filter(|waiting| which(&waiting.undoing)).map(|waiting| waiting.due).min()?;
        Some(due.saturating_sub(clock::boot()))
    }

    /// How many wait for their time.
    pub(in crate::server) const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// In what time the next one is due.
    pub(in crate::server) fn next_due(&self) -> Option<Duration> {
        let due = self.waiting.iter().map(|waiting| waiting.due).min()?;
        let left = due.saturating_sub(clock::boot());
        Some(if self.failing { left.max(RETRY) } else { left })
    }

    /// Takes one that is due. It counts as done from here on, whatever comes.
    pub(in crate::server) fn begin(&mut self) -> Option<(Begun, Undoing)> {
        let now = clock::boot();
        let place = self.waiting.iter().position(|waiting| waiting.due <= now)?;
        let number = self.waiting.get(place)?.number;
        let begun = files::rename(&self.file(number), &self.file(number).with_extension(BEGUN))
            .and_then(|()| files::sync_folder(&self.folder));
        match begun {
            Ok(()) => self.failing = false,
            // Not done now, it is done later; done twice it could not be undone.
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    log::error!("undo: cannot begin: {error}");
                }
                return None;
            }
        }
        let waiting = self.waiting.swap_remove(place);
        Some((Begun(number), waiting.undoing))
    }

    /// One that had begun has ended.
    pub(in crate::server) fn end(&self, Begun(number): Begun) {
        if let Err(error) = files::remove(&self.file(number).with_extension(BEGUN)) {
            log::error!("undo: {error}");
        }
    }

    /// Takes up a file of an earlier daemon; says what it was where it cannot be done.
    fn take_up(&mut self, path: &Path) -> Result<Option<Left>, FileError> {
        let is = |what| path.extension().is_some_and(|extension| extension == what);
        if is(COMING) {
            files::remove(path)?;
            return Ok(None);
        }
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        let Some(number) = number else { return Ok(Some(Left::Damaged(path.to_owned()))) };
        self.next = self.next.max(number.saturating_add(1));
        let Some(entry) = Entry::read(&files::read_bytes(path)?) else {
            return Ok(Some(Left::Damaged(path.to_owned())));
        };
        let left = entry.left(&self.boot);
        let Some(undoing) = entry.undoing() else { return Ok(Some(Left::Damaged(path.to_owned()))) };
        if is(BEGUN) {
            files::remove(path)?;
            return Ok(Some(Left::Begun(undoing)));
        }
        self.waiting.push(Waiting { number, due: clock::boot().saturating_add(left), undoing });
        Ok(None)
    }

    /// Takes away what does the same as `number`, but sooner.
    fn drop_shorter(&mut self, number: u64, due: Duration) -> Result<(), FileError> {
        let Some(argv) = self.waiting.iter().find(|waiting| waiting.number == number) else { return Ok(()) };
        let argv = argv.undoing.argv.clone();
        let shorter = |waiting: &Waiting| {
            waiting.number != number && waiting.undoing.argv == argv && waiting.due <= due
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

/// The files of the state folder `state` that are not as they were written. Changes nothing.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn damaged(state: &Path) -> Result<Vec<PathBuf>, FileError> {
    let is_damaged = |path: &PathBuf| {
        let is_coming = path.extension().is_some_and(|extension| extension == COMING);
        !is_coming && files::read_bytes(path).is_ok_and(|bytes| Entry::read(&bytes).is_none())
    };
    Ok(files::list(&state.join(FOLDER))?.into_iter().filter(is_damaged).collect())
}

/// What a file says. Times in milliseconds.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// The boot that `due` belongs to.
    boot: String,
    /// Since that boot.
    due: u64,
    /// Since the Unix epoch, for another boot.
    due_wall: u64,
    /// From the knock to there: it is never further away.
    after: u64,
    argv: Vec<String>,
    timeout: u64,
    client: String,
    action: Option<String>,
    addresses: Vec<std::net::IpAddr>,
    source: Option<std::net::SocketAddr>,
    seconds: u32,
    knock: Option<[u8; 12]>,
    /// Missing in files of a daemon that knew of datagrams alone.
    #[serde(default)]
    by_ports: bool,
}

impl Entry {
    fn of(undoing: &Undoing, boot: &str, due: Duration, after: Duration) -> Self {
        let record = &undoing.record;
        Self {
            boot: boot.to_owned(),
            due: millis(due),
            due_wall: clock::wall().plus(after).as_millis(),
            after: millis(after),
            argv: undoing.argv.clone(),
            timeout: millis(undoing.timeout),
            client: record.client.to_string(),
            action: record.action.as_ref().map(ToString::to_string),
            addresses: record.addresses.clone(),
            source: record.source,
            seconds: record.seconds,
            knock: record.knock,
            by_ports: record.via == Some(Via::Ports),
        }
    }

    /// In what time it is due.
    fn left(&self, boot: &str) -> Duration {
        let left = if self.boot == boot {
            Duration::from_millis(self.due).saturating_sub(clock::boot())
        } else {
            let now = clock::wall();
            let due = Timestamp::from_millis(self.due_wall);
            if due > now { due.distance(now) } else { Duration::ZERO }
        };
        left.min(Duration::from_millis(self.after))
    }

    fn undoing(self) -> Option<Undoing> {
        Some(Undoing {
            argv: self.argv,
            timeout: Duration::from_millis(self.timeout),
            record: Record {
                event: Event::Expired,
                client: self.client.parse().ok()?,
                key: KeyAge::Current,
                action: self.action.map(|action| action.parse()).transpose().ok()?,
                addresses: self.addresses,
                source: self.source,
                seconds: self.seconds,
                reason: None,
                knock: self.knock,
                via: Some(if self.by_ports { Via::Ports } else { Via::Udp }),
            },
        })
    }

    fn to_text(&self) -> String {
        // A map of texts and numbers always has a JSON form.
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{} {json}\n", sum(&json))
    }

    /// Nothing when a byte of it is not as it was written.
    fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (said, json) = text.strip_suffix('\n')?.split_once(' ')?;
        if said != sum(json) {
            return None;
        }
        serde_json::from_str(json).ok()
    }
}

fn sum(json: &str) -> String {
    checksum(&[json.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn undoing(word: &str) -> Undoing {
        Undoing {
            argv: vec!["/bin/undo".to_owned(), word.to_owned()],
            timeout: Duration::from_secs(10),
            record: Record {
                event: Event::Expired,
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

    fn open(state: &Path) -> (Undoings, Vec<Left>) {
        Undoings::open(state, "boot-1".to_owned()).unwrap()
    }

    fn plan(undoings: &mut Undoings, word: &str, after: Duration) -> bool {
        let planned = undoings.plan(undoing(word), after).unwrap();
        planned.map(|planned| undoings.keep(planned)).is_some()
    }

    fn waiting(undoings: &Undoings) -> Vec<&str> {
        undoings.waiting.iter().map(|waiting| waiting.undoing.argv[1].as_str()).collect()
    }

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
        assert_eq!(second.next_due(), Some(Duration::ZERO));
        let (begun, what) = second.begin().unwrap();
        assert_eq!(what, undoing("soon"));
        assert_eq!(second.begin(), None);
        // It dies before this one ends: nobody knows whether it has.
        drop(second);
        let (mut third, left) = open(state.path());
        assert_eq!(left, [Left::Begun(undoing("soon"))]);
        assert_eq!(waiting(&third), ["later"]);
        assert_eq!((third.begin(), begun), (None, Begun(1)));

        drop(third);
        assert!(open(state.path()).1.is_empty(), "that was told");
    }

    #[test]
    fn one_that_ended_leaves_nothing_and_one_whose_action_never_began_neither() {
        let state = tempfile::tempdir().unwrap();
        let (mut undoings, _) = open(state.path());
        assert!(plan(&mut undoings, "soon", Duration::ZERO));
        let (begun, _) = undoings.begin().unwrap();
        undoings.end(begun);
        let planned = undoings.plan(undoing("never"), HOUR).unwrap().unwrap();
        undoings.forget(&planned);
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_later_one_takes_the_place_of_a_sooner_one_that_does_the_same_and_never_the_other_way_round() {
        let state = tempfile::tempdir().unwrap();
        let (mut undoings, _) = open(state.path());
        assert!(plan(&mut undoings, "a", HOUR));
        assert!(plan(&mut undoings, "b", HOUR));
        assert!(!plan(&mut undoings, "a", HOUR / 2), "it is undone later anyway");
        assert!(plan(&mut undoings, "a", HOUR * 2));
        assert_eq!(waiting(&undoings), ["b", "a"]);
        assert_eq!(files::list(&state.path().join(FOLDER)).unwrap().len(), 2);
        // A daemon that dies between the two steps leaves both; the later one counts.
        let _ = undoings.plan(undoing("b"), HOUR * 3).unwrap();
        drop(undoings);
        let (undoings, _) = open(state.path());
        assert_eq!(waiting(&undoings), ["a", "b"]);
        assert!(undoings.waiting[1].due > clock::boot() + HOUR * 2);
    }

    #[test]
    fn in_another_boot_the_calendar_counts_and_never_for_longer_than_was_asked() {
        let entry = Entry::of(&undoing("a"), "boot-1", clock::boot() + HOUR, HOUR);
        let about = |left: Duration, hours: Duration| left <= hours && left + Duration::from_secs(60) > hours;
        assert!(about(entry.left("boot-1"), HOUR));
        assert!(about(entry.left("boot-2"), HOUR));
        let overdue = Entry { due_wall: 1, ..Entry::of(&undoing("a"), "boot-1", HOUR, HOUR) };
        assert_eq!(overdue.left("boot-2"), Duration::ZERO);
        let clock_went_back = Entry { due_wall: u64::MAX, due: u64::MAX, ..overdue };
        assert_eq!((clock_went_back.left("boot-1"), clock_went_back.left("boot-2")), (HOUR, HOUR));
    }

    #[test]
    fn a_changed_bit_or_a_cut_file_is_damage() {
        let text = Entry::of(&undoing("a"), "boot-1", HOUR, HOUR).to_text().into_bytes();
        assert_eq!(Entry::read(&text).and_then(Entry::undoing), Some(undoing("a")));
        for bit in 0..text.len() * 8 {
            let mut changed = text.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::read(&changed).is_none(), "bit {bit}");
            assert!(Entry::read(&text[..bit / 8]).is_none(), "length {}", bit / 8);
        }
        let state = tempfile::tempdir().unwrap();
        let (undoings, _) = open(state.path());
        let file = undoings.file(3);
        files::create_new(&file, Mode::Private, &text[1..]).unwrap();
        let (undoings, left) = open(state.path());
        assert_eq!(damaged(state.path()).unwrap(), std::slice::from_ref(&file));
        assert_eq!((left, waiting(&undoings).len()), (vec![Left::Damaged(file)], 0));
    }

    #[test]
    fn no_more_wait_than_may() {
        let state = tempfile::tempdir().unwrap();
        let (mut undoings, _) = open(state.path());
        for n in 0..UNDOINGS_MAX {
            undoings.waiting.push(Waiting { number: 0, due: HOUR, undoing: undoing(&n.to_string()) });
        }
        assert!(matches!(undoings.plan(undoing("one more"), HOUR), Err(UndoError::Full)));
    }
}
