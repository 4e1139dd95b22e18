//! A command in the foreground: it has our terminal, and its exit code becomes ours.
#![allow(clippy::disallowed_methods, reason = "one of the modules that start processes")]

use std::ffi::OsString;
use std::io;
use std::process::{Child, Command, ExitStatus};

/// A running command. Dropping it does not end it.
pub struct ForegroundCommand(Child);

impl ForegroundCommand {
    /// Starts a program with its arguments, with our standard streams and our environment without the variable
    /// `secret`.
    ///
    /// # Errors
    /// When there is no such program, or it cannot be executed.
    pub fn start(command: &[OsString], secret: &str) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::NotFound)?;
        Command::new(program).args(arguments).env_remove(secret).spawn().map(Self)
    }

    /// Its exit code, once it has ended. Does not wait.
    ///
    /// # Errors
    /// When the system does not know it.
    pub fn exit_code(&mut self) -> io::Result<Option<u8>> {
        Ok(self.0.try_wait()?.map(code))
    }

    /// Whether it has stopped because of its terminal, or by itself as Ctrl-Z does, and has not continued. Only Linux reports that.
    #[cfg(unix)]
    pub fn has_suspended_itself(&self) -> bool {
        #[cfg(target_os = "linux")]
        if let Ok(id) = i32::try_from(self.0.id()) {
            use nix::sys::signal::Signal::{SIGTSTP, SIGTTIN, SIGTTOU};
            use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
            let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let stopped = waitid(Id::Pid(nix::unistd::Pid::from_raw(id)), flags);
            return matches!(stopped, Ok(WaitStatus::Stopped(_, SIGTSTP | SIGTTIN | SIGTTOU)));
        }
        false
    }

    /// Sends it a signal. Only before [`Self::exit_code`] has returned a code: until then, no other process can have its id.
    #[cfg(unix)]
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        if let Ok(id) = i32::try_from(self.0.id()) {
            // Fails if it has ended, which is what the signal asks for.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal);
        }
    }
}

/// The exit code that a shell reports: 128 and the number of the signal that ended the command. Codes that do not fit,
/// which exist on Windows only, become 255.
fn code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX);
    }
    status.code().map_or(u8::MAX, |code| u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    fn start(script: &str) -> io::Result<ForegroundCommand> {
        ForegroundCommand::start(&["sh", "-c", script].map(OsString::from), "HOME")
    }

    fn ended(command: &mut ForegroundCommand) -> u8 {
        loop {
            if let Some(code) = command.exit_code().unwrap() {
                return code;
            }
            sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_exit_code_is_the_one_that_a_shell_reports() {
        for (script, code) in
            [("exit 0", 0), ("exit 77", 77), ("kill -KILL $$", 137), ("test -z \"${HOME+set}\"", 0)]
        {
            assert_eq!(ended(&mut start(script).unwrap()), code, "{script}");
        }
        let missing = ForegroundCommand::start(&["/no/such/program".into()], "HOME");
        assert_eq!(missing.err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_signal_is_passed_on_to_a_running_command() {
        let mut command = start("exec sleep 60").unwrap();
        assert_eq!(command.exit_code().unwrap(), None);
        command.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(ended(&mut command), 143);
    }
}
