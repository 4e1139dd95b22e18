//! The event loop of `spa-knockd fwknopd`: signals, the pid file, the stanzas and the gate.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use super::args::FwknopdArgs;
use super::gate::FwknopGate;
use super::{process, read};
use crate::config::LEGACY_CLIENTS;
use crate::console::{AdminError, counted};
use crate::ipc::OnMissingInterface;
use crate::legacy::fwknop::service::FwknopService;
use crate::legacy::fwknop::settings::FwknopConfig;
use crate::legacy::fwknop::state_reset::reset_memory;
use crate::legacy::fwknop::watcher_process::FwknopWatchConfig;
use crate::os::files::{self, FileMode};
use crate::os::poll;
use crate::os::process::privileges::{self, Identity};
use crate::os::process::signals::Signals;
use crate::state;
use crate::supervisor::child::CaptureConfig;
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::warn_of_nobody;
use spa_knock_core::auth::{AuditEvent, AuditRecord};
use spa_knock_fwknop::ServerSettings;

/// Longest sleep of the event loop.
const TICK: Duration = Duration::from_secs(10);
/// The user that the watcher runs as.
const USER: &str = "spa-knock";
/// libpcap's name for all interfaces.
const ANY: &str = "any";

/// The running daemon.
pub(super) struct FwknopDaemon {
    options: FwknopdArgs,
    service: FwknopService,
    gate: FwknopGate,
    identity: Option<Identity>,
    pid_file: PathBuf,
    /// Keeps other daemons away from the state directory.
    _lock: File,
}

impl FwknopDaemon {
    /// Takes the state directory and the gate, and starts the watcher.
    ///
    /// # Errors
    /// If one of these steps fails.
    pub(super) fn start(options: FwknopdArgs, config: FwknopConfig) -> Result<Self, AdminError> {
        let folder = options.state_dir.clone();
        let lock = state::lock(&folder)?;
        let pid_file = process::pid_file(&options, &config.server);
        process::refuse_another(&pid_file)?;
        // Its files decide what runs as root.
        files::check_private_tree(&folder)?;
        if options.rotate_digest_cache {
            reset_memory(&folder, config.window(), false)?;
        }
        let identity = privileges::unprivileged(USER)
            .map_err(|error| AdminError::run(format_args!("watcher: {}", files::io_error_text(&error))))?;
        warn_of_nobody(USER, identity);
        let [_, name] = Program::LEGACY_WATCHERS;
        let program = Rc::new(Ok(Program::find(name)?));
        let [_, client] = LEGACY_CLIENTS;
        let mut service = FwknopService::open(&program, &folder, client.parse().map_err(AdminError::run)?)?;
        let config = Rc::new(config);
        let watch_config = watch_config(&config.server, identity);
        let next = service.prepare(Rc::clone(&config), watch_config, OnMissingInterface::Fail)?;
        // Last: a daemon that cannot receive packets changes nothing.
        let gate = FwknopGate::open(&folder, &config)?;
        service.activate(next);
        log::info!("ready: {}; {}", counted(service.count(), "stanza"), gate.summary());
        Ok(Self { options, service, gate, identity, pid_file, _lock: lock })
    }

    /// Writes the process id. Errors are only logged.
    pub(super) fn write_pid_file(&mut self) {
        if let Some(folder) = self.pid_file.parent()
            && let Err(error) = files::create_folder(folder, FileMode::Public)
        {
            log::warn!("{error}");
        }
        let text = format!("{}\n", std::process::id());
        if let Err(error) = files::replace(&self.pid_file, FileMode::Public, text.as_bytes()) {
            log::warn!("{error}\nhint: name another file with --pid-file");
        }
    }

    /// Runs until a signal stops it.
    pub(super) fn run(mut self, mut signals: Signals) -> ExitCode {
        loop {
            if let Err(error) = poll::wait(&[&signals, &self.service, &self.gate], TICK) {
                return AdminError::run(format_args!("poll: {error}")).exit();
            }
            signals.drain();
            if signals.stop() {
                break;
            }
            if signals.take_reload() {
                match self.reload() {
                    Ok(()) => log::info!("reloaded: {}", counted(self.service.count(), "stanza")),
                    Err(failure) => log::error!("not reloaded: {}", failure.text()),
                }
            }
            let outcomes = self.service.run_due();
            self.gate.carry_out(outcomes).iter().for_each(log_record);
            self.gate.run_due();
        }
        let outcomes = self.service.stop();
        self.gate.carry_out(outcomes).iter().for_each(log_record);
        self.gate.suspend();
        let _ = files::remove(&self.pid_file);
        crate::os::log::flush();
        ExitCode::SUCCESS
    }

    /// Reads both files again. Errors in them change nothing.
    fn reload(&mut self) -> Result<(), AdminError> {
        let config = Rc::new(read(&self.options)?);
        let watch_config = watch_config(&config.server, self.identity);
        let next = self.service.prepare(Rc::clone(&config), watch_config, OnMissingInterface::Continue)?;
        // The last step that can fail. If it does, the new watcher is dropped and nothing has changed.
        self.gate.replace(&config)?;
        self.service.activate(next);
        Ok(())
    }
}

/// Packets come by a capture, unless the file asks for a socket and nothing else needs a capture.
fn watch_config(server: &ServerSettings, identity: Option<Identity>) -> FwknopWatchConfig {
    let interfaces = server.interface.iter().filter(|name| *name != ANY).cloned().collect();
    let captures = !server.udp_server || server.http || server.tcp_server.is_some();
    FwknopWatchConfig::new(server, CaptureConfig { captures, interfaces, log: None, identity })
}

/// Logs a record as a sentence.
fn log_record(record: &AuditRecord) {
    let action = record.action.as_ref().map_or("packet", |action| action.as_str());
    let address = record.addresses.first().map(|address| format!(" for {address}")).unwrap_or_default();
    let sender = record.source.map(|source| format!(" from {}", source.ip())).unwrap_or_default();
    let seconds = record.for_seconds();
    let reason = record.reason.as_ref().map(|reason| format!(": {}", reason.detail)).unwrap_or_default();
    let line = format!("{action}{address}{sender}: {}{seconds}{reason}", record.event.as_str());
    match record.event {
        AuditEvent::Granted | AuditEvent::Done | AuditEvent::Expired | AuditEvent::Revoked => {
            log::info!("{line}")
        }
        AuditEvent::Refused | AuditEvent::Failed | AuditEvent::Replayed | AuditEvent::Stale => {
            log::warn!("{line}")
        }
    }
}
