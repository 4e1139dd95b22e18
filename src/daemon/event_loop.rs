//! The keeper's event loop: knocks from the watcher, signals, finished commands, requests and timers.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::ExitCode;
use std::time::Duration;

use super::actions::Executor;
use super::alarms::Alarms;
use super::command_ends::CommandEnds;
use super::fleet::FleetService;
use super::health::HealthChecks;
use super::legacy::{LegacyFiles, LegacyServices};
use super::metrics::Metrics;
use super::retry::RetryQueue;
use super::running_order::FinishedCommand;
use super::startup::{Configured, Enforcing};
use super::waiting::WaitingKnocks;
use crate::audit::AuditLog;
use crate::config;
use crate::config::setup::Setup;
use crate::console::own_command;
use crate::control::Control;
use crate::gate::Revocation;
use crate::gate::console_grants::is_console;
use crate::gate::state::GateState;
use crate::os::notify::{self, Watchdog};
use crate::os::poll::{self, Polled};
use crate::os::process::signals::Signals;
use crate::os::{clock, host, log as os_log};
use crate::state::{ReplayFolder, last_good};
use crate::supervisor::watcher_supervisor::WatcherSupervisor;
use spa_knock_core::auth::{AuditRecord, Keeper, KnockCounters, KnockResult};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{ClientName, Steady};

/// The loop wakes at least this often.
const TICK: Duration = Duration::from_secs(10);
/// How many knocks are processed before signals and commands get their turn.
pub(super) const BATCH: usize = 64;

/// The running daemon.
pub(crate) struct Daemon {
    pub(super) setup: Setup,
    /// What `[legacy]` names.
    pub(super) legacy_files: LegacyFiles,
    pub(super) supervisor: WatcherSupervisor,
    pub(super) legacy: LegacyServices,
    pub(super) fleet: FleetService,
    pub(super) keeper: Keeper,
    pub(super) tally: KnockCounters,
    /// How many knocks of each client exceeded its limit since the start.
    pub(super) throttled: BTreeMap<ClientName, u64>,
    /// The knocks that were refused for their SSH signature, by client.
    pub(super) signatures: BTreeMap<ClientName, u64>,
    /// The start of the watcher that learns from where clients knocked last.
    pub(super) informed: Option<Steady>,
    /// The keys whose last source it has yet to learn.
    pub(super) to_report: Vec<Fingerprint>,
    pub(super) started: Steady,
    pub(super) state: ReplayFolder,
    pub(super) executor: Executor,
    pub(super) postponed: RetryQueue,
    pub(super) ends: CommandEnds,
    pub(super) waiting: WaitingKnocks,
    pub(super) audit: AuditLog,
    pub(super) signals: Signals,
    pub(super) watchdog: Watchdog,
    /// None if it could not be created: commands cannot reach the daemon then, but signals can.
    pub(super) control: Option<Control>,
    /// None if not configured, or if the daemon cannot listen on that address.
    pub(super) metrics: Option<Metrics>,
    /// None if not configured.
    pub(super) health: Option<HealthChecks>,
    pub(super) alarms: Alarms,
    /// When the host's addresses are read again.
    pub(super) own_addresses_due: Steady,
    /// Held only to keep other daemons away from this state directory and gate.
    pub(super) _locks: Vec<File>,
}

impl Daemon {
    /// Takes over the prepared parts, reports readiness to the service manager and accepts knocks from now on.
    pub(crate) fn start(gated: Enforcing, signals: Signals) -> Self {
        let Enforcing {
            configured: Configured { setup, legacy_files },
            locks,
            supervisor,
            legacy,
            fleet,
            executor,
            audit,
            state,
            memory,
        } = gated;
        let keeper = Keeper::new(setup.policy(), memory)
            .with_uses(state.uses().clone())
            .with_otp_pauses(state.otp_pauses(), clock::now());
        let control = Control::open(&setup.config.control)
            .inspect_err(|error| log::warn!("control socket {error}; commands cannot reach this daemon"))
            .ok();
        let metrics = setup.config.metrics.clone().and_then(|place| {
            Metrics::open(place).inspect_err(|error| log::error!("{error}; metrics are unavailable")).ok()
        });
        let health = setup.config.health.clone().map(HealthChecks::start);
        let mut daemon = Self {
            setup,
            legacy_files,
            supervisor,
            legacy,
            fleet,
            keeper,
            tally: KnockCounters::default(),
            throttled: BTreeMap::new(),
            signatures: BTreeMap::new(),
            informed: None,
            to_report: Vec::new(),
            started: clock::steady(),
            state,
            executor,
            postponed: RetryQueue::default(),
            ends: CommandEnds::default(),
            waiting: WaitingKnocks::default(),
            audit,
            signals,
            watchdog: Watchdog::from_env(),
            control,
            metrics,
            health,
            alarms: Alarms::new(clock::steady()),
            own_addresses_due: clock::steady().plus(TICK),
            _locks: locks,
        };
        daemon.admit_hints();
        daemon.end_for_unknown_clients();
        daemon.prune_use_counts();
        daemon.remember_config();
        log::info!("ready: {}", daemon.summary());
        daemon.warn_without_clients();
        notify::send(notify::ServiceState::Ready);
        daemon
    }

    /// Runs until SIGTERM or SIGINT.
    pub(crate) fn run(mut self) -> ExitCode {
        while !self.signals.stop() {
            if let Err(error) = self.poll_once() {
                log::error!("event loop: waiting for events failed: {error}");
                return ExitCode::from(1);
            }
        }
        self.stop()
    }

    /// One turn of the loop.
    fn poll_once(&mut self) -> std::io::Result<()> {
        self.watchdog.run_due(clock::steady());
        poll::wait(&self.polled(), TICK)?;
        self.signals.drain();
        if self.signals.take_reload() {
            // The reason is already in the log.
            let _ = self.reload();
        }
        self.serve_control();
        self.serve_metrics();
        self.drain_reports();
        self.retry_due(clock::steady());
        let old = self.supervisor.run_due(&self.setup);
        self.drain_retired(old);
        self.inform_watcher();
        self.run_legacy_due();
        self.run_fleet_due();
        for finished in self.executor.run_due(&self.setup) {
            self.note_end(&finished);
        }
        // After everything that can have loaded the table again.
        self.admit_hints();
        self.repeat_ends();
        self.audit.run_due();
        self.refresh_own_addresses();
        self.state.run_due(self.keeper.replay(), clock::now(), self.setup.config.window);
        self.resume_waiting();
        self.serve_health();
        Ok(())
    }

    /// Everything the loop waits for.
    fn polled(&self) -> [&dyn Polled; 14] {
        [
            &self.signals,
            &self.state,
            &self.supervisor,
            &self.legacy,
            &self.fleet,
            &self.executor,
            &self.control,
            &self.metrics,
            &self.health,
            &self.watchdog,
            &self.postponed,
            &self.ends,
            &self.waiting,
            &self.audit,
        ]
    }

    /// Writes an audit record and counts it by result, unless no one has knocked.
    pub(super) fn audit(&mut self, record: &AuditRecord) {
        if let Some(ending) = KnockResult::of(record.event).filter(|_| !is_console(&record.client)) {
            self.tally.count(ending);
        }
        self.withdraw_grant(record);
        self.audit.write(record, clock::wall());
    }

    /// Removes the use counts of removed clients from disk: a new client with the same name starts at zero.
    pub(super) fn prune_use_counts(&mut self) {
        if self.state.uses() != self.keeper.uses() {
            self.waiting.request_use_count_write();
        }
    }

    /// Saves what commands need while the config file has errors, and drops revoked keys that are no longer configured
    /// from their list.
    pub(super) fn remember_config(&self) {
        if let Err(error) = self.setup.revoked.write(&self.setup.config.state_dir) {
            log::warn!("{error}; revoked keys that are no longer configured remain listed");
        }
        if let Err(error) = last_good::remember(&self.setup) {
            log::warn!("{error}; commands cannot fall back to this config if the file gets errors");
        }
    }

    /// Reads the host's own addresses again every 10 s: they change while the daemon runs.
    fn refresh_own_addresses(&mut self) {
        let now = clock::steady();
        if now >= self.own_addresses_due {
            self.own_addresses_due = now.plus(TICK);
            self.keeper.set_own_addresses(host::own_addresses());
        }
    }

    /// Revokes the grants and ends the commands of clients that are no longer configured.
    pub(super) fn end_for_unknown_clients(&mut self) {
        let has_legacy = self.setup.config.legacy.is_some();
        let known = |name: &ClientName| {
            self.setup.clients.iter().any(|client| client.name == *name)
                || (has_legacy && config::is_legacy_client(name))
                || is_console(name)
        };
        let ended = self.executor.end_for(&|name| !known(name));
        let Revocation { failures, .. } = self.note_ended(ended);
        failures.iter().for_each(|failure| log::error!("{failure}"));
    }

    /// Step 11 for everything that ended with its client.
    pub(super) fn note_ended(
        &mut self,
        (revoked, dropped): (Revocation, Vec<FinishedCommand>),
    ) -> Revocation {
        revoked.records.iter().for_each(|record| self.audit(record));
        dropped.iter().for_each(|finished| self.note_end(finished));
        revoked
    }

    /// Server id, ports, counts and the gate's state, for the log.
    pub(super) fn summary(&self) -> String {
        let config = &self.setup.config;
        let sequences = config
            .ports
            .map(|knock_range| format!(" and port sequences on {knock_range}"))
            .unwrap_or_default();
        let legacy = self.legacy.summary();
        let gate = match self.executor.gate_state() {
            GateState::Open => format!("the gate is off, {}", config.mode.when_off()),
            GateState::NeverClosed | GateState::Closed | GateState::Trial(_) => {
                config.mode.when_on(&self.setup.protected_ports())
            }
        };
        format!(
            "accepting knocks for {} on udp/{}{sequences}; clients: {}, actions: {}{legacy}; {gate}",
            config.id,
            config.port,
            self.setup.clients.len(),
            config.actions.len(),
        )
    }

    /// Warns if no one can knock, as after a start without the directory of the clients.
    pub(super) fn warn_without_clients(&self) {
        let gets_clients = self.setup.config.fleet.is_some();
        if self.setup.clients.is_empty() && self.legacy.summary().is_empty() && !gets_clients {
            let hint = own_command("client add NAME --allow ACTION");
            log::warn!("no clients are configured, so no one can knock\nhint: {hint}");
        }
    }

    fn stop(mut self) -> ExitCode {
        let grants = self.executor.gate().grants_at_the_end();
        let gate = match self.executor.gate_state() {
            GateState::Open => "the gate is off".to_owned(),
            GateState::Trial(_) => format!("{grants}; the gate stays on until its trial ends"),
            GateState::NeverClosed | GateState::Closed => format!("{grants}; protected ports stay closed"),
        };
        notify::send(notify::ServiceState::Stopping);
        self.finish_waiting();
        self.stop_legacy();
        for finished in self.executor.stop() {
            self.note_end(&finished);
        }
        drop(self.supervisor);
        if let Err(error) = self.state.close() {
            log::error!("{error}");
        }
        if let Err(error) = self.audit.close() {
            log::error!("{error}");
        }
        log::info!("stopped: {gate}");
        os_log::flush();
        ExitCode::SUCCESS
    }
}
