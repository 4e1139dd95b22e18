//! strace beside a running process: it makes calls fail, or kills at them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::within;

/// How long attaching and letting go may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A strace that was attached to a process; dropped, it lets go.
pub(crate) struct Strace {
    child: Child,
    process: Pid,
}

impl Strace {
    /// Attaches one with these words, which writes what it sees to `log`.
    pub(crate) fn attach(process: Pid, words: &[impl AsRef<str>], log: &Path) -> Self {
        let mut command = Command::new("strace");
        command.args(["-q", "-I2", "-o"]).arg(log).args(words.iter().map(AsRef::as_ref));
        let child = command.args(["-p", &process.to_string()]).stderr(Stdio::null()).spawn();
        let strace = Self { child: child.expect("strace is needed"), process };
        assert!(within(PATIENCE, || tracer(process).is_some()), "strace does not attach");
        strace
    }

    /// Waits until the process has ended, and strace with it.
    pub(crate) fn wait(mut self) {
        assert!(within(PATIENCE, || self.child.try_wait().unwrap().is_some()), "its process lives on");
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let_go(self.process);
            let _ = self.child.wait();
        }
    }
}

/// Ends the strace of a process, which goes on without.
pub(crate) fn let_go(process: Pid) {
    if let Some(strace) = tracer(process) {
        // It may be gone with its process.
        let _ = kill(strace, Signal::SIGTERM);
    }
    let alone = within(PATIENCE, || tracer(process).is_none());
    assert!(alone || std::thread::panicking(), "strace does not let go");
}

/// Who traces a process.
fn tracer(process: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().unwrap();
    (tracer != 0).then(|| Pid::from_raw(tracer))
}
