//! The commands of knocks, beside the event loop: a bounded number at a time, each with a deadline, and what they say.

mod captured_output;
mod limits;
mod running_job;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::privileges::Identity;
use super::spawn::RunError;
use crate::os::poll::Polled;
pub use limits::{QueueLimit, Room};
pub use running_job::Exit;
use running_job::{JobSlot, RunningJob};
use spa_knock_core::knock::Steady;

/// The commands that run and those that wait for it.
pub struct CommandQueue<T> {
    room: Room,
    /// Whom they become; none = they are who we are.
    identity: Option<Identity>,
    running: Vec<RunningJob<T>>,
    waiting: VecDeque<Job<T>>,
}

impl<T> Default for CommandQueue<T> {
    fn default() -> Self {
        Self::with_room(Room::default())
    }
}

impl<T> CommandQueue<T> {
    /// None yet, within these limits.
    #[must_use]
    pub const fn with_room(room: Room) -> Self {
        Self { room, identity: None, running: Vec::new(), waiting: VecDeque::new() }
    }

    /// The same, as another user, without a capability.
    #[must_use]
    pub fn under(self, identity: Option<Identity>) -> Self {
        Self { identity, ..self }
    }
}

/// A command to be run.
pub struct Job<T> {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// When it is ended.
    pub timeout: Duration,
    /// Who it runs for: each owner has slots of its own.
    pub owner: String,
    /// What the caller knows it by.
    pub label: T,
}

/// A command that is over.
#[derive(Debug, PartialEq, Eq)]
pub struct FinishedJob<T> {
    /// What the caller knows it by.
    pub label: T,
    /// How it ended.
    pub ended: Exit,
    /// What it said on both outputs, escaped to one line of printable text; at most 64 KiB of it.
    pub said: String,
}

impl<T> CommandQueue<T> {
    /// Starts a command, or lets it wait while as many run as may.
    ///
    /// # Errors
    /// When it cannot be started, or as many wait as may: in all, or for its owner.
    pub fn start(&mut self, job: Job<T>, now: Steady) -> Result<(), RunError> {
        let waiting = self.waiting.iter().filter(|waiting| waiting.owner == job.owner).count();
        if waiting == 0 && self.may_run(&job.owner) {
            return self.launch(job, JobSlot::Command, now).map_err(|(error, _)| error);
        }
        let Room { running: run, waiting: wait, .. } = self.room;
        let many = if waiting >= wait.each {
            format!("{} commands of one client run and {} wait already", run.each, wait.each)
        } else if self.waiting.len() >= wait.total {
            format!("{} commands run and {} wait already", run.total, wait.total)
        } else {
            self.waiting.push_back(job);
            return Ok(());
        };
        Err(RunError::Io(job.argv.into_iter().next().unwrap_or_default(), many))
    }

    /// Whether an undo task of this owner may be started.
    #[must_use]
    pub fn may_undo(&self, owner: &str) -> bool {
        self.has_slot(JobSlot::Undo, self.room.undoing, owner)
    }

    /// Starts an undo task: it waits for no others. To be asked for when [`Self::may_undo`].
    ///
    /// # Errors
    /// When it cannot be started; it is over then.
    pub fn start_undo(&mut self, job: Job<T>, now: Steady) -> Result<(), FinishedJob<T>> {
        self.launch(job, JobSlot::Undo, now).map_err(FinishedJob::unstarted)
    }

    /// Looks after all of them: takes what they say, so that none has to wait for us, ends those that are too late, starts
    /// those whose turn it is, returns those that are over.
    pub fn run_due(&mut self, now: Steady) -> Vec<FinishedJob<T>> {
        self.running.iter_mut().for_each(|running| running.said.take());
        let mut over = Vec::new();
        for mut running in std::mem::take(&mut self.running) {
            match running.reap(now) {
                Some(ended) => {
                    over.push(FinishedJob { label: running.label, ended, said: running.said.into_text() });
                }
                None => self.running.push(running),
            }
        }
        while let Some(job) = self.next() {
            over.extend(self.launch(job, JobSlot::Command, now).err().map(FinishedJob::unstarted));
        }
        over
    }

    /// The job whose turn it is: of the owner that has the fewest commands running, the one that has waited longest.
    fn next(&mut self) -> Option<Job<T>> {
        if self.waiting.is_empty() || self.count(JobSlot::Command) >= self.room.running.total {
            return None;
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for running in self.running.iter().filter(|running| running.slot == JobSlot::Command) {
            let count = counts.entry(&running.owner).or_default();
            *count = count.saturating_add(1);
        }
        let of = |job: &Job<T>| counts.get(job.owner.as_str()).copied().unwrap_or_default();
        let waiting = self.waiting.iter().enumerate().map(|(place, job)| (of(job), place));
        let (_, place) = waiting.filter(|(count, _)| *count < self.room.running.each).min()?;
        self.waiting.remove(place)
    }

    fn may_run(&self, owner: &str) -> bool {
        self.has_slot(JobSlot::Command, self.room.running, owner)
    }

    fn has_slot(&self, slot: JobSlot, share: QueueLimit, owner: &str) -> bool {
        let of_owner = |running: &&RunningJob<T>| running.slot == slot && running.owner == owner;
        self.count(slot) < share.total && self.running.iter().filter(of_owner).count() < share.each
    }

    fn count(&self, slot: JobSlot) -> usize {
        self.running.iter().filter(|running| running.slot == slot).count()
    }

    /// Whether one of these runs or waits.
    pub fn has(&self, which: impl Fn(&T) -> bool) -> bool {
        self.running.iter().any(|running| which(&running.label))
            || self.waiting.iter().any(|job| which(&job.label))
    }

    /// Takes away those of these that wait for their turn; returns whose they were.
    pub fn drop_waiting(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let (dropped, stay): (VecDeque<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|job| which(&job.label));
        self.waiting = stay;
        dropped.into_iter().map(|job| job.label).collect()
    }

    /// Ends those of these that still run or wait, at once; returns whose they were.
    pub fn kill(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let kill = |mut running: RunningJob<T>| {
            running.signal(Signal::SIGKILL);
            let _ = running.child.wait();
            running.label
        };
        let running: Vec<_> = self.running.extract_if(.., |running| which(&running.label)).collect();
        running.into_iter().map(kill).chain(self.drop_waiting(&which)).collect()
    }

    /// How many run, and how many wait for their turn.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Whether none runs or waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    fn launch(&mut self, job: Job<T>, slot: JobSlot, now: Steady) -> Result<(), (RunError, T)> {
        self.running.push(RunningJob::start(job, slot, self.identity, now)?);
        Ok(())
    }
}

impl<T> Polled for CommandQueue<T> {
    /// Readable when a command says something.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.running.iter().filter_map(|running| running.said.descriptor()));
    }

    fn deadline(&self) -> Option<Steady> {
        self.running.iter().map(RunningJob::deadline).min()
    }
}

impl<T> FinishedJob<T> {
    fn unstarted((error, label): (RunError, T)) -> Self {
        Self { label, ended: Exit::Failure(error.to_string()), said: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::captured_output::SAID_MAX;
    use super::*;
    use std::path::Path;

    use crate::os::clock::steady;
    use crate::os::files;
    use crate::os::process::privileges;

    const LONG: Duration = Duration::from_secs(60);

    fn job(words: &[&str], timeout: Duration, label: u32) -> Job<u32> {
        job_of("a", words, timeout, label)
    }

    fn job_of(owner: &str, words: &[&str], timeout: Duration, label: u32) -> Job<u32> {
        let argv = words.iter().map(|&word| word.to_owned()).collect();
        Job { argv, timeout, owner: owner.to_owned(), label }
    }

    fn shell(script: &str) -> Job<u32> {
        job(&["/bin/sh", "-c", script], LONG, 7)
    }

    fn until_one_ends(commands: &mut CommandQueue<u32>) -> FinishedJob<u32> {
        for _ in 0..1_000 {
            if let Some(done) = commands.run_due(steady()).pop() {
                return done;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no command ended within 10 s");
    }

    fn run(job: Job<u32>) -> FinishedJob<u32> {
        let mut commands = CommandQueue::default();
        commands.start(job, steady()).unwrap();
        let done = until_one_ends(&mut commands);
        let mut fds = Vec::new();
        commands.fds(&mut fds);
        assert_eq!((commands.deadline(), fds.len()), (None, 0));
        done
    }

    #[test]
    fn a_command_ends_well_or_badly_or_at_its_deadline_with_its_children() {
        let short = Duration::from_millis(100);
        let cases = [
            (vec!["/bin/true"], LONG, Exit::Success),
            (vec!["/bin/false"], LONG, Exit::Failure("exit status: 1".to_owned())),
            (vec!["/bin/sh", "-c", "sleep 100 & sleep 100"], short, Exit::TimedOut),
            (vec!["/bin/sh", "-c", "trap '' TERM; sleep 100"], short, Exit::TimedOut),
        ];
        for (words, timeout, ended) in cases {
            let done = run(job(&words, timeout, 7));
            assert_eq!((done.label, done.ended), (7, ended), "{words:?}");
        }
    }

    #[test]
    fn what_a_command_started_is_killed_with_it_at_the_deadline_in_whatever_process_group() {
        let scratch = tempfile::tempdir().unwrap();
        let pids = scratch.path().join("pids");
        for script in [
            "timeout 61 sh -c 'echo $$ >>PIDS; sleep 62'",
            "setsid sh -c 'trap \"\" TERM; echo $$ >>PIDS; sleep 63; sleep 63' & wait",
            "(setsid sh -c 'echo $$ >>PIDS; exec sleep 64') & trap '' TERM; sleep 65; sleep 65",
        ] {
            let script = script.replace("PIDS", pids.to_str().unwrap());
            let done = run(job(&["/bin/sh", "-c", &script], Duration::from_millis(500), 7));
            assert_eq!(done.ended, Exit::TimedOut, "{script}");
            let started = files::read_text(&pids).unwrap();
            assert_eq!(started.lines().count(), 1, "{script}");
            for pid in started.lines() {
                let is_gone = || {
                    let stat = files::read_text(Path::new(&format!("/proc/{pid}/stat")));
                    stat.map_or(true, |stat| stat.contains(") Z "))
                };
                assert!(
                    (0..500).any(|_| {
                        std::thread::sleep(Duration::from_millis(10));
                        is_gone()
                    }),
                    "{script}"
                );
            }
            files::remove(&pids).unwrap();
        }
    }

    #[test]
    fn what_a_command_says_is_one_printable_line_of_bounded_length() {
        for (script, said) in [
            ("echo out; echo err >&2", "out\\nerr"),
            ("printf 'a\\033[31m\\tb\\377 \\342\\200\\256'", "a\\u{1b}[31m\\tb\u{fffd} \\u{202e}"),
            ("true", ""),
            // Whoever keeps the pipe open holds nobody up.
            ("echo x; sleep 60 &", "x"),
        ] {
            let done = run(shell(script));
            assert_eq!((done.ended, done.said.as_str()), (Exit::Success, said), "{script}");
        }
        let loud = run(shell("head -c 1000000 /dev/zero | tr '\\0' x"));
        assert_eq!((loud.ended, loud.said.len()), (Exit::Success, SAID_MAX), "it is heard to its end");
    }

    #[test]
    fn one_owner_has_its_own_slots_and_cannot_take_those_of_another() {
        let mut commands = CommandQueue::default();
        let sleep = |owner: &str| job_of(owner, &["/bin/sleep", "60"], LONG, 1);
        for _ in 0..20 {
            commands.start(sleep("a"), steady()).unwrap();
        }
        assert_eq!(commands.counts(), (4, 16));
        let refused = commands.start(sleep("a"), steady()).unwrap_err();
        assert_eq!(refused.to_string(), "/bin/sleep: 4 commands of one client run and 16 wait already");
        for _ in 0..4 {
            assert!(commands.may_undo("a"));
            assert!(commands.start_undo(sleep("a"), steady()).is_ok());
        }
        assert!(!commands.may_undo("a"), "its undo tasks have as many slots");
        assert!(commands.may_undo("b"));
        commands.start(sleep("b"), steady()).unwrap();
        assert_eq!(commands.counts(), (9, 16), "another one runs right away");
        assert!(commands.run_due(steady()).is_empty());
        assert_eq!(commands.kill(|_| true).len(), 25);
    }

    #[test]
    fn owners_take_turns_when_all_slots_are_in_use() {
        let room = Room { running: QueueLimit::new(2, 2), waiting: QueueLimit::new(5, 4), ..Room::default() };
        let mut commands = CommandQueue::with_room(room);
        for label in 0..2 {
            commands.start(job_of("a", &["/bin/sleep", "0.1"], LONG, label), steady()).unwrap();
        }
        for (owner, label) in [("a", 2), ("a", 3), ("a", 4), ("b", 5), ("b", 6)] {
            commands.start(job_of(owner, &["/bin/sleep", "60"], LONG, label), steady()).unwrap();
        }
        let refused = commands.start(job_of("c", &["/bin/true"], LONG, 7), steady()).unwrap_err();
        assert_eq!(refused.to_string(), "/bin/true: 2 commands run and 5 wait already");
        let mut over = Vec::new();
        while over.len() < 2 {
            over.extend(commands.run_due(steady()));
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut owners: Vec<_> = commands.running.iter().map(|running| running.owner.as_str()).collect();
        owners.sort_unstable();
        assert_eq!(owners, ["a", "b"], "one of each, though three of one came first");
        commands.kill(|_| true);
    }

    #[test]
    fn those_that_wait_run_in_their_order_and_one_that_cannot_start_says_so() {
        let mut commands = CommandQueue::default();
        for label in 0..4 {
            commands.start(job(&["/bin/sleep", "60"], Duration::ZERO, label), steady()).unwrap();
        }
        commands.start(job(&["/nonexistent/program"], LONG, 16), steady()).unwrap();
        commands.start(job(&["/bin/true"], LONG, 17), steady()).unwrap();
        let mut over = Vec::new();
        while over.len() < 6 {
            over.extend(commands.run_due(steady()));
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = |label| over.iter().find(|done| done.label == label).map(|done| done.ended.clone());
        assert_eq!(ended(16), Some(Exit::Failure("/nonexistent/program: not found".to_owned())));
        assert_eq!(ended(17), Some(Exit::Success));
    }

    #[test]
    fn a_command_gets_its_words_as_they_are_and_nothing_of_our_environment() {
        let script = "env; pwd; printf '<%s>' \"$@\"";
        let done = run(job(&["/bin/sh", "-c", script, "sh", "a b", "$(id)", ""], LONG, 0));
        let mut lines: Vec<&str> = done.said.split("\\n").collect();
        assert_eq!(lines.pop(), Some("<a b><$(id)><>"));
        assert_eq!(lines.pop(), Some("/"));
        let names: Vec<_> = lines.iter().filter_map(|line| line.split('=').next()).collect();
        // PWD, SHLVL and _ are the shell's own.
        assert!(
            names.iter().all(|n| ["PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"].contains(n)),
            "{names:?}"
        );
    }

    #[test]
    fn a_command_under_another_identity_is_that_user_alone_and_has_no_capability() {
        let Some(identity) = privileges::unprivileged("nobody").unwrap() else { return };
        let mut commands = CommandQueue::default().under(Some(identity));
        let script = "id -u; id -g; id -G; grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status | tr -d '\\t'";
        commands.start(shell(script), steady()).unwrap();
        let done = until_one_ends(&mut commands);
        let (uid, gid, none) = (identity.uid, identity.gid, "0".repeat(16));
        let expected = format!("{uid}\\n{gid}\\n{gid}\\nCapPrm:{none}\\nCapEff:{none}\\nCapAmb:{none}");
        assert_eq!((done.ended, done.said), (Exit::Success, expected));
    }
}
