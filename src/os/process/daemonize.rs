//! A process that goes on when who started it has ended. It is started anew instead of being forked, which no process
//! with threads can do safely.
#![allow(clippy::disallowed_methods, reason = "starts a process, as the runner does")]

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Tells a process that it is the one in the background. Commands of knocks never see it.
const MARK: &str = "SPA_KNOCKD_BACKGROUND";

/// Whether this process was started by [`start`].
#[must_use]
pub fn is_here() -> bool {
    crate::os::env::text(MARK).is_some()
}

/// Starts this very program again with the same words, the first of which is its name, and a channel as its standard
/// input.
///
/// # Errors
/// When that fails.
pub fn start(words: &[OsString], channel: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    // Whatever it is called, it must be known for the legacy daemon.
    command.arg0("knockd").args(words.iter().skip(1));
    command.env(MARK, "1").stdin(channel).stdout(Stdio::null()).spawn()
}

/// Out of the session of who started it, and out of his folder.
pub fn detach(folder: &Path) {
    // Who leads a session already has nothing to leave.
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir(folder);
}

/// Nothing more is read or said.
pub fn close_streams() {
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}
