//! Starts processes: programs that run until they exit, processes of our own, and commands that another module
//! supervises. The only module that does.
#![allow(clippy::disallowed_methods, reason = "this is the place that the rule points to")]

mod dialog;

use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::daemonize::is_background;
use super::orphans;
use super::privileges::Identity;

/// The `PATH` of commands.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Why running a program failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such program.
    #[error("{0}: not found")]
    NotFound(String),
    /// It could not be started or given its input.
    #[error("{0}: {1}")]
    Io(String, String),
    /// It failed. Includes the first line of its error output.
    #[error("{program}: {status}{output}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: ExitStatus,
        /// The first line of its error output, with `: ` before it; empty if there was none.
        output: String,
    },
}

/// Runs a program with this input until it exits, for at most `limit`. Returns its output.
///
/// # Errors
/// When it cannot be started, does not exit in time, or fails.
pub fn run_to_end(program: &str, args: &[&str], input: &str, limit: Duration) -> Result<String, RunError> {
    let error = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => RunError::NotFound(program.to_owned()),
        _ => RunError::Io(program.to_owned(), crate::os::files::io_error_text(&error)),
    };
    let mut command = with_clean_env(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = orphans::spawn(&mut command).map_err(error)?;
    let dialog::ProgramEnd { status, output, error_output, is_cut } =
        dialog::run(&mut child, input, limit).map_err(error)?;
    match status {
        None => Err(RunError::Io(program.to_owned(), format!("did not exit within {} s", limit.as_secs()))),
        Some(status) if status.success() && is_cut => {
            Err(RunError::Io(program.to_owned(), "output too long".to_owned()))
        }
        Some(status) if status.success() => Ok(String::from_utf8_lossy(&output).into_owned()),
        Some(status) => {
            let error_output = String::from_utf8_lossy(&error_output);
            let output =
                error_output.lines().next().map(|line| format!(": {}", line.trim())).unwrap_or_default();
            Err(RunError::Failed { program: program.to_owned(), status, output })
        }
    }
}

/// Waits until the leader of a process group exits, for at most this time, then kills it. All other processes of the
/// group are killed in either case.
pub fn wait_or_kill(leader: &mut Child, within: Duration) {
    let deadline = crate::os::clock::steady().plus(within);
    while crate::os::clock::steady() < deadline {
        match leader.try_wait() {
            Ok(Some(_)) | Err(_) => return kill_group(leader),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    kill_group(leader);
    let _ = leader.wait();
}

/// Kills the leader of a process group and the whole group.
pub fn kill_group(leader: &Child) {
    signal_group(leader, Signal::SIGKILL);
}

pub(in crate::os) fn signal_group(leader: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(leader.id()) {
        // It may just have exited.
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}

/// Starts a process of ours from the open file of its program, with a channel as its standard input, optionally a socket
/// as its standard output, and these environment variables besides those of its log.
///
/// # Errors
/// When that fails.
pub fn start_with_channel(
    program: BorrowedFd<'_>,
    name: &str,
    channel: OwnedFd,
    socket: Option<OwnedFd>,
    environment: &[(&str, &str)],
) -> io::Result<Child> {
    let mut command = own_process(&format!("/proc/self/fd/{}", program.as_raw_fd()), name);
    command.envs(environment.iter().copied());
    // Protected from the terminal's Ctrl-C: it exits when this process does.
    command.process_group(0).stdin(channel).stdout(socket.map_or_else(Stdio::null, Stdio::from));
    if is_background() {
        // A program that waits for the end of our output, such as ssh, must not wait for it.
        command.stderr(Stdio::null());
    }
    orphans::spawn(&mut command)
}

/// Starts this program again as a process of ours that writes to `output`. It is in our process group, so it ends
/// together with this process.
///
/// # Errors
/// When that fails.
pub fn start_to_read(argument: &str, file: Option<&Path>, output: OwnedFd) -> io::Result<Child> {
    let mut command = own_process("/proc/self/exe", "spa-knock-log");
    orphans::spawn(command.arg(argument).args(file).stdin(Stdio::null()).stdout(output))
}

/// Replaces this process by a program, with a clean environment. Returns only on error.
pub fn become_program(program: &str, args: &[&str]) -> RunError {
    let error = with_clean_env(program).args(args).exec();
    match error.kind() {
        io::ErrorKind::NotFound => RunError::NotFound(program.to_owned()),
        _ => RunError::Io(program.to_owned(), crate::os::files::io_error_text(&error)),
    }
}

/// A process of ours, with the environment variables that its log needs.
fn own_process(path: &str, name: &str) -> Command {
    let journal = crate::os::env::text("JOURNAL_STREAM");
    let level = crate::os::env::text("SPA_KNOCKD_LOG");
    let mut command = Command::new(path);
    command.arg0(name).env_clear();
    for (name, value) in [("JOURNAL_STREAM", journal), ("SPA_KNOCKD_LOG", level)] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}

/// Starts a command without a shell: clean environment, `/` as working directory, no input, both outputs to `output`, a
/// process group of its own, no other descriptors. With an identity, it runs as that user, without other groups and
/// capabilities.
pub(in crate::os) fn start(
    argv: &[String],
    output: PipeWriter,
    identity: Option<Identity>,
) -> Result<Child, RunError> {
    let (program, args) = argv.split_first().ok_or_else(|| RunError::NotFound(String::new()))?;
    let error = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => RunError::NotFound(program.clone()),
        _ => RunError::Io(program.clone(), crate::os::files::io_error_text(&error)),
    };
    let error_output = output.try_clone().map_err(error)?;
    let mut command = with_clean_env(program);
    command.args(args).stdin(Stdio::null()).stdout(output).stderr(error_output).process_group(0);
    if let Some(Identity { uid, gid }) = identity {
        command.gid(gid).uid(uid);
    }
    orphans::spawn(&mut command).map_err(error)
}

fn with_clean_env(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").current_dir("/");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_returns_its_output_or_the_reason_of_its_failure() {
        let limit = Duration::from_secs(10);
        assert_eq!(run_to_end("cat", &[], "text", limit).unwrap(), "text");
        let missing = run_to_end("/nonexistent/program", &[], "", limit).unwrap_err();
        assert_eq!(missing.to_string(), "/nonexistent/program: not found");
        let failed = run_to_end("sh", &["-c", "echo why >&2; exit 3"], "", limit).unwrap_err();
        assert_eq!(failed.to_string(), "sh: exit status: 3: why");
        // More input than a pipe holds, for a program that never reads and whose child also holds the pipe.
        let long = "x".repeat(1 << 20);
        let hung = run_to_end("sh", &["-c", "sleep 100 & sleep 100"], &long, Duration::from_millis(200));
        assert_eq!(hung.unwrap_err().to_string(), "sh: did not exit within 0 s");
    }

    #[test]
    fn a_process_that_outlives_the_program_and_keeps_its_pipes_is_not_waited_for() {
        let start_time = crate::os::clock::steady();
        // In the program's process group and in a separate one, with more input than a pipe holds.
        for child in ["sleep 20 &", "setsid sleep 20 &"] {
            let script = format!("{child} echo done");
            let input = "x".repeat(1 << 20);
            let output = run_to_end("sh", &["-c", &script], &input, Duration::from_secs(30)).unwrap();
            assert_eq!(output, "done\n");
        }
        assert!(crate::os::clock::steady().since(start_time) < Duration::from_secs(15));
    }

    #[test]
    fn an_output_that_is_too_long_to_be_kept_is_an_error() {
        let script = "head -c 40000000 /dev/zero | tr '\\0' x";
        let cut = run_to_end("sh", &["-c", script], "", Duration::from_secs(30));
        assert_eq!(cut.unwrap_err().to_string(), "sh: output too long");
    }
}
