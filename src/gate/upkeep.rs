//! What keeps the gate closed between knocks: signs of life, a new load after others changed the table, and the end of a
//! trial.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::state::GateState;
use super::{Gate, GateConfig};
use crate::firewall::FirewallError;
use crate::os::clock;
use crate::os::poll::Polled;
use spa_knock_core::knock::Steady;

/// Between two signs of life. A failsafe waits for at least three of them.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// After somebody else has changed our table: what he does in one go is mended in one.
const MEND_AFTER: Duration = Duration::from_millis(100);
/// After our table could not be loaded: until it is, every port may be open.
const MEND_AGAIN: Duration = Duration::from_secs(1);

impl Gate {
    /// Gives a sign of life, mends what somebody else has broken, and ends a trial that is over.
    pub(crate) fn run_due(&mut self, config: &impl GateConfig) {
        let now = clock::steady();
        match self.firewall.expire() {
            Ok(()) => {}
            // It is loaded again, without what is over.
            Err(FirewallError::Gone) => self.notice_loss(now),
            Err(error) => log::error!("{error}; what is over is still open, trying again"),
        }
        if self.firewall.modified_externally() && self.gate_state != GateState::Open {
            self.notice_loss(now.plus(MEND_AFTER));
        }
        if self.mend.is_some_and(|due| now >= due) {
            self.mend = None;
            if let Err(error) = self.load(config) {
                log::error!("{error}; ports may be open; trying again");
                self.mend = Some(now.plus(MEND_AGAIN));
            }
        }
        if matches!(self.gate_state, GateState::Trial(until) if clock::boot() >= until) {
            let effect = config.mode().when_off();
            log::warn!("gate: nobody has confirmed it in time; it is off again, and {effect}");
            if let Err(error) = self.set_state(GateState::Open, config) {
                log::error!("gate: {error}");
                // What is left of it lets all pass: the kernel has ended the trial.
                self.gate_state = GateState::Open;
            }
        }
        if now >= self.alive {
            self.alive = now.plus(ALIVE_EVERY);
            match self.firewall.heartbeat() {
                Ok(()) | Err(FirewallError::Gone) => {}
                Err(error) => log::error!("firewall: no sign of life could be given: {error}"),
            }
        }
    }

    /// Our table is to be loaded again when this is due.
    fn notice_loss(&mut self, due: Steady) {
        if self.mend.is_none() {
            self.mend = Some(due);
            log::error!(
                "firewall: somebody else has changed our table (nft flush ruleset?); loading it again, with all live grants"
            );
        }
    }
}

impl Polled for Gate {
    /// Readable when somebody has changed the firewall, or when what was begun has ended.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.firewall.descriptor());
    }

    fn deadline(&self) -> Option<Steady> {
        // These may count on the clock of this boot, which also runs while the machine sleeps: converted each time.
        let trial = match self.gate_state {
            GateState::Trial(until) => Some(until.since(clock::boot())),
            _ => None,
        };
        let left = trial.into_iter().chain(self.firewall.time_to_deadline()).min();
        let due = left.map(|left| clock::steady().plus(left));
        due.into_iter().chain(self.mend).chain([self.alive]).min()
    }
}
