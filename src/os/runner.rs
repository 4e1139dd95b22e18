//! The only place that starts processes: to the end with some input, or beside the event loop with a deadline.
#![allow(clippy::disallowed_methods, reason = "this is the place that the rule points to")]

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What commands find programs by.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How many commands of knocks run at a time.
const RUNNING_MAX: usize = 16;
/// Between two looks at whether it has ended.
const POLL: Duration = Duration::from_millis(1);
/// What of its output is kept.
const OUTPUT_MAX: u64 = 64 << 10;
/// Between the friendly signal and the last one.
const GRACE: Duration = Duration::from_secs(1);

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such program.
    #[error("{0}: not found")]
    NotFound(String),
    /// It could not be started or fed.
    #[error("{0}: {1}")]
    Io(String, String),
    /// It ended badly; with what it said first.
    #[error("{program}: {status}{said}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit.
        status: ExitStatus,
        /// The first of its error output.
        said: String,
    },
}

/// Runs a program to its end with this input, for at most `limit`; returns its output.
///
/// # Errors
/// When it cannot be started, does not end in time or does not end well.
pub fn run_to_end(program: &str, args: &[&str], input: &str, limit: Duration) -> Result<String, RunError> {
    let error = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => RunError::NotFound(program.to_owned()),
        _ => RunError::Io(program.to_owned(), super::files::plain(&error)),
    };
    let mut child = clean(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(error)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // All three at once, or a program that fills one pipe while we wait at another would hang us both. They end
    // with the program, at the latest when its group is killed.
    let (status, said, complained) = std::thread::scope(|scope| {
        // A program that does not read its input says why on its standard error, which is the better message.
        scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        let said = scope.spawn(|| read_some(stdout));
        let complained = scope.spawn(|| read_some(stderr));
        let status = wait_for(&mut child, limit);
        (status, said.join().unwrap_or_default(), complained.join().unwrap_or_default())
    });
    match status.map_err(error)? {
        None => Err(RunError::Io(program.to_owned(), format!("did not end within {} s", limit.as_secs()))),
        Some(status) if status.success() => Ok(said),
        Some(status) => {
            let said = complained.lines().next().map(|line| format!(": {}", line.trim())).unwrap_or_default();
            Err(RunError::Failed { program: program.to_owned(), status, said })
        }
    }
}

fn read_some(source: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(source) = source {
        // What could be read until an error is what there is to tell.
        let _ = source.take(OUTPUT_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The exit of a program; none when it had to be killed.
fn wait_for(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = super::clock::steady().saturating_add(limit);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if super::clock::steady() >= deadline {
            kill_group(child);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Kills a process that leads its own group, and all that it started there.
pub fn kill_group(leader: &Child) {
    signal_group(leader, Signal::SIGKILL);
}

fn signal_group(leader: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(leader.id()) {
        // It may just have ended by itself.
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}

/// Starts this very program again as another process of ours: `argument`, a channel as its standard input, and
/// maybe a socket as its standard output.
///
/// # Errors
/// When that fails.
pub fn start_ourselves(argument: &str, channel: OwnedFd, socket: Option<OwnedFd>) -> io::Result<Child> {
    let journal = super::env::text("JOURNAL_STREAM");
    let level = super::env::text("SPA_KNOCKD_LOG");
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("spa-knockd")
        .arg(argument)
        .env_clear()
        .stdin(channel)
        .stdout(socket.map_or_else(Stdio::null, Stdio::from))
        // Out of reach of the terminal's Ctrl-C: it ends when we do.
        .process_group(0);
    for (name, value) in [("JOURNAL_STREAM", journal), ("SPA_KNOCKD_LOG", level)] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.spawn()
}

/// The commands of knocks that run now.
pub struct Commands<T> {
    running: Vec<Running<T>>,
}

impl<T> Default for Commands<T> {
    fn default() -> Self {
        Self { running: Vec::new() }
    }
}

struct Running<T> {
    child: Child,
    started: Duration,
    timeout: Duration,
    /// When the last signal is due, once the friendly one is out.
    last: Option<Duration>,
    label: T,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With exit status 0.
    Well,
    /// With another one, or by a signal.
    Badly(String),
    /// It was ended at its deadline.
    TooLate,
}

impl<T> Commands<T> {
    /// Starts a command: no shell, clean environment, `/` as its folder, a process group of its own.
    ///
    /// # Errors
    /// When it cannot be started, or as many run as may.
    pub fn start(
        &mut self,
        argv: &[String],
        timeout: Duration,
        now: Duration,
        label: T,
    ) -> Result<(), RunError> {
        let (program, args) = argv.split_first().ok_or_else(|| RunError::NotFound(String::new()))?;
        let error = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => RunError::NotFound(program.clone()),
            _ => RunError::Io(program.clone(), super::files::plain(&error)),
        };
        if self.running.len() >= RUNNING_MAX {
            return Err(RunError::Io(program.clone(), format!("{RUNNING_MAX} commands are running already")));
        }
        let child = clean(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(error)?;
        self.running.push(Running { child, started: now, timeout, last: None, label });
        Ok(())
    }

    /// Looks after all of them: returns those that ended, ends those that are too late.
    pub fn tend(&mut self, now: Duration) -> Vec<(T, Ended)> {
        let mut ended = Vec::new();
        for mut running in std::mem::take(&mut self.running) {
            match running.tend(now) {
                Some(how) => ended.push((running.label, how)),
                None => self.running.push(running),
            }
        }
        ended
    }

    /// When `tend` must be called next, if no child ends before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.running.iter().map(Running::deadline).min()
    }

    /// Ends all that still run, at once; returns whose they were.
    pub fn kill_all(&mut self) -> Vec<T> {
        let kill = |mut running: Running<T>| {
            kill_group(&running.child);
            let _ = running.child.wait();
            running.label
        };
        std::mem::take(&mut self.running).into_iter().map(kill).collect()
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
                    signal_group(&self.child, signal);
                    self.last = Some(now.saturating_add(GRACE));
                }
                return None;
            }
            Err(error) => return Some(Ended::Badly(super::files::plain(&error))),
        };
        Some(match self.last {
            Some(_) => {
                // What it started may live on in its group.
                kill_group(&self.child);
                Ended::TooLate
            }
            None if status.success() => Ended::Well,
            None => Ended::Badly(status.to_string()),
        })
    }
}

fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn until_one_ends(commands: &mut Commands<u8>) -> (u8, Ended) {
        for _ in 0..1_000 {
            if let Some(ended) = commands.tend(crate::os::clock::steady()).pop() {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no command ended within 10 s");
    }

    #[test]
    fn programs_run_to_their_end_or_say_why_not() {
        let limit = Duration::from_secs(10);
        assert_eq!(run_to_end("cat", &[], "text", limit).unwrap(), "text");
        let missing = run_to_end("/nonexistent/program", &[], "", limit).unwrap_err();
        assert_eq!(missing.to_string(), "/nonexistent/program: not found");
        let failed = run_to_end("sh", &["-c", "echo why >&2; exit 3"], "", limit).unwrap_err();
        assert_eq!(failed.to_string(), "sh: exit status: 3: why");
        // More than a pipe holds, to a program that never reads, and its child holds the pipe too.
        let long = "x".repeat(1 << 20);
        let hung = run_to_end("sh", &["-c", "sleep 100 & sleep 100"], &long, Duration::from_millis(200));
        assert_eq!(hung.unwrap_err().to_string(), "sh: did not end within 0 s");
    }

    #[test]
    fn a_command_ends_well_or_badly_or_at_its_deadline_with_its_children() {
        let now = crate::os::clock::steady();
        let long = Duration::from_secs(60);
        let cases = [
            (vec!["/bin/true"], long, Ended::Well),
            (vec!["/bin/false"], long, Ended::Badly("exit status: 1".to_owned())),
            (vec!["/bin/sh", "-c", "sleep 100 & sleep 100"], Duration::from_millis(100), Ended::TooLate),
            (vec!["/bin/sh", "-c", "trap '' TERM; sleep 100"], Duration::from_millis(100), Ended::TooLate),
        ];
        for (words, timeout, how) in cases {
            let mut commands = Commands::default();
            commands.start(&argv(&words), timeout, now, 7).unwrap();
            assert_eq!(until_one_ends(&mut commands), (7, how), "{words:?}");
            assert_eq!(commands.next_deadline(), None);
        }
    }

    #[test]
    fn a_command_gets_its_words_as_they_are_and_nothing_of_our_environment() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        let script = format!("env > {0}; printf '<%s>' \"$@\" >> {0}", out.display());
        let mut commands = Commands::default();
        let words = argv(&["/bin/sh", "-c", &script, "sh", "a b", "$(id)", ""]);
        commands.start(&words, Duration::from_secs(10), crate::os::clock::steady(), 0).unwrap();
        assert_eq!(until_one_ends(&mut commands).1, Ended::Well);
        let text = crate::os::files::read_text(&out).unwrap();
        assert!(text.ends_with("<a b><$(id)><>"), "{text}");
        let names: Vec<_> = text.lines().filter_map(|line| line.split('=').next()).collect();
        // PWD, SHLVL and _ are the shell's own.
        assert!(
            names
                .iter()
                .all(|n| ["PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"].contains(n) || n.starts_with('<'))
        );
    }
}
