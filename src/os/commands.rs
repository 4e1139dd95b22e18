//! The commands of knocks, beside the event loop: a bounded number at a time, each with a deadline, and what they say.

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use super::confine::Identity;
use super::runner::{self, RunError};

/// How many run at a time, unless another number is said.
const RUNNING_MAX: usize = 16;
/// How many more may run that undo something: what others hold up must not keep a door open.
const UNDOING_MAX: usize = 16;
/// How many wait for their turn.
const WAITING_MAX: usize = 64;
/// Between the friendly signal and the last one.
const GRACE: Duration = Duration::from_secs(1);
/// What is kept of what a command says.
const SAID_MAX: usize = 64 << 10;

/// The commands that run and those that wait for it.
pub struct Commands<T> {
    /// How many run at a time.
    max: usize,
    /// Whom they become; none = they are who we are.
    identity: Option<Identity>,
    running: Vec<Running<T>>,
    waiting: VecDeque<Job<T>>,
}

impl<T> Default for Commands<T> {
    fn default() -> Self {
        Self::with_room(RUNNING_MAX)
    }
}

impl<T> Commands<T> {
    /// None yet, and so many at a time.
    #[must_use]
    pub const fn with_room(max: usize) -> Self {
        Self { max, identity: None, running: Vec::new(), waiting: VecDeque::new() }
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
    /// What the caller knows it by.
    pub label: T,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With exit status 0.
    Well,
    /// With another one, or by a signal, or it could not be started when its turn came.
    Badly(String),
    /// It was ended at its deadline.
    TooLate,
}

/// A command that is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// What the caller knows it by.
    pub label: T,
    /// How it ended.
    pub ended: Ended,
    /// What it said on both outputs, escaped to one line of printable text; at most 64 KiB of it.
    pub said: String,
}

struct Running<T> {
    child: Child,
    said: Said,
    started: Duration,
    timeout: Duration,
    /// When the last signal is due, once the friendly one is out.
    last: Option<Duration>,
    label: T,
}

impl<T> Commands<T> {
    /// Starts a command, or lets it wait while as many run as may.
    ///
    /// # Errors
    /// When it cannot be started, or as many wait as may.
    pub fn start(&mut self, job: Job<T>, now: Duration) -> Result<(), RunError> {
        if self.running.len() < self.max && self.waiting.is_empty() {
            return self.launch(job, now).map_err(|(error, _)| error);
        }
        if self.waiting.len() >= WAITING_MAX {
            let program = job.argv.into_iter().next().unwrap_or_default();
            let many = format!("{} commands run and {WAITING_MAX} wait already", self.max);
            return Err(RunError::Io(program, many));
        }
        self.waiting.push_back(job);
        Ok(())
    }

    /// Whether one may be started that undoes something.
    #[must_use]
    pub fn may_undo(&self) -> bool {
        self.running.len() < self.max.saturating_add(UNDOING_MAX)
    }

    /// Starts one that undoes something: it waits for no others. To be asked for when [`Self::may_undo`].
    ///
    /// # Errors
    /// When it cannot be started; it is over then.
    pub fn undo(&mut self, job: Job<T>, now: Duration) -> Result<(), Done<T>> {
        self.launch(job, now).map_err(Done::unstarted)
    }

    /// Looks after all of them: ends those that are too late, starts those whose turn it is, returns those that are
    /// over.
    pub fn tend(&mut self, now: Duration) -> Vec<Done<T>> {
        let mut over = Vec::new();
        for mut running in std::mem::take(&mut self.running) {
            match running.tend(now) {
                Some(ended) => {
                    over.push(Done { label: running.label, ended, said: running.said.into_text() });
                }
                None => self.running.push(running),
            }
        }
        while self.running.len() < self.max
            && let Some(job) = self.waiting.pop_front()
        {
            over.extend(self.launch(job, now).err().map(Done::unstarted));
        }
        over
    }

    /// When `tend` must be called next, if no child ends and none says anything before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.running.iter().map(Running::deadline).min()
    }

    /// Readable when a command says something.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running.iter().filter_map(|running| running.said.descriptor())
    }

    /// Takes what they say, so that none has to wait for us.
    pub fn listen(&mut self) {
        self.running.iter_mut().for_each(|running| running.said.take());
    }

    /// Ends those of these that still run or wait, at once; returns whose they were.
    pub fn kill(&mut self, which: impl Fn(&T) -> bool) -> Vec<T> {
        let kill = |mut running: Running<T>| {
            runner::kill_group(&running.child);
            let _ = running.child.wait();
            running.label
        };
        let running: Vec<_> = self.running.extract_if(.., |running| which(&running.label)).collect();
        let (waiting, stay): (VecDeque<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|job| which(&job.label));
        self.waiting = stay;
        running.into_iter().map(kill).chain(waiting.into_iter().map(|job| job.label)).collect()
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

    fn launch(&mut self, job: Job<T>, now: Duration) -> Result<(), (RunError, T)> {
        let Job { argv, timeout, label } = job;
        let started = Said::pipe()
            .map_err(|error| RunError::Io(argv.first().cloned().unwrap_or_default(), error.to_string()))
            .and_then(|(said, writer)| {
                runner::start(&argv, writer, self.identity).map(|child| (child, said))
            });
        match started {
            Ok((child, said)) => {
                self.running.push(Running { child, said, started: now, timeout, last: None, label });
                Ok(())
            }
            Err(error) => Err((error, label)),
        }
    }
}

impl<T> Done<T> {
    fn unstarted((error, label): (RunError, T)) -> Self {
        Self { label, ended: Ended::Badly(error.to_string()), said: String::new() }
    }
}

impl<T> Running<T> {
    fn deadline(&self) -> Duration {
        self.last.unwrap_or_else(|| self.started.saturating_add(self.timeout))
    }

    fn tend(&mut self, now: Duration) -> Option<Ended> {
        let status = match self.child.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) => {
                if now >= self.deadline() {
                    let signal = if self.last.is_some() { Signal::SIGKILL } else { Signal::SIGTERM };
                    runner::signal_group(&self.child, signal);
                    self.last = Some(now.saturating_add(GRACE));
                }
                return None;
            }
            Err(error) => return Some(Ended::Badly(super::files::plain(&error))),
        };
        self.said.take();
        Some(match self.last {
            Some(_) => {
                // What it started may live on in its group.
                runner::kill_group(&self.child);
                Ended::TooLate
            }
            None if status.success() => Ended::Well,
            None => Ended::Badly(status.to_string()),
        })
    }
}

/// What a command has said so far.
struct Said {
    /// None once it can say no more.
    pipe: Option<PipeReader>,
    bytes: Vec<u8>,
}

impl Said {
    fn pipe() -> io::Result<(Self, io::PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { pipe: Some(reader), bytes: Vec::new() }, writer))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Takes what is there. What is beyond the most that is kept is read and forgotten: a command that says too
    /// much goes on.
    fn take(&mut self) {
        /// A pipe's size: one that says more than this at a time is heard again in the next turn.
        const AT_ONCE: usize = 16;
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; 4096];
        for _ in 0..AT_ONCE {
            match pipe.read(&mut buffer) {
                Ok(0) => return self.pipe = None,
                Ok(length) => {
                    let room = SAID_MAX.saturating_sub(self.bytes.len());
                    self.bytes.extend(buffer.iter().take(length.min(room)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.pipe = None,
            }
        }
    }

    /// One line: what is not printable stands as its escape.
    fn into_text(self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let mut line = String::with_capacity(text.len());
        for c in text.trim_end().chars() {
            match c {
                '"' | '\'' => line.push(c),
                _ => line.extend(c.escape_debug()),
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::clock::steady;
    use crate::os::confine;

    const LONG: Duration = Duration::from_secs(60);

    fn job(words: &[&str], timeout: Duration, label: u32) -> Job<u32> {
        Job { argv: words.iter().map(|&word| word.to_owned()).collect(), timeout, label }
    }

    fn shell(script: &str) -> Job<u32> {
        job(&["/bin/sh", "-c", script], LONG, 7)
    }

    fn until_one_ends(commands: &mut Commands<u32>) -> Done<u32> {
        for _ in 0..1_000 {
            commands.listen();
            if let Some(done) = commands.tend(steady()).pop() {
                return done;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no command ended within 10 s");
    }

    fn run(job: Job<u32>) -> Done<u32> {
        let mut commands = Commands::default();
        commands.start(job, steady()).unwrap();
        let done = until_one_ends(&mut commands);
        assert_eq!(commands.next_deadline(), None);
        assert_eq!(commands.descriptors().count(), 0);
        done
    }

    #[test]
    fn a_command_ends_well_or_badly_or_at_its_deadline_with_its_children() {
        let short = Duration::from_millis(100);
        let cases = [
            (vec!["/bin/true"], LONG, Ended::Well),
            (vec!["/bin/false"], LONG, Ended::Badly("exit status: 1".to_owned())),
            (vec!["/bin/sh", "-c", "sleep 100 & sleep 100"], short, Ended::TooLate),
            (vec!["/bin/sh", "-c", "trap '' TERM; sleep 100"], short, Ended::TooLate),
        ];
        for (words, timeout, ended) in cases {
            let done = run(job(&words, timeout, 7));
            assert_eq!((done.label, done.ended), (7, ended), "{words:?}");
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
            assert_eq!((done.ended, done.said.as_str()), (Ended::Well, said), "{script}");
        }
        let loud = run(shell("head -c 1000000 /dev/zero | tr '\\0' x"));
        assert_eq!((loud.ended, loud.said.len()), (Ended::Well, SAID_MAX), "it is heard to its end");
    }

    #[test]
    fn sixteen_run_sixty_four_wait_and_one_more_is_refused_but_undoing_waits_for_nobody() {
        let mut commands = Commands::default();
        for label in 0..80 {
            commands.start(job(&["/bin/sleep", "60"], LONG, label), steady()).unwrap();
        }
        assert_eq!((commands.running.len(), commands.waiting.len()), (16, 64));
        let refused = commands.start(job(&["/bin/true"], LONG, 80), steady()).unwrap_err();
        assert_eq!(refused.to_string(), "/bin/true: 16 commands run and 64 wait already");
        while commands.may_undo() {
            assert!(commands.undo(job(&["/bin/sleep", "60"], LONG, 99), steady()).is_ok());
        }
        assert_eq!(commands.running.len(), 32);
        assert!(commands.tend(steady()).is_empty());
        assert_eq!(commands.kill(|_| true).len(), 96);
    }

    #[test]
    fn those_that_wait_run_in_their_order_and_one_that_cannot_start_says_so() {
        let mut commands = Commands::default();
        for label in 0..16 {
            commands.start(job(&["/bin/sleep", "60"], Duration::ZERO, label), steady()).unwrap();
        }
        commands.start(job(&["/nonexistent/program"], LONG, 16), steady()).unwrap();
        commands.start(job(&["/bin/true"], LONG, 17), steady()).unwrap();
        let mut over = Vec::new();
        while over.len() < 18 {
            over.extend(commands.tend(steady()));
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = |label| over.iter().find(|done| done.label == label).map(|done| done.ended.clone());
        assert_eq!(ended(16), Some(Ended::Badly("/nonexistent/program: not found".to_owned())));
        assert_eq!(ended(17), Some(Ended::Well));
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
        let Some(identity) = confine::unprivileged("nobody").unwrap() else { return };
        let mut commands = Commands::with_room(1).under(Some(identity));
        let script = "id -u; id -g; id -G; grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status | tr -d '\\t'";
        commands.start(shell(script), steady()).unwrap();
        let done = until_one_ends(&mut commands);
        let (uid, gid, none) = (identity.uid, identity.gid, "0".repeat(16));
        let expected = format!("{uid}\\n{gid}\\n{gid}\\nCapPrm:{none}\\nCapEff:{none}\\nCapAmb:{none}");
        assert_eq!((done.ended, done.said), (Ended::Well, expected));
    }
}
