//! Runs the commands of knocks beside the event loop: a bounded number at a time, each with a deadline and captured
//! output.

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
pub use limits::{QueueLimit, QueueLimits};
pub use running_job::Exit;
use running_job::{JobSlot, RunningJob};
use spa_knock_core::knock::Steady;

/// The running and waiting commands.
pub struct CommandQueue<T> {
    limits: QueueLimits,
    /// The user that runs them; `None` for the current user.
    identity: Option<Identity>,
    running: Vec<RunningJob<T>>,
    waiting: VecDeque<Job<T>>,
}

impl<T> Default for CommandQueue<T> {
    fn default() -> Self {
        Self::with_limits(QueueLimits::default())
    }
}

impl<T> CommandQueue<T> {
    /// An empty queue with these limits.
    #[must_use]
    pub const fn with_limits(limits: QueueLimits) -> Self {
        Self { limits, identity: None, running: Vec::new(), waiting: VecDeque::new() }
    }

    /// The same queue for commands that run as another user, without capabilities.
    #[must_use]
    pub fn with_identity(self, identity: Option<Identity>) -> Self {
        Self { identity, ..self }
    }
}

/// A command to run.
pub struct Job<T> {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// How long it may run.
    pub timeout: Duration,
    /// On whose behalf it runs, such as a client. Each owner has slots of its own.
    pub owner: String,
    /// Identifies it for the caller.
    pub label: T,
}

/// A command that has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct FinishedJob<T> {
    /// Identifies it for the caller.
    pub label: T,
    /// How it ended.
    pub ended: Exit,
    /// What it printed to both outputs, escaped to one line of printable text; at most 64 KiB of it.
    pub output: String,
}

impl<T> CommandQueue<T> {
    /// Starts a command, or queues it while all slots are in use.
    ///
    /// # Errors
    /// When it cannot be started, or the queue is full: in total, or for its owner.
    pub fn start(&mut self, job: Job<T>, now: Steady) -> Result<(), RunError> {
        let waiting = self.waiting.iter().filter(|waiting| waiting.owner == job.owner).count();
        if waiting == 0 && self.may_run(&job.owner) {
            return self.launch(job, JobSlot::Command, now).map_err(|(error, _)| error);
        }
        let QueueLimits { running: run, waiting: wait, .. } = self.limits;
        let reason = if waiting >= wait.each {
            format!("{} commands of this client are already running and {} are waiting", run.each, wait.each)
        } else if self.waiting.len() >= wait.total {
            format!("{} commands are already running and {} are waiting", run.total, wait.total)
        } else {
            self.waiting.push_back(job);
            return Ok(());
        };
        Err(RunError::Io(job.argv.into_iter().next().unwrap_or_default(), reason))
    }

    /// Whether an undo slot is free for this owner.
    #[must_use]
    pub fn may_undo(&self, owner: &str) -> bool {
        self.has_slot(JobSlot::Undo, self.limits.undo, owner)
    }

    /// Starts an undo task, which does not wait for others. Call it only if [`Self::may_undo`].
    ///
    /// # Errors
    /// When it cannot be started; returns it as finished.
    pub fn start_undo(&mut self, job: Job<T>, now: Steady) -> Result<(), FinishedJob<T>> {
        self.launch(job, JobSlot::Undo, now).map_err(FinishedJob::unstarted)
    }

    /// Reads the commands' output, so that none blocks; signals those past their deadline; starts waiting ones; returns
    /// those that have ended.
    pub fn run_due(&mut self, now: Steady) -> Vec<FinishedJob<T>> {
        self.running.iter_mut().for_each(|running| running.output.read());
        let mut finished = Vec::new();
        for mut running in std::mem::take(&mut self.running) {
            match running.reap(now) {
                Some(ended) => {
                    finished.push(FinishedJob {
                        label: running.label,
                        ended,
                        output: running.output.into_text(),
                    });
                }
                None => self.running.push(running),
            }
        }
        while let Some(job) = self.next() {
            finished.extend(self.launch(job, JobSlot::Command, now).err().map(FinishedJob::unstarted));
        }
        finished
    }

    /// Removes the next job from the queue: the one that has waited longest of the owner with the fewest running
    /// commands.
    fn next(&mut self) -> Option<Job<T>> {
        if self.waiting.is_empty() || self.count(JobSlot::Command) >= self.limits.running.total {
            return None;
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for running in self.running.iter().filter(|running| running.slot == JobSlot::Command) {
            let count = counts.entry(&running.owner).or_default();
            *count = count.saturating_add(1);
        }
        let of = |job: &Job<T>| counts.get(job.owner.as_str()).copied().unwrap_or_default();
        let waiting = self.waiting.iter().enumerate().map(|(place, job)| (of(job), place));
        let (_, place) = waiting.filter(|(count, _)| *count < self.limits.running.each).min()?;
        self.waiting.remove(place)
    }

    fn may_run(&self, owner: &str) -> bool {
        self.has_slot(JobSlot::Command, self.limits.running, owner)
    }

    fn has_slot(&self, slot: JobSlot, share: QueueLimit, owner: &str) -> bool {
        let of_owner = |running: &&RunningJob<T>| running.slot == slot && running.owner == owner;
        self.count(slot) < share.total && self.running.iter().filter(of_owner).count() < share.each
    }

    fn count(&self, slot: JobSlot) -> usize {
        self.running.iter().filter(|running| running.slot == slot).count()
    }

    /// Whether one of these commands is running or waiting.
    pub fn has(&self, which: impl Fn(&T) -> bool) -> bool {
        self.running.iter().any(|running| which(&running.label))
            || self.waiting.iter().any(|job| which(&job.label))
    }

    /// Removes those of these commands that are waiting. Returns their labels.
    pub fn drop_waiting(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let (dropped, stay): (VecDeque<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|job| which(&job.label));
        self.waiting = stay;
        dropped.into_iter().map(|job| job.label).collect()
    }

    /// Kills those of these commands that are running, and removes those that are waiting. Returns their labels.
    pub fn kill(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let kill = |mut running: RunningJob<T>| {
            running.signal(Signal::SIGKILL);
            let _ = running.child.wait();
            running.label
        };
        let running: Vec<_> = self.running.extract_if(.., |running| which(&running.label)).collect();
        running.into_iter().map(kill).chain(self.drop_waiting(&which)).collect()
    }

    /// The numbers of running and waiting commands.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Whether no command is running or waiting.
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
    /// Readable when a command prints something.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.running.iter().filter_map(|running| running.output.descriptor()));
    }

    fn deadline(&self) -> Option<Steady> {
        self.running.iter().map(RunningJob::deadline).min()
    }
}

impl<T> FinishedJob<T> {
    fn unstarted((error, label): (RunError, T)) -> Self {
        Self { label, ended: Exit::Failure(error.to_string()), output: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::captured_output::OUTPUT_MAX;
    use super::*;
    use std::path::Path;

    use crate::os::clock::steady;
    use crate::os::files;
    use crate::os::process::privileges;

    const LONG: Duration = Duration::from_secs(60);

    fn job(args: &[&str], timeout: Duration, label: u32) -> Job<u32> {
        job_of("a", args, timeout, label)
    }

    fn job_of(owner: &str, args: &[&str], timeout: Duration, label: u32) -> Job<u32> {
        let argv = args.iter().map(|&word| word.to_owned()).collect();
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
    fn a_command_succeeds_fails_or_is_killed_at_its_deadline_with_its_children() {
        let short = Duration::from_millis(100);
        let cases = [
            (vec!["/bin/true"], LONG, Exit::Success),
            (vec!["/bin/false"], LONG, Exit::Failure("exit status: 1".to_owned())),
            (vec!["/bin/sh", "-c", "sleep 100 & sleep 100"], short, Exit::TimedOut),
            (vec!["/bin/sh", "-c", "trap '' TERM; sleep 100"], short, Exit::TimedOut),
        ];
        for (args, timeout, ended) in cases {
            let done = run(job(&args, timeout, 7));
            assert_eq!((done.label, done.ended), (7, ended), "{args:?}");
        }
    }

    #[test]
    fn children_of_a_command_are_killed_at_its_deadline_in_any_process_group() {
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
    fn the_output_of_a_command_is_one_printable_line_of_bounded_length() {
        for (script, output) in [
            ("echo out; echo err >&2", "out\\nerr"),
            ("printf 'a\\033[31m\\tb\\377 \\342\\200\\256'", "a\\u{1b}[31m\\tb\u{fffd} \\u{202e}"),
            ("true", ""),
            // A process that keeps the pipe open delays nothing.
            ("echo x; sleep 60 &", "x"),
        ] {
            let done = run(shell(script));
            assert_eq!((done.ended, done.output.as_str()), (Exit::Success, output), "{script}");
        }
        let loud = run(shell("head -c 1000000 /dev/zero | tr '\\0' x"));
        assert_eq!((loud.ended, loud.output.len()), (Exit::Success, OUTPUT_MAX), "it is read to its end");
    }

    #[test]
    fn an_owner_cannot_use_the_slots_of_another() {
        let mut commands = CommandQueue::default();
        let sleep = |owner: &str| job_of(owner, &["/bin/sleep", "60"], LONG, 1);
        for _ in 0..20 {
            commands.start(sleep("a"), steady()).unwrap();
        }
        assert_eq!(commands.counts(), (4, 16));
        let refused = commands.start(sleep("a"), steady()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "/bin/sleep: 4 commands of this client are already running and 16 are waiting"
        );
        for _ in 0..4 {
            assert!(commands.may_undo("a"));
            assert!(commands.start_undo(sleep("a"), steady()).is_ok());
        }
        assert!(!commands.may_undo("a"), "its undo tasks have as many slots");
        assert!(commands.may_undo("b"));
        commands.start(sleep("b"), steady()).unwrap();
        assert_eq!(commands.counts(), (9, 16), "a command of another owner runs immediately");
        assert!(commands.run_due(steady()).is_empty());
        assert_eq!(commands.kill(|_| true).len(), 25);
    }

    #[test]
    fn owners_take_turns_when_all_slots_are_in_use() {
        let limits = QueueLimits {
            running: QueueLimit::new(2, 2),
            waiting: QueueLimit::new(5, 4),
            ..QueueLimits::default()
        };
        let mut commands = CommandQueue::with_limits(limits);
        for label in 0..2 {
            commands.start(job_of("a", &["/bin/sleep", "0.1"], LONG, label), steady()).unwrap();
        }
        for (owner, label) in [("a", 2), ("a", 3), ("a", 4), ("b", 5), ("b", 6)] {
            commands.start(job_of(owner, &["/bin/sleep", "60"], LONG, label), steady()).unwrap();
        }
        let refused = commands.start(job_of("c", &["/bin/true"], LONG, 7), steady()).unwrap_err();
        assert_eq!(refused.to_string(), "/bin/true: 2 commands are already running and 5 are waiting");
        let mut finished = Vec::new();
        while finished.len() < 2 {
            finished.extend(commands.run_due(steady()));
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut owners: Vec<_> = commands.running.iter().map(|running| running.owner.as_str()).collect();
        owners.sort_unstable();
        assert_eq!(owners, ["a", "b"], "one of each, though three of one came first");
        commands.kill(|_| true);
    }

    #[test]
    fn waiting_commands_run_in_order_and_one_that_cannot_start_returns_the_reason() {
        let mut commands = CommandQueue::default();
        for label in 0..4 {
            commands.start(job(&["/bin/sleep", "60"], Duration::ZERO, label), steady()).unwrap();
        }
        commands.start(job(&["/nonexistent/program"], LONG, 16), steady()).unwrap();
        commands.start(job(&["/bin/true"], LONG, 17), steady()).unwrap();
        let mut finished = Vec::new();
        while finished.len() < 6 {
            finished.extend(commands.run_due(steady()));
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = |label| finished.iter().find(|done| done.label == label).map(|done| done.ended.clone());
        assert_eq!(ended(16), Some(Exit::Failure("/nonexistent/program: not found".to_owned())));
        assert_eq!(ended(17), Some(Exit::Success));
    }

    #[test]
    fn a_command_gets_its_arguments_unchanged_and_none_of_our_environment() {
        let script = "env; pwd; printf '<%s>' \"$@\"";
        let done = run(job(&["/bin/sh", "-c", script, "sh", "a b", "$(id)", ""], LONG, 0));
        let mut lines: Vec<&str> = done.output.split("\\n").collect();
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
    fn a_command_with_an_identity_runs_as_that_user_without_other_groups_and_capabilities() {
        let Some(identity) = privileges::unprivileged("nobody").unwrap() else { return };
        let mut commands = CommandQueue::default().with_identity(Some(identity));
        let script = "id -u; id -g; id -G; grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status | tr -d '\\t'";
        commands.start(shell(script), steady()).unwrap();
        let done = until_one_ends(&mut commands);
        let (uid, gid, none) = (identity.uid, identity.gid, "0".repeat(16));
        let expected = format!("{uid}\\n{gid}\\n{gid}\\nCapPrm:{none}\\nCapEff:{none}\\nCapAmb:{none}");
        assert_eq!((done.ended, done.output), (Exit::Success, expected));
    }
}
