//! Taking up another config: everything of it, or nothing.

use super::event_loop::Daemon;
use super::metrics::Metrics;
use super::startup::{Configured, runs_commands};
use crate::config::revoked_keys::RevokedKeys;
use crate::console::AdminError;
use crate::os::{clock, files};

impl Daemon {
    /// SIGHUP: everything new, or everything as it was. Returns what the next start would refuse, for people.
    ///
    /// # Errors
    /// Why everything is as it was.
    pub(super) fn reload(&mut self) -> Result<Option<String>, String> {
        // One that goes wrong everywhere takes almost as long as the service manager waits.
        self.watchdog.run_due(clock::steady());
        match self.try_reload() {
            Ok(()) => {
                log::info!("reloaded: {}", self.summary());
                // A folder that is gone is made again.
                let refused = files::check_private_tree(&self.setup.config.state_dir);
                let refused = refused.err().filter(|error| !error.missing);
                let remark = refused.map(|error| format!("the next start refuses the state folder: {error}"));
                remark.iter().for_each(|remark| log::warn!("{remark}"));
                Ok(remark)
            }
            Err(error) => {
                let text = error.text();
                log::error!("not reloaded, the old config stays: {text}");
                Err(text)
            }
        }
    }

    /// Whether a reload would be possible now, or needs a restart or a valid config. Changes nothing.
    pub(super) fn check_reload(&self) -> Result<(), String> {
        Configured::load(&self.setup.path)
            .and_then(|new| self.check_restart(&new))
            .map_err(|failure| failure.text())
    }

    /// Names everything in `new` that only a restart changes.
    fn check_restart(&self, new: &Configured) -> Result<(), AdminError> {
        let (before, after) = (&self.setup.config, &new.setup.config);
        let now = |it: &Configured| runs_commands(&it.setup, it.knockd.as_ref());
        let differing = [
            ("server.state_dir", before.state_dir != after.state_dir),
            ("server.capture", before.capture != after.capture),
            ("server.control", before.control != after.control),
            ("firewall.backend", before.backend != after.backend),
            (
                "the first action with `run`, or door with a command (the daemon dropped the privileges for it)",
                now(new) && !runs_commands(&self.setup, self.knockd.as_ref()),
            ),
        ];
        let names: Vec<_> = differing.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(AdminError::run(format_args!(
            "only a restart changes: {}\nhint: systemctl restart spa-knockd (grants and connections stay)",
            names.join(", ")
        )))
    }

    fn try_reload(&mut self) -> Result<(), AdminError> {
        let mut coming = Configured::load(&self.setup.path)?;
        // A list that cannot be read must not be replaced by a shorter one.
        RevokedKeys::read(&self.setup.config.state_dir)?;
        // Also what a full disk could not take.
        coming.setup.keep_out(&self.setup.revoked);
        self.check_restart(&coming)?;
        let Configured { setup: new, knockd } = coming;
        self.audit.prepare(&new.config).map_err(AdminError::run)?;
        let moves = new.config.metrics.as_ref() != self.metrics.as_ref().map(Metrics::place);
        let metrics = new.config.metrics.clone().filter(|_| moves).map(Metrics::open).transpose();
        let metrics = metrics.map_err(AdminError::run)?;
        let plain = self.legacy.prepare(&new.config, knockd.as_ref())?;
        self.executor.gate().load(&new).map_err(AdminError::run)?;
        let old = self.supervisor.reconfigure(&new).inspect_err(|_| {
            if let Err(error) = self.executor.gate().load(&self.setup) {
                log::error!("the old gate could not be restored: {error}");
            }
        })?;
        self.drain_retired(old);
        self.act_at_last();
        self.keeper.replace_policy(new.policy());
        self.prune_use_counts();
        self.audit.turn_to(&new.config);
        if moves {
            self.metrics = metrics;
        }
        self.legacy.activate(plain);
        (self.setup, self.knockd) = (new, knockd);
        self.remember_config();
        self.end_for_strangers();
        for record in self.executor.confirm_undo_tasks(&self.setup) {
            self.audit(&record);
        }
        Ok(())
    }
}
