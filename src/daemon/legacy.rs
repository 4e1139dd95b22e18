//! Applies the outcomes of knockd's knock sequences: opens ports and writes audit records. They are not knocks of a
//! client, and are counted separately.

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
    /// Receives knock sequences, and runs what is due for the doors.
    pub(super) fn run_legacy_due(&mut self) {
        let outcomes = self.legacy.run_due();
        self.note_legacy(outcomes);
    }

    /// Applies the outcomes of doors and writes their audit records.
    pub(super) fn note_legacy(&mut self, outcomes: Vec<DoorOutcome>) {
        // Read once for all outcomes: each read queries the kernel.
        let opens = |outcome: &DoorOutcome| matches!(outcome, DoorOutcome::Opened { opening: Some(_), .. });
        let own = outcomes.iter().any(opens).then(host::own_addresses).unwrap_or_default();
        for outcome in outcomes {
            let record = match outcome {
                DoorOutcome::Opened { door, source, opening: Some(opening) } => {
                    self.open_door(&door, source, opening, &own)
                }
                // A command is recorded when it ends.
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

    fn open_door(
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
