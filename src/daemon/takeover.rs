//! `spa-knockd takeover`: this host replaces another one that has the same id and keys, but another replay memory.

use super::event_loop::Daemon;
use crate::os::clock;
use spa_knock_core::knock::Timestamp;

impl Daemon {
    /// Refuses every knock that the other host can have accepted, also after a restart. Returns the time after which
    /// knocks must be made to be accepted.
    pub(super) fn take_over(&mut self) -> Result<Timestamp, String> {
        self.settle();
        let (now, window) = (clock::now(), self.setup.config.window);
        let floor = now.wall.plus(window);
        // First in memory: even if the disk fails, this process accepts none of them.
        self.keeper.refuse_until(floor);
        let legacy = self.legacy.refuse_until_now(now);
        self.state.persist(self.keeper.replay(), now, window).and(legacy).map_err(|error| {
            format!(
                "takeover: in force, but only until this daemon ends: {error}\nhint: make {} writable and run the command again",
                self.setup.config.state_dir.display()
            )
        })?;
        log::info!("takeover: accepting only knocks with a timestamp after {}", clock::rfc3339(floor));
        Ok(floor)
    }
}
