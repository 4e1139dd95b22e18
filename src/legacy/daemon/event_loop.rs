//! The legacy daemon's loop: signals, the pid file, the gate, and doors that work by themselves.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use super::args::KnockdArgs;
use super::doors::Doors;
use super::gate::LegacyGate;
use super::knock_log::KnockLog;
use super::reverse_dns::ReverseDns;
use super::settings::Settings;
use super::watcher_process::LegacyWatchConfig;
use super::{CLIENT, warn_replayable};
use crate::console::AdminError;
use crate::ipc::OnMissingInterface;
use crate::legacy::knockd::LogMessage;
use crate::os::files::{self, FileMode};
use crate::os::process::privileges::{self, Identity};
use crate::os::process::signals::Signals;
use crate::os::{host, poll};
use crate::state;
use crate::supervisor::child::CaptureConfig;
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::warn_of_nobody;

/// How long the loop sleeps at most.
const TICK: Duration = Duration::from_secs(10);
/// Whom the watcher becomes.
const USER: &str = "spa-knock";

/// The running daemon.
pub(in crate::legacy) struct LegacyDaemon {
    path: PathBuf,
    options: KnockdArgs,
    doors: Doors,
    gate: LegacyGate,
    /// Only a restart changes them.
    interfaces: Vec<String>,
    identity: Option<Identity>,
    pid_file: Option<PathBuf>,
    wanted_pid_file: PathBuf,
    /// Held, not used; none where nothing is kept.
    lock: Option<File>,
}

impl LegacyDaemon {
    /// Takes its folder, and the gate if a door has `Open`; reads what is still to be closed, and starts to watch.
    ///
    /// # Errors
    /// When one of them fails.
    pub(in crate::legacy) fn start(settings: Settings, options: KnockdArgs) -> Result<Self, AdminError> {
        let folder = options.state_dir.join(folder_name(&settings.path));
        let lock = match state::lock(&folder) {
            Ok(lock) => Some(lock),
            // Where nothing is kept, none is needed: as in a container without root.
            Err(_) if !settings.written.keeps_state() && !files::exists(&folder) => None,
            Err(failure) => return Err(with_hint(&failure)),
        };
        let mut gate = LegacyGate::open(&folder, &settings.written)?;
        if lock.is_some() {
            // What is in it decides what runs.
            files::check_private_tree(&folder)?;
        }
        let client = CLIENT.parse().map_err(AdminError::run)?;
        let identity = privileges::unprivileged(USER)
            .map_err(|error| AdminError::run(format_args!("watcher: {}", files::io_error_text(&error))))?;
        let lacking = privileges::lacking(identity);
        if !lacking.is_empty() {
            return Err(AdminError::run(format_args!("watcher: {}", host::lacking(&lacking))));
        }
        warn_of_nobody(USER, identity);
        let shown_interfaces = settings.shown_interfaces();
        let Settings { path, written, interfaces, log_file, pid_file } = settings;
        let verbose = options.verbose || options.debug;
        let names = options.lookup.then(|| ReverseDns::new(identity));
        let knock_log = KnockLog::open(log_file, written.options.syslog, verbose).with_names(names);
        let kept = lock.is_some().then_some(folder.as_path());
        let program = Rc::new(Ok(Program::find(Program::LEGACY_WATCHER)?));
        let mut doors = Doors::open(program, kept, client, knock_log).map_err(AdminError::run)?;
        let watch_config = LegacyWatchConfig {
            config: written.text.clone(),
            only_v4: options.only_ip_v4,
            capture: captures(&interfaces, identity),
        };
        let coming = doors
            .prepare(written.clone(), watch_config, OnMissingInterface::Fail)
            .map_err(AdminError::run)?;
        gate.activate(&written)?;
        doors.activate(coming);
        warn_replayable(doors.count());
        doors.knock_log().write(&LogMessage::Starting(&shown_interfaces));
        doors.knock_log().say(&format!("listening on {shown_interfaces}..."));
        doors.knock_log().flush_sinks();
        Ok(Self {
            path,
            options,
            doors,
            gate,
            interfaces,
            identity,
            pid_file: None,
            wanted_pid_file: pid_file,
            lock,
        })
    }

    /// Writes the process's number; what fails is only logged.
    pub(in crate::legacy) fn write_pid_file(&mut self) {
        let path = self.wanted_pid_file.clone();
        match files::replace(&path, FileMode::Public, format!("{}\n", std::process::id()).as_bytes()) {
            Ok(()) => self.pid_file = Some(path),
            Err(error) => self.doors.knock_log().write(&LogMessage::PidFile(&path, &error.reason)),
        }
    }

    /// Runs until a signal ends it; its number is the exit code, as in knockd.
    pub(in crate::legacy) fn run(mut self, mut signals: Signals) -> ExitCode {
        /// SIGTERM and SIGINT, signal(7).
        const TERM: u8 = 15;
        const INT: u8 = 2;
        loop {
            if let Err(error) = self.wait(&signals) {
                return AdminError::run(format_args!("poll: {error}")).exit();
            }
            signals.drain();
            if signals.stop() {
                break;
            }
            if signals.take_reload() {
                self.reload();
            }
            // What commands come to is for daemons that keep records; the log has it all.
            let outcomes = self.doors.drain_reports();
            self.gate.grant_all(outcomes);
            self.doors.run_due();
            self.gate.run_due();
        }
        self.doors.wait_for_commands();
        self.gate.suspend();
        self.doors.knock_log().say("closing...");
        self.doors.knock_log().write(&LogMessage::ShuttingDown);
        if let Some(path) = &self.pid_file {
            let _ = files::remove(path);
        }
        ExitCode::from(if signals.interrupt() { INT } else { TERM })
    }

    fn wait(&self, signals: &Signals) -> std::io::Result<()> {
        poll::wait(&[signals, &self.doors, &self.gate], TICK)
    }

    /// Takes up the config anew; one that is wrong changes nothing.
    fn reload(&mut self) {
        self.doors.knock_log().write(&LogMessage::Rereading(&self.path));
        let taken = Settings::read(&self.options).and_then(|new| {
            if self.lock.is_none() && new.written.keeps_state() {
                return Err(
                    "a door has something to close later, and no state folder is in use: restart the daemon"
                        .to_owned(),
                );
            }
            let watch_config = LegacyWatchConfig {
                config: new.written.text.clone(),
                only_v4: self.options.only_ip_v4,
                capture: captures(&self.interfaces, self.identity),
            };
            let syslog = new.written.options.syslog;
            let coming =
                self.doors.prepare(new.written.clone(), watch_config, OnMissingInterface::Continue)?;
            // The last thing that can fail: what is prepared goes then as it came.
            self.gate.activate(&new.written).map_err(|failure| failure.text())?;
            Ok((coming, new.log_file, syslog))
        });
        match taken {
            Ok((coming, log_file, syslog)) => {
                self.doors.activate(coming);
                self.doors.knock_log().turn_to(log_file, syslog);
            }
            Err(reason) => {
                log::error!("{reason}");
                self.doors.knock_log().write(&LogMessage::Kept(&reason));
                self.doors.knock_log().turn_to(None, false);
            }
        }
    }
}

fn captures(interfaces: &[String], identity: Option<Identity>) -> CaptureConfig {
    CaptureConfig { captures: true, interfaces: interfaces.to_vec(), log: None, identity }
}

/// A folder that cannot be used is mostly one that another user could use.
fn with_hint(failure: &AdminError) -> AdminError {
    let text = failure.text();
    if text.contains("\nhint: ") {
        return AdminError::run(text);
    }
    AdminError::run(format_args!(
        "{text}\nhint: --state-dir FOLDER names another folder, that this user can write to"
    ))
}

/// One folder for each config: its path, in characters that a name can have (as systemd-escape(1) does).
fn folder_name(path: &Path) -> String {
    let path = path.to_string_lossy();
    let mut name = String::new();
    for byte in path.trim_matches('/').bytes() {
        match byte {
            b'/' => name.push('-'),
            b'.' if name.is_empty() => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_config_has_a_folder_of_its_own() {
        for (path, name) in [
            ("/etc/knockd.conf", "etc-knockd.conf"),
            ("/etc/knockd-conf", "etc-knockd\\x2dconf"),
            ("/.x/../ä", "\\x2ex-..-\\xc3\\xa4"),
        ] {
            assert_eq!(folder_name(Path::new(path)), name);
        }
    }
}
