//! The event loop of the legacy daemon: signals, the pid file, the doors and the gate.

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
use crate::os::poll;
use crate::os::process::capabilities::{self, Need};
use crate::os::process::privileges::{self, Identity};
use crate::os::process::signals::Signals;
use crate::state;
use crate::supervisor::child::CaptureConfig;
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::warn_of_nobody;

/// Longest sleep of the event loop.
const TICK: Duration = Duration::from_secs(10);
/// The user that the watcher runs as.
const USER: &str = "spa-knock";

/// The running daemon.
pub(in crate::legacy) struct LegacyDaemon {
    path: PathBuf,
    options: KnockdArgs,
    doors: Doors,
    gate: LegacyGate,
    /// Changed only by a restart.
    interfaces: Vec<String>,
    identity: Option<Identity>,
    pid_file: Option<PathBuf>,
    wanted_pid_file: PathBuf,
    /// Keeps the lock held. `None` if no state is kept.
    lock: Option<File>,
}

impl LegacyDaemon {
    /// Takes the state directory, and the gate if a door has `Open`; loads pending stop commands and starts the
    /// watcher.
    ///
    /// # Errors
    /// If one of these steps fails.
    pub(in crate::legacy) fn start(settings: Settings, options: KnockdArgs) -> Result<Self, AdminError> {
        let folder = options.state_dir.join(folder_name(&settings.path));
        let lock = match state::lock(&folder) {
            Ok(lock) => Some(lock),
            // A config that keeps no state needs no directory, for example in a container without root.
            Err(_) if !settings.knockd_config.keeps_state() && !files::exists(&folder) => None,
            Err(failure) => return Err(with_hint(&failure)),
        };
        let mut gate = LegacyGate::open(&folder, &settings.knockd_config)?;
        if lock.is_some() {
            // Its files decide what runs as root.
            files::check_private_tree(&folder)?;
        }
        let client = CLIENT.parse().map_err(AdminError::run)?;
        let identity = privileges::unprivileged(USER)
            .map_err(|error| AdminError::run(format_args!("watcher: {}", files::io_error_text(&error))))?;
        if let Some(missing) = privileges::need_of(identity).and_then(Need::missing) {
            // This config has no key for the user.
            return Err(AdminError::run(capabilities::missing_text(&[Need { key: "watcher", ..missing }])));
        }
        warn_of_nobody(USER, identity);
        let shown_interfaces = settings.shown_interfaces();
        let Settings { path, knockd_config, interfaces, log_file, pid_file } = settings;
        let verbose = options.verbose || options.debug;
        let names = options.lookup.then(|| ReverseDns::new(identity));
        let knock_log = KnockLog::open(log_file, knockd_config.options.syslog, verbose).with_names(names);
        let kept = lock.is_some().then_some(folder.as_path());
        let program = Rc::new(Ok(Program::find(Program::LEGACY_WATCHERS[0])?));
        let mut doors = Doors::open(program, kept, client, knock_log).map_err(AdminError::run)?;
        let watch_config = LegacyWatchConfig {
            config: knockd_config.text.clone(),
            only_v4: options.only_ip_v4,
            capture: captures(&interfaces, identity),
        };
        let next = doors
            .prepare(knockd_config.clone(), watch_config, OnMissingInterface::Fail)
            .map_err(AdminError::run)?;
        gate.activate(&knockd_config)?;
        doors.activate(next);
        warn_replayable(doors.count());
        doors.knock_log().write(&LogMessage::Starting(&shown_interfaces));
        doors.knock_log().print_verbose(&format!("listening on {shown_interfaces}..."));
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

    /// Writes the process id. Errors are only logged.
    pub(in crate::legacy) fn write_pid_file(&mut self) {
        let path = self.wanted_pid_file.clone();
        match files::replace(&path, FileMode::Public, format!("{}\n", std::process::id()).as_bytes()) {
            Ok(()) => self.pid_file = Some(path),
            Err(error) => self.doors.knock_log().write(&LogMessage::PidFile(&path, &error.reason)),
        }
    }

    /// Runs until a signal stops it. The exit code is the number of the signal, as in knockd.
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
            // The outcomes of run_due are for the audit log of `spa-knockd run`; this daemon has only the knockd log.
            let outcomes = self.doors.drain_reports();
            self.gate.grant_all(outcomes);
            self.doors.run_due();
            self.gate.run_due();
        }
        self.doors.wait_for_commands();
        self.gate.suspend();
        self.doors.knock_log().print_verbose("closing...");
        self.doors.knock_log().write(&LogMessage::ShuttingDown);
        if let Some(path) = &self.pid_file {
            let _ = files::remove(path);
        }
        ExitCode::from(if signals.interrupt() { INT } else { TERM })
    }

    fn wait(&self, signals: &Signals) -> std::io::Result<()> {
        poll::wait(&[signals, &self.doors, &self.gate], TICK)
    }

    /// Loads the config again. An invalid config changes nothing.
    fn reload(&mut self) {
        self.doors.knock_log().write(&LogMessage::Rereading(&self.path));
        let prepared = Settings::read(&self.options).and_then(|new| {
            if self.lock.is_none() && new.knockd_config.keeps_state() {
                return Err(
                    "a door has a stop command or Open, but no state directory is in use; restart the daemon"
                        .to_owned(),
                );
            }
            let watch_config = LegacyWatchConfig {
                config: new.knockd_config.text.clone(),
                only_v4: self.options.only_ip_v4,
                capture: captures(&self.interfaces, self.identity),
            };
            let syslog = new.knockd_config.options.syslog;
            let next =
                self.doors.prepare(new.knockd_config.clone(), watch_config, OnMissingInterface::Continue)?;
            // The last step that can fail. If it does, the new watcher is dropped and nothing has changed.
            self.gate.activate(&new.knockd_config).map_err(|failure| failure.text())?;
            Ok((next, new.log_file, syslog))
        });
        match prepared {
            Ok((next, log_file, syslog)) => {
                self.doors.activate(next);
                self.doors.knock_log().reopen(log_file, syslog);
            }
            Err(reason) => {
                log::error!("{reason}");
                self.doors.knock_log().write(&LogMessage::Kept(&reason));
                self.doors.knock_log().reopen(None, false);
            }
        }
    }
}

fn captures(interfaces: &[String], identity: Option<Identity>) -> CaptureConfig {
    CaptureConfig { captures: true, interfaces: interfaces.to_vec(), log: None, identity }
}

/// Adds a hint, because a directory that cannot be used usually belongs to another user.
fn with_hint(failure: &AdminError) -> AdminError {
    let text = failure.text();
    if text.contains("\nhint: ") {
        return AdminError::run(text);
    }
    AdminError::run(format_args!(
        "{text}\nhint: use --state-dir to name a directory that this user can write to"
    ))
}

/// The name of the state directory for a config: its path, escaped like systemd-escape(1) does.
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
    fn each_config_has_its_own_state_directory() {
        for (path, name) in [
            ("/etc/knockd.conf", "etc-knockd.conf"),
            ("/etc/knockd-conf", "etc-knockd\\x2dconf"),
            ("/.x/../ä", "\\x2ex-..-\\xc3\\xa4"),
        ] {
            assert_eq!(folder_name(Path::new(path)), name);
        }
    }
}
