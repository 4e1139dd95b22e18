//! Keeps the firewall's list of live hints up to date, where the kernel drops datagrams without one.

use super::event_loop::Daemon;
use crate::console::own_command;
use crate::firewall::FirewallError;
use crate::os::clock;
use spa_knock_core::auth::{LiveHint, hint_epochs, live_hints};

/// Hints in the kernel at most. Each one takes it about 200 bytes.
const HINTS_MAX: usize = 100_000;

impl Daemon {
    /// Gives the firewall the hints of the next minutes. Called in each turn of the loop, so at least every 10 s; has
    /// something to do once a minute, after the clock was set and when the table was loaded without hints.
    pub(super) fn admit_hints(&mut self) {
        let epochs = hint_epochs(clock::wall(), self.setup.config.window);
        if self.executor.gate().lacks_hints(&epochs) {
            self.readmit_hints();
        }
    }

    /// The keys have changed: gives the firewall their hints.
    pub(super) fn readmit_hints(&mut self) {
        if !self.executor.gate().filters_hints() {
            return;
        }
        let window = self.setup.config.window;
        let epochs = hint_epochs(clock::wall(), window);
        let hints: Vec<LiveHint> = live_hints(self.setup.watched_keys(), epochs.clone(), window)
            .take(HINTS_MAX.saturating_add(1))
            .collect();
        let admitted = if hints.len() > HINTS_MAX {
            Err(FirewallError::Other(format!("more than {HINTS_MAX} hints are live at a time")))
        } else {
            self.executor.gate().admit_hints(&hints, epochs)
        };
        match admitted {
            // The table is loaded again soon, with all hints.
            Ok(()) | Err(FirewallError::Gone) => {}
            Err(error) => {
                log::error!(
                    "{error}; loading the rules without the hint filter, so that no client is locked out\nhint: {} tries the filter again",
                    own_command("reload")
                );
                self.executor.gate().stop_filtering_hints(&self.setup);
            }
        }
    }
}
