//! What plain sequences come to: ports that open, and a record of it. They are not knocks of a client's, and are counted
//! apart.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::event_loop::Daemon;
pub(crate) use crate::legacy::daemon::{KnockdConfig, Openings};
pub(crate) use crate::legacy::embedded::{LegacyDoors, load};

use crate::legacy::daemon::{CLIENT, DoorOutcome, GrantRefused, action};
use crate::legacy::knockd::GrantSpec;
use crate::os::{clock, host};
use spa_knock_core::auth::{AuditCause, AuditEvent, AuditRecord, Explanation, KeyAge, Via};

impl Daemon {
    /// Hears and does what is due for plain sequences.
    pub(super) fn run_legacy_due(&mut self) {
        let outcomes = self.legacy.run_due();
        self.note_legacy(outcomes);
    }

    /// Does and records what they come to.
    pub(super) fn note_legacy(&mut self, outcomes: Vec<DoorOutcome>) {
        // Once for all of them: each look asks the kernel.
        let opens = |outcome: &DoorOutcome| matches!(outcome, DoorOutcome::Opened { opening: Some(_), .. });
        let own = outcomes.iter().any(opens).then(host::own_addresses).unwrap_or_default();
        for outcome in outcomes {
            let record = match outcome {
                DoorOutcome::Opened { door, source, opening: Some(opening) } => {
                    self.open_plainly(&door, source, opening, &own)
                }
                // The command's end is what is recorded of it.
                DoorOutcome::Opened { opening: None, .. } => None,
                DoorOutcome::CommandFinished { door, source, event, reason } => {
                    record(&door, source, event, reason)
                }
            };
            if let Some(record) = record {
                self.audit.write(&record, clock::wall());
            }
        }
    }

    fn open_plainly(
        &mut self,
        door: &str,
        source: IpAddr,
        opening: GrantSpec,
        own: &BTreeSet<IpAddr>,
    ) -> Option<AuditRecord> {
        if let Err(why) = self.audit.check_available() {
            let why = Explanation::new(AuditCause::AuditUnavailable, why);
            return record(door, source, AuditEvent::Failed, Some(why));
        }
        let seconds = u32::try_from(opening.term.as_secs()).unwrap_or(u32::MAX);
        let gate = self.executor.gate();
        match self.openings.open((door, source, opening), own, gate, &self.setup) {
            Ok(()) => {
                let record = record(door, source, AuditEvent::Granted, None)?;
                Some(AuditRecord { seconds, ..record })
            }
            Err(GrantRefused { event, reason }) => record(door, source, event, Some(reason)),
        }
    }
}

fn record(door: &str, source: IpAddr, event: AuditEvent, reason: Option<Explanation>) -> Option<AuditRecord> {
    Some(AuditRecord {
        event,
        client: CLIENT.parse().ok()?,
        key: KeyAge::Current,
        action: action(door),
        addresses: vec![source],
        source: None,
        seconds: 0,
        reason,
        knock: None,
        via: Some(Via::Knockd),
    })
}
