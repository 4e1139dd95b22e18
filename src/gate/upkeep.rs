//! Maintains the gate between knocks: heartbeats, reloads after other programs changed the table, and the end of a
//! trial.

use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::state::GateState;
use super::{Gate, GateConfig};
use crate::firewall::FirewallError;
use crate::os::clock;
use crate::os::poll::Polled;
use spa_knock_core::auth::LiveHint;
use spa_knock_core::knock::Steady;

/// Interval between two heartbeats. A failsafe waits for at least three of them.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Delay before a reload after another program changed our table, so that several changes cause one reload.
const RELOAD_DELAY: Duration = Duration::from_millis(100);
/// Delay before the next try after our table could not be loaded. Until it is, all ports may be open.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Gate {
    /// Sends heartbeats, reloads a changed table, ends expired grants and finished trials.
    pub(crate) fn run_due(&mut self, config: &impl GateConfig) {
        let now = clock::steady();
        match self.firewall.expire() {
            Ok(()) => {}
            // The table is reloaded, without expired grants.
            Err(FirewallError::Gone) => self.schedule_reload(now),
            Err(error) => log::error!("{error}; expired grants are still open; retrying"),
        }
        if self.firewall.modified_externally() && self.gate_state != GateState::Open {
            self.schedule_reload(now.plus(RELOAD_DELAY));
        }
        if self.reload_due.is_some_and(|due| now >= due) {
            self.reload_due = None;
            if let Err(error) = self.load(config) {
                log::error!("{error}; ports may be open; retrying");
                self.reload_due = Some(now.plus(RETRY_DELAY));
            }
        }
        if matches!(self.gate_state, GateState::Trial(until) if clock::boot() >= until) {
            let effect = config.mode().when_off();
            log::warn!("gate: not confirmed in time; the gate is off and {effect}");
            if let Err(error) = self.set_state(GateState::Open, config) {
                log::error!("gate: {error}");
                // The rest of the table accepts everything: the kernel has ended the trial.
                self.gate_state = GateState::Open;
            }
        }
        if now >= self.heartbeat_due {
            self.heartbeat_due = now.plus(HEARTBEAT_INTERVAL);
            match self.firewall.heartbeat() {
                Ok(()) | Err(FirewallError::Gone) => {}
                Err(error) => log::error!("firewall: heartbeat failed: {error}"),
            }
        }
    }

    /// Whether the kernel drops datagrams without a live hint, and needs to know which hints are live.
    pub(crate) fn filters_hints(&self) -> bool {
        self.can_filter_hints && self.firewall.filters_hints()
    }

    /// Whether the kernel drops datagrams without a live hint, and does not have the hints of these epochs.
    pub(crate) fn lacks_hints(&self, epochs: &RangeInclusive<u64>) -> bool {
        self.can_filter_hints && self.firewall.lacks_hints(epochs)
    }

    /// Makes these the live hints, those of all keys in these epochs.
    ///
    /// # Errors
    /// When the firewall refuses. Knocks with some of these hints may be dropped then.
    pub(crate) fn admit_hints(
        &mut self,
        hints: &[LiveHint],
        epochs: RangeInclusive<u64>,
    ) -> Result<(), FirewallError> {
        self.firewall.admit_hints(hints, epochs)
    }

    /// Loads the rules without the filter for hints, until [`Self::filter_hints_again`].
    pub(crate) fn stop_filtering_hints(&mut self, config: &impl GateConfig) {
        self.can_filter_hints = false;
        if let Err(error) = self.load(config) {
            log::error!("{error}; knocks may not arrive; retrying");
            self.reload_due = Some(clock::steady().plus(RETRY_DELAY));
        }
    }

    /// Makes the next load try the filter for hints again.
    pub(crate) const fn filter_hints_again(&mut self) {
        self.can_filter_hints = true;
    }

    /// Schedules a reload of our table for this time.
    fn schedule_reload(&mut self, due: Steady) {
        if self.reload_due.is_none() {
            self.reload_due = Some(due);
            log::error!(
                "firewall: another program changed our table (nft flush ruleset?); reloading it with all active grants"
            );
        }
    }
}

impl Polled for Gate {
    /// Readable when another program has changed the firewall, or when a request has finished.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.firewall.descriptor());
    }

    fn deadline(&self) -> Option<Steady> {
        // The boot clock also runs while the machine sleeps, so its times are converted each time.
        let trial = match self.gate_state {
            GateState::Trial(until) => Some(until.since(clock::boot())),
            _ => None,
        };
        let left = trial.into_iter().chain(self.firewall.time_to_deadline()).min();
        let due = left.map(|left| clock::steady().plus(left));
        due.into_iter().chain(self.reload_due).chain([self.heartbeat_due]).min()
    }
}
