//! Replaces the watcher of the doors when it exits, hangs or loses an interface.

use std::collections::BTreeMap;

use super::Doors;
use crate::ipc::OnMissingInterface;
use crate::legacy::daemon::watcher_process::{LegacyWatchConfig, LegacyWatcher};
use crate::supervisor::child;

impl Doors {
    /// Starts a watcher.
    ///
    /// # Errors
    /// A human-readable reason why it does not watch or why its program cannot be run.
    pub(super) fn start_watcher(
        &self,
        watch_config: &LegacyWatchConfig,
        missing: OnMissingInterface,
    ) -> Result<LegacyWatcher, String> {
        let program = self.program.as_ref().as_ref().map_err(ToString::to_string)?;
        LegacyWatcher::start(program, watch_config, missing)
    }

    /// Drops the watcher, which has exited or failed, and schedules another.
    pub(super) fn on_exit(&mut self, reason: &str) {
        self.watcher = None;
        self.restart.postpone();
        let delay = self.restart.delay().as_millis();
        log::error!("knock sequences: {reason}\nstarting another watcher in {delay} ms");
    }

    /// Schedules another watcher, because this one has lost an interface. It continues with the others until then.
    pub(super) fn on_interface_lost(&mut self, reason: &str) {
        if !self.restart.is_longest() {
            log::error!("knock sequences: {reason}\nwatching the rest; retrying this one");
        }
        self.restart.postpone_unless_due();
    }

    /// Drops a watcher that hangs, and schedules another.
    fn replace_if_silent(&mut self) {
        let silent = child::take_silent(&mut self.watcher, LegacyWatcher::child_mut);
        let Some((_, seconds)) = silent else { return };
        log::error!("knock sequences: the watcher has reported nothing for {seconds} s; replacing it");
        self.restart.hurry();
    }

    /// Starts another watcher if one is due. If a watcher is running, the new one must watch all interfaces; otherwise
    /// it may watch only some.
    pub(super) fn restart_if_due(&mut self) {
        self.replace_if_silent();
        if !self.restart.take_due() {
            return;
        }
        let Some(watch_config) = &self.watch_config else { return };
        if self.watcher.is_none() && watch_config.capture.misses_everything() {
            return self.restart.look_later();
        }
        let missing = match self.watcher {
            Some(_) => OnMissingInterface::Fail,
            None => OnMissingInterface::Continue,
        };
        match self.start_watcher(watch_config, missing) {
            Ok(watcher) => {
                log::info!("knock sequences: watching again");
                self.watcher = Some(watcher);
                self.send_sequences(&BTreeMap::new());
            }
            Err(_) if self.watcher.is_some() => self.restart.postpone(),
            Err(reason) => self.on_exit(&reason),
        }
    }
}
