//! Replaces the fwknop watcher when it exits, hangs or loses an interface.

use super::FwknopService;
use crate::ipc::OnMissingInterface;
use crate::legacy::fwknop::watcher_process::FwknopWatcher;
use crate::supervisor::child;

impl FwknopService {
    /// Drops the watcher, which has exited, failed or lied, and schedules another.
    pub(super) fn on_exit(&mut self, reason: &str) {
        self.watcher = None;
        self.restart.postpone();
        let delay = self.restart.delay().as_millis();
        log::error!("fwknop: {reason}\nstarting another watcher in {delay} ms");
    }

    /// Schedules another watcher, because this one has lost an interface. It continues with the others until then.
    pub(super) fn on_interface_lost(&mut self, reason: &str) {
        if !self.restart.is_longest() {
            log::error!("fwknop: {reason}\nwatching the rest; retrying this one");
        }
        self.restart.postpone_unless_due();
    }

    /// Starts another watcher if one is due. If a watcher is running, the new one must watch all interfaces; otherwise
    /// it may watch only some.
    pub(super) fn restart_if_due(&mut self) {
        if let Some((_, seconds)) = child::take_silent(&mut self.watcher, FwknopWatcher::child_mut) {
            log::error!("fwknop: the watcher has reported nothing for {seconds} s; replacing it");
            self.restart.hurry();
        }
        if !self.restart.take_due() {
            return;
        }
        let Some(active) = &self.active else { return };
        if self.watcher.is_none() && active.watch_config.capture.misses_everything() {
            return self.restart.look_later();
        }
        let missing = match self.watcher {
            Some(_) => OnMissingInterface::Fail,
            None => OnMissingInterface::Continue,
        };
        let started = self.ports.socket(None).and_then(|socket| {
            self.start_watcher(&active.watch_config, missing, socket, active.verifier.stanzas())
        });
        match started {
            Ok(watcher) => {
                log::info!("fwknop: watching again");
                self.watcher = Some(watcher);
            }
            Err(_) if self.watcher.is_some() => self.restart.postpone(),
            Err(reason) => self.on_exit(&reason),
        }
    }
}
