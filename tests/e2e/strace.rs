//! strace attached to a running process: makes system calls fail, or kills the process at a call.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::{SOON, within};

/// A strace attached to a process; detached when dropped.
pub(crate) struct Strace {
    child: Child,
    process: Pid,
}

impl Strace {
    /// Attaches strace with these arguments; it writes its output to `log`.
    pub(crate) fn attach(process: Pid, args: &[impl AsRef<str>], log: &Path) -> Self {
        let mut command = Command::new("strace");
        command.args(["-q", "-I2", "-o"]).arg(log).args(args.iter().map(AsRef::as_ref));
        let child = command.args(["-p", &process.to_string()]).stderr(Stdio::null()).spawn();
        let strace = Self { child: child.expect("strace is needed"), process };
        assert!(within(SOON, || tracer(process).is_some()), "strace does not attach");
        strace
    }

    /// Waits until the process and strace have exited.
    pub(crate) fn wait(mut self) {
        assert!(
            within(SOON, || self.child.try_wait().unwrap().is_some()),
            "the traced process has not exited"
        );
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            detach(self.process);
            let _ = self.child.wait();
        }
    }
}

/// Stops the strace of a process; the process continues.
pub(crate) fn detach(process: Pid) {
    if let Some(strace) = tracer(process) {
        // It may have exited with its process.
        let _ = kill(strace, Signal::SIGTERM);
    }
    let detached = within(SOON, || tracer(process).is_none());
    assert!(detached || std::thread::panicking(), "strace does not detach");
}

/// The process that traces `process`.
fn tracer(process: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().unwrap();
    (tracer != 0).then(|| Pid::from_raw(tracer))
}
