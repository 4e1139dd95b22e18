//! Legacy protocols: grants and audit records of knockd's knock sequences and fwknop's packets. They are not knocks of a
//! client, and are counted separately.

use super::event_loop::Daemon;
pub(crate) use crate::legacy::embedded::{LegacyFiles, LegacyServices, load};

use crate::os::clock;

impl Daemon {
    /// Receives knock sequences and packets of fwknop, and does what is due for them.
    pub(super) fn run_legacy_due(&mut self) {
        let audit = self.audit.check_available();
        for record in self.legacy.run_due(&audit, self.executor.gate(), &self.setup) {
            self.audit.write(&record, clock::wall());
        }
    }

    /// Ends their commands.
    pub(super) fn stop_legacy(&mut self) {
        for record in self.legacy.stop() {
            self.audit.write(&record, clock::wall());
        }
    }
}
