//! `spa-knockd run`: starts the daemon from its config file in a fixed sequence of states, one type per state.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use super::actions::{self, Executor};
use super::event_loop::Daemon;
use super::fleet::FleetService;
use super::legacy::{self, LegacyFiles, LegacyServices};
use crate::audit::AuditLog;
use crate::config::BackendKind;
use crate::config::revoked_keys::RevokedKeys;
use crate::config::setup::Setup;
use crate::console::AdminError;
use crate::firewall::{FirewallMode, Iptables};
use crate::gate::lock::lock_gate;
use crate::gate::state::GateState;
use crate::gate::{self, Gate, boot, takeover};
use crate::os::files::{self, FileError};
use crate::os::process::capabilities::{Need, missing_text};
use crate::os::process::fds;
use crate::os::process::privileges::{self, RequiredRights};
use crate::os::process::signals::Signals;
use crate::os::{clock, log as os_log};
use crate::state::{self, Leftover, ReplayFolder, UndoQueue};
use crate::supervisor::program::Programs;
use crate::supervisor::watcher_supervisor::{Start, WatcherSupervisor};
use spa_knock_core::auth::{ActionPart, ReplayMemory};

/// Runs the daemon in the foreground until SIGTERM or SIGINT.
#[must_use]
pub(crate) fn run(path: &Path) -> ExitCode {
    fds::close_inherited();
    files::restrict_umask();
    os_log::start("spa-knockd");
    // Comes first: a SIGHUP while keys are being loaded must not end the daemon.
    let signals = Signals::listen().map_err(|error| AdminError::run(format_args!("signals: {error}")));
    let started = signals.and_then(|signals| {
        Configured::load(path)
            .and_then(Configured::require_capabilities)
            .and_then(|configured| Ok((Programs::find()?, configured)))
            .inspect_err(|_| boot::close_despite_config(path))
            .and_then(|(programs, configured)| configured.confine(programs))?
            .lock()?
            .close_gate_if_closed_before()?
            .check_state()?
            .restore()?
            .listen()?
            .close_gate()
            .map(|gated| (gated, signals))
    });
    match started.map(|(gated, signals)| Daemon::start(gated, signals)) {
        Ok(daemon) => daemon.run(),
        Err(failure) => failure.exit(),
    }
}

/// The config, the keys and the knockd.conf that the config names are loaded and valid.
pub(crate) struct Configured {
    pub(crate) setup: Setup,
    /// What `[legacy]` names.
    pub(crate) legacy_files: LegacyFiles,
}

/// Privileges that this config does not need have been dropped.
struct Confined {
    configured: Configured,
    /// Opened before privileges were dropped.
    programs: Programs,
}

/// The state directory and the gate of this network namespace are locked by this daemon.
pub(crate) struct Locked {
    configured: Configured,
    programs: Programs,
    locks: Vec<File>,
    /// Whether the state directory can be used.
    state: Result<(), FileError>,
    /// Already closed if the daemon has run here before.
    gate: Gate,
}

/// The replay memory is restored and the journal can be written.
pub(crate) struct Restored {
    locked: Locked,
    state: ReplayFolder,
    memory: ReplayMemory,
    undo_queue: UndoQueue,
    left: Vec<Leftover>,
}

/// The port is bound and the watcher is running.
pub(crate) struct Listening {
    restored: Restored,
    supervisor: WatcherSupervisor,
    legacy: LegacyServices,
    fleet: FleetService,
}

/// The gate is applied: only a grant opens a protected port.
pub(crate) struct Enforcing {
    pub(crate) configured: Configured,
    pub(crate) locks: Vec<File>,
    pub(crate) supervisor: WatcherSupervisor,
    pub(crate) legacy: LegacyServices,
    pub(crate) fleet: FleetService,
    pub(crate) executor: Executor,
    pub(crate) audit: AuditLog,
    pub(crate) state: ReplayFolder,
    pub(crate) memory: ReplayMemory,
}

impl Configured {
    /// Loads config, keys and what `[legacy]` names.
    pub(crate) fn load(path: &Path) -> Result<Self, AdminError> {
        let setup = Setup::load(path)?;
        let legacy_files = legacy::load(&setup.config)?;
        Ok(Self { setup, legacy_files })
    }

    /// Verifies that the process has the capabilities that this config needs, before anything is changed.
    fn require_capabilities(self) -> Result<Self, AdminError> {
        let missing: Vec<_> = self.setup.config.needs().into_iter().filter_map(Need::missing).collect();
        if missing.is_empty() { Ok(self) } else { Err(AdminError::run(missing_text(&missing))) }
    }

    /// Permanently drops the privileges that this config does not need.
    fn confine(self, programs: Programs) -> Result<Confined, AdminError> {
        let config = &self.setup.config;
        let health_port = config.health.as_ref().map(|health| health.address.port());
        let needs = match runs_commands(&self.setup, &self.legacy_files) {
            true => RequiredRights::Everything,
            false => RequiredRights::Knocking {
                lowest_port: health_port.map_or(config.port, |health| health.min(config.port)),
            },
        };
        if config.backend == BackendKind::Iptables {
            // Loading kernel modules for iptables needs more privileges than the daemon keeps.
            Iptables::prime(&self.tables());
        }
        privileges::retain_capabilities(needs)
            .map_err(|error| AdminError::run(format_args!("dropping privileges: {error}")))?;
        os_log::start_thread();
        Ok(Confined { configured: self, programs })
    }

    /// The iptables tables that this config needs.
    fn tables(&self) -> Vec<&'static str> {
        let mut parts = self.setup.config.actions.values().flat_map(|action| &action.parts);
        let mut tables = vec!["filter"];
        let marks = matches!(self.setup.config.mode, FirewallMode::Mark(_));
        tables.extend((marks || !self.setup.config.published.is_empty()).then_some("mangle"));
        tables.extend(parts.any(|part| matches!(part, ActionPart::Forward { .. })).then_some("nat"));
        tables
    }
}

impl Confined {
    /// Locks the state directory and the gate. An unusable state directory is reported only after the gate is closed.
    fn lock(self) -> Result<Locked, AdminError> {
        let Self { configured, programs } = self;
        let folder = &configured.setup.config.state_dir;
        let (mut locks, mut state) = (Vec::new(), Ok(()));
        match state::try_lock(folder) {
            Ok(lock) => locks.push(lock.ok_or_else(|| state::in_use(folder))?),
            Err(error) => {
                let hint = "check with mount and df whether it is read-only or full";
                state = Err(FileError { hint: error.hint.or_else(|| Some(hint.to_owned())), ..error });
            }
        }
        if configured.setup.config.backend != BackendKind::None {
            locks.extend(lock_gate(
                "only one daemon can run, and it serves all clients and ports; stop the other first",
            )?);
        }
        // If the file cannot be read, assume that the gate was closed before.
        let gate_state = GateState::read_trusted(folder).unwrap_or(GateState::Closed);
        let gate = gate::config::open(&configured.setup, gate_state)?;
        Ok(Locked { configured, programs, locks, state, gate })
    }
}

/// Whether knocks can run commands from the config or from what `[legacy]` names.
pub(crate) fn runs_commands(setup: &Setup, legacy_files: &LegacyFiles) -> bool {
    let mut parts = setup.config.actions.values().flat_map(|action| &action.parts);
    parts.any(|part| matches!(part, ActionPart::Run { .. })) || legacy_files.runs_commands()
}

impl Locked {
    /// If the daemon has run here before, closes the gate before any step that can fail: a missing interface at boot
    /// leaves no port open.
    fn close_gate_if_closed_before(mut self) -> Result<Self, AdminError> {
        if self.gate.gate_state() != GateState::NeverClosed {
            self.gate.load(&self.configured.setup).map_err(AdminError::run)?;
        }
        Ok(self)
    }

    /// Verifies that no one else can write to the state directory. Its files decide which commands run and whether the
    /// gate is on, so nothing else is read from it before this check.
    fn check_state(mut self) -> Result<Self, AdminError> {
        let trusted = files::check_private_tree(&self.configured.setup.config.state_dir);
        trusted.and(std::mem::replace(&mut self.state, Ok(())))?;
        Ok(self)
    }

    fn restore(self) -> Result<Restored, AdminError> {
        RevokedKeys::read(&self.configured.setup.config.state_dir)?;
        let (state, memory) = state::open(&self.configured.setup.config).map_err(AdminError::run)?;
        let (undo_queue, left) =
            state::open_undo_queue(&self.configured.setup.config).map_err(AdminError::run)?;
        Ok(Restored { locked: self, state, memory, undo_queue, left })
    }
}

impl Restored {
    fn listen(self) -> Result<Listening, AdminError> {
        let start = match self.locked.gate.gate_state() {
            GateState::NeverClosed => Start::First,
            GateState::Closed | GateState::Open | GateState::Trial(_) => Start::Later,
        };
        let Locked { configured: Configured { setup, legacy_files }, programs, .. } = &self.locked;
        let supervisor = WatcherSupervisor::open(&programs.watcher, setup, start)?;
        let legacy = LegacyServices::start(&programs.legacy, &setup.config, legacy_files, start)?;
        let fleet = FleetService::start(programs, setup)?;
        Ok(Listening { supervisor, legacy, fleet, restored: self })
    }
}

impl Listening {
    /// Closes the gate. At the first start this comes last, so that a daemon that cannot receive knocks locks no one
    /// out.
    fn close_gate(self) -> Result<Enforcing, AdminError> {
        let Restored { locked: Locked { configured, locks, mut gate, .. }, state, memory, undo_queue, left } =
            self.restored;
        let (supervisor, legacy, fleet, setup) =
            (self.supervisor, self.legacy, self.fleet, &configured.setup);
        let mut audit = AuditLog::open(&setup.config);
        for record in actions::report_interrupted(left) {
            audit.write(&record, clock::wall());
        }
        if gate.gate_state() == GateState::NeverClosed {
            gate.set_state(GateState::Closed, setup).map_err(AdminError::run)?;
        }
        let removed = match gate.gate_state() {
            GateState::Open if setup.config.backend != BackendKind::None => takeover::remove_all_gates(),
            _ => takeover::remove_other_gates(setup.config.backend),
        };
        removed.iter().for_each(|message| log::warn!("{message}"));
        let mut executor = Executor::new(gate, undo_queue).map_err(|error| {
            AdminError::run(format_args!("worker thread: {}", files::io_error_text(&error)))
        })?;
        for record in executor.confirm_undo_tasks(setup) {
            audit.write(&record, clock::wall());
        }
        Ok(Enforcing { configured, locks, supervisor, legacy, fleet, executor, audit, state, memory })
    }
}
