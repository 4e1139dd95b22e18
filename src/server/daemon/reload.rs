//! Taking up another config: everything of it, or nothing.

use super::Daemon;
use crate::os::clock;
use crate::server::audit::AuditLog;
use crate::server::console::Failure;
use crate::server::metrics::Metrics;
use crate::server::run::Loaded;

impl Daemon {
    /// SIGHUP: everything new, or everything as it was.
    pub(super) fn reload(&mut self) -> Result<(), String> {
        // One that goes wrong everywhere takes almost as long as the service manager waits.
        self.watchdog.mind(clock::steady());
        match self.try_reload() {
            Ok(()) => {
                log::info!("reloaded: {}", self.summary());
                Ok(())
            }
            Err(error) => {
                let text = error.text();
                log::error!("not reloaded, the old config stays: {text}");
                Err(text)
            }
        }
    }

    fn try_reload(&mut self) -> Result<(), Failure> {
        let new = Loaded::load(&self.loaded.path)?;
        if new.config.state_dir != self.loaded.config.state_dir {
            return Err(Failure::run("state_dir: only a restart changes it"));
        }
        if new.config.capture != self.loaded.config.capture {
            return Err(Failure::run("capture: only a restart changes it"));
        }
        if new.config.control != self.loaded.config.control {
            return Err(Failure::run("control: only a restart changes it"));
        }
        if new.runs_commands() && !self.loaded.runs_commands() {
            return Err(Failure::run(
                "a first action with `run`, or door with a command: only a restart adds it, as this daemon has given up the rights of commands",
            ));
        }
        if new.config.backend != self.loaded.config.backend {
            return Err(Failure::run("firewall.backend: only a restart changes it"));
        }
        let audit = AuditLog::open(&new.config.audit)?;
        let moves = new.config.metrics != self.metrics.as_ref().map(Metrics::address);
        let metrics = new.config.metrics.filter(|_| moves).map(Metrics::open).transpose();
        let metrics = metrics.map_err(Failure::run)?;
        let plain = self.plain.prepare(&new)?;
        self.deeds.gatehouse().load(&new).map_err(Failure::run)?;
        let old = self.ears.change(&new).inspect_err(|_| {
            if let Err(error) = self.deeds.gatehouse().load(&self.loaded) {
                log::error!("the old gate could not be restored: {error}");
            }
        })?;
        self.hear_out(old);
        self.act_at_last();
        self.keeper.replace_policy(new.policy());
        self.forget_strangers();
        self.audit = audit;
        if moves {
            self.metrics = metrics;
        }
        self.plain.take_up(plain);
        self.loaded = new;
        self.close_for_strangers();
        Ok(())
    }
}
