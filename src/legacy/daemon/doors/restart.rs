//! The watcher of the doors: replaced when it ends, hangs or loses an interface.

use super::Doors;
use crate::ipc::OnMissingInterface;
use crate::legacy::daemon::watcher_process::{LegacyWatchConfig, LegacyWatcher};
use crate::supervisor::child;

impl Doors {
    /// Starts a watcher.
    ///
    /// # Errors
    /// Why it does not watch, or what is wrong with its program, for people.
    pub(super) fn start_watcher(
        &self,
        watch_config: &LegacyWatchConfig,
        missing: OnMissingInterface,
    ) -> Result<LegacyWatcher, String> {
        let program = self.program.as_ref().as_ref().map_err(ToString::to_string)?;
        LegacyWatcher::start(program, watch_config, missing)
    }

    /// The watcher is gone, or goes now.
    pub(super) fn on_exit(&mut self, why: &str) {
        self.watcher = None;
        self.restart.postpone();
        let delay = self.restart.delay().as_millis();
        log::error!("plain sequences: {why}\nstarting another watcher in {delay} ms");
    }

    /// The watcher goes on with the interfaces that are left.
    pub(super) fn on_interface_lost(&mut self, why: &str) {
        if !self.restart.is_longest() {
            log::error!("plain sequences: {why}\nwatching the rest, and trying this one again");
        }
        self.restart.postpone_unless_due();
    }

    /// A watcher that hangs is replaced.
    fn replace_if_silent(&mut self) {
        let silent = child::take_silent(&mut self.watcher, LegacyWatcher::child_mut);
        let Some((_, seconds)) = silent else { return };
        log::error!("plain sequences: the watcher has reported nothing for {seconds} s; replacing it");
        self.restart.hurry();
    }

    /// Starts another watcher where one is due: one that watches everywhere, or anywhere if there is none.
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
                log::info!("plain sequences: watching again");
                self.watcher = Some(watcher);
                self.send_sequences();
            }
            Err(_) if self.watcher.is_some() => self.restart.postpone(),
            Err(reason) => self.on_exit(&reason),
        }
    }
}
