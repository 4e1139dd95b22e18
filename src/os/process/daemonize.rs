//! Starts a process in the background that keeps running after its parent has exited. The program is started again
//! instead of forked, because a process with threads cannot fork safely.
#![allow(clippy::disallowed_methods, reason = "starts a process")]

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Environment variable that marks the background process. Commands of knocks never see it.
const MARK: &str = "SPA_KNOCKD_BACKGROUND";

/// Whether this process was started by [`start`].
#[must_use]
pub fn is_background() -> bool {
    crate::os::env::text(MARK).is_some()
}

/// Starts this program again as `name` with the same arguments (the first is the program name) and a channel as its
/// standard input.
///
/// # Errors
/// When that fails.
pub fn start(name: &str, args: &[OsString], channel: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    // The name selects the legacy daemon, however this process was called.
    command.arg0(name).args(args.iter().skip(1));
    command.env(MARK, "1").stdin(channel).stdout(Stdio::null()).spawn()
}

/// Leaves the session and the working directory of the parent process.
pub fn detach(folder: &Path) {
    // Fails if this process is already a session leader, which is fine.
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir(folder);
}

/// Redirects the three standard streams to /dev/null.
pub fn close_streams() {
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}
