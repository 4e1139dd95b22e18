//! `-S`, `-K` and `-R`: the daemon that is running.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::args::FwknopdArgs;
use super::read;
use crate::console::{AdminError, print};
use crate::os::{clock, files, host};
use crate::state;
use spa_knock_fwknop::ServerSettings;

/// The file in FWKNOP_RUN_DIR.
const PID_FILE: &str = "fwknopd.pid";
/// How long a daemon may take to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Where the process id is written.
pub(super) fn pid_file(options: &FwknopdArgs, server: &ServerSettings) -> PathBuf {
    options.pid_file.clone().unwrap_or_else(|| server.run_directory.join(PID_FILE))
}

/// `-S`: whether a daemon is running; the exit code is 1 if not, as that of fwknopd.
pub(super) fn status(options: &FwknopdArgs) -> Result<ExitCode, AdminError> {
    if !state::is_locked(&options.state_dir) {
        print("fwknopd is not running\n")?;
        return Ok(ExitCode::FAILURE);
    }
    match running(options) {
        Ok(pid) => print(&format!("fwknopd is running (pid {pid})\n"))?,
        Err(_) => print("fwknopd is running; its pid file cannot be read\n")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `-K`: stops the daemon, and waits for its end.
pub(super) fn stop(options: &FwknopdArgs) -> Result<(), AdminError> {
    let pid = running(options)?;
    send(pid, Signal::SIGTERM)?;
    let deadline = clock::steady().plus(STOP_MAX);
    while state::is_locked(&options.state_dir) {
        if clock::steady() >= deadline {
            return Err(AdminError::run(format_args!("fwknopd (pid {pid}) has not stopped after 10 s")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    print("fwknopd has stopped; active grants end at their time\n")
}

/// `-R`: makes the daemon read its files again, if they have no errors.
pub(super) fn reload(options: &FwknopdArgs) -> Result<(), AdminError> {
    // An error is better reported here than in the daemon's log.
    read(options)?;
    send(running(options)?, Signal::SIGHUP)
}

/// The process id of the running daemon.
fn running(options: &FwknopdArgs) -> Result<Pid, AdminError> {
    if !state::is_locked(&options.state_dir) {
        return Err(AdminError::run("fwknopd is not running\nhint: start it with `fwknopd`"));
    }
    // With errors in its files, the daemon that is running can still be stopped.
    let server = read(options).map(|config| config.server).unwrap_or_default();
    let path = pid_file(options, &server);
    let text = files::read_trusted_text(&path)?;
    let pid = text.trim().parse().ok().filter(|&pid: &i32| pid > 1);
    pid.map(Pid::from_raw).ok_or_else(|| {
        AdminError::run(format_args!(
            "{}: not a process id\nhint: find it with `pgrep -f fwknopd`",
            path.display()
        ))
    })
}

/// Refuses to start beside fwknopd itself, which would open the same ports, and whose pid file this daemon would replace.
/// Another daemon of ours holds a lock.
///
/// # Errors
/// If the pid file names a process that is fwknopd.
pub(super) fn refuse_another(pid_file: &Path) -> Result<(), AdminError> {
    let Some(pid) = files::read_trusted_text(pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok())
    else {
        return Ok(());
    };
    if host::process_name(pid).as_deref() != Some("fwknopd") || pid == std::process::id() {
        return Ok(());
    }
    Err(AdminError::run(format_args!(
        "{}: another fwknopd (pid {pid}) is running\nhint: systemctl disable --now fwknop-server, or kill {pid}",
        pid_file.display()
    )))
}

fn send(pid: Pid, signal: Signal) -> Result<(), AdminError> {
    kill(pid, signal).map_err(|error| AdminError::run(format_args!("fwknopd (pid {pid}): {}", error.desc())))
}
