//! Reloads the config: applies all of it or nothing.

use super::event_loop::Daemon;
use super::health::HealthChecks;
use super::metrics::Metrics;
use super::startup::{Configured, runs_commands};
use crate::config::revoked_keys::RevokedKeys;
use crate::console::AdminError;
use crate::os::{clock, files};

impl Daemon {
    /// Applies the config file (SIGHUP). Returns a warning if the next start would refuse the state directory.
    ///
    /// # Errors
    /// The reason in human-readable form; the old config stays in effect.
    pub(super) fn reload(&mut self) -> Result<Option<String>, String> {
        // A reload in which every part fails takes almost as long as the service manager's watchdog allows.
        self.watchdog.run_due(clock::steady());
        match self.try_reload() {
            Ok(()) => {
                log::info!("config: reloaded; {}", self.summary());
                self.warn_without_clients();
                // A missing directory is created again at the next start.
                let refused = files::check_private_tree(&self.setup.config.state_dir);
                let refused = refused.err().filter(|error| !error.missing);
                let remark =
                    refused.map(|error| format!("the next start will refuse the state directory: {error}"));
                remark.iter().for_each(|remark| log::warn!("{remark}"));
                Ok(remark)
            }
            Err(error) => {
                let text = error.text();
                log::error!("config: not reloaded; the old config remains active: {text}");
                Err(text)
            }
        }
    }

    /// Checks whether a reload would succeed, without changing anything. Fails if the config is invalid or needs a
    /// restart.
    pub(super) fn check_reload(&self) -> Result<(), String> {
        Configured::load(&self.setup.path)
            .and_then(|new| self.check_restart(&new))
            .map_err(|failure| failure.text())
    }

    /// Fails if `new` contains a change that needs a restart; the error names every such setting.
    fn check_restart(&self, new: &Configured) -> Result<(), AdminError> {
        let (before, after) = (&self.setup.config, &new.setup.config);
        let differing = [
            ("server.state_dir", before.state_dir != after.state_dir),
            ("server.capture", before.capture != after.capture),
            ("server.control", before.control != after.control),
            ("firewall.backend", before.backend != after.backend),
            (
                "the first action with `run`, or knockd door or fwknop stanza with a command (the daemon has dropped the privileges for it)",
                runs_commands(&new.setup, &new.legacy_files)
                    && !runs_commands(&self.setup, &self.legacy_files),
            ),
        ];
        let names: Vec<_> = differing.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(AdminError::run(format_args!(
            "these changes need a restart: {}\nhint: systemctl restart spa-knockd (grants and connections are kept)",
            names.join(", ")
        )))
    }

    fn try_reload(&mut self) -> Result<(), AdminError> {
        let mut next = Configured::load(&self.setup.path)?;
        // A list of revoked keys that cannot be read must not be overwritten with a shorter one.
        RevokedKeys::read(&self.setup.config.state_dir)?;
        // Includes revoked keys that could not be written because the disk was full.
        next.setup.remove_revoked(&self.setup.revoked);
        self.check_restart(&next)?;
        let Configured { setup: new, legacy_files } = next;
        self.audit.prepare(&new.config).map_err(AdminError::run)?;
        let moves = new.config.metrics.as_ref() != self.metrics.as_ref().map(Metrics::place);
        let metrics = new.config.metrics.clone().filter(|_| moves).map(Metrics::open).transpose();
        let metrics = metrics.map_err(AdminError::run)?;
        let health = new.config.health.as_ref();
        // With the same address, the socket stays: it cannot be bound twice.
        let rebinds = health.map(|new| new.address) != self.health.as_ref().map(HealthChecks::address);
        let health = health.cloned().filter(|_| rebinds).map(HealthChecks::open).transpose();
        let health = health.map_err(AdminError::run)?;
        let legacy = self.legacy.prepare(&new.config, &legacy_files)?;
        let fleet = self.fleet.prepare(&new)?;
        // What the firewall refused of them may have changed with the config.
        self.executor.gate().filter_hints_again();
        self.executor.gate().load(&new).map_err(AdminError::run)?;
        let old = self.supervisor.reconfigure(&new).inspect_err(|_| {
            if let Err(error) = self.executor.gate().load(&self.setup) {
                log::error!("firewall: the previous rules could not be restored: {error}");
            }
        })?;
        self.drain_retired(old);
        self.finish_waiting();
        self.keeper.replace_policy(new.policy());
        self.prune_use_counts();
        self.audit.reconfigure(&new.config);
        if moves {
            self.metrics = metrics;
        }
        if rebinds {
            self.health = health;
        } else if let (Some(health), Some(settings)) = (&mut self.health, new.config.health.clone()) {
            health.set_peers(settings);
        }
        self.legacy.activate(legacy);
        self.fleet.activate(fleet, &new);
        (self.setup, self.legacy_files) = (new, legacy_files);
        // The watcher has new keys.
        self.informed = None;
        self.readmit_hints();
        self.prune_signatures();
        self.remember_config();
        self.end_for_unknown_clients();
        for record in self.executor.confirm_undo_tasks(&self.setup) {
            self.audit(&record);
        }
        Ok(())
    }
}
