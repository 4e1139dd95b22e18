//! What a permitted packet does.

use std::time::Duration;

use super::FwknopService;
use crate::legacy::fwknop::audit::{record, with_reason};
use crate::legacy::fwknop::command_line::{with_sudo, words};
use crate::legacy::fwknop::commands::CommandContext;
use crate::legacy::fwknop::targets::targets;
use crate::legacy::fwknop::verifier::PermittedPacket;
use crate::legacy::grants::{GrantOrder, LegacyOutcome};
use spa_knock_core::auth::{AuditCause, AuditEvent, Explanation, Via};
use spa_knock_fwknop::Rights;

/// Active grants that the stanzas with the same keys can have.
const GRANTS_MAX: usize = 128;

impl FwknopService {
    /// Starts the commands of a packet, or returns the grant that the daemon must make, or the audit record of a failure.
    pub(super) fn carry_out(&mut self, permitted: PermittedPacket) -> Option<LegacyOutcome> {
        let PermittedPacket { action, position, rights, source, address } = permitted;
        let failed = |action, reason: String| {
            let record = record(AuditEvent::Failed, &self.client, Some(action), source);
            let reason = Explanation::new(AuditCause::ActionFailed, reason);
            Some(LegacyOutcome::Record(with_reason(record, reason)))
        };
        let context = CommandContext { client: self.client.clone(), action: action.clone(), address, source };
        match rights {
            Rights::Open { seconds, .. } | Rights::Forward { seconds, .. } => {
                let (address, targets) = targets(&rights)?;
                Some(LegacyOutcome::Grant(GrantOrder {
                    client: self.client.clone(),
                    action,
                    address,
                    sender: Some(source),
                    targets,
                    term: Duration::from_secs(seconds.into()),
                    holder: self.keys_of(position),
                    limit: GRANTS_MAX,
                    via: Via::Fwknop,
                }))
            }
            Rights::Command { command, rules } => {
                let active = self.active.as_ref()?;
                let identity = active.verifier.stanzas().get(position).and_then(|loaded| loaded.identity);
                match words(&command) {
                    Some(argv) => self
                        .commands
                        .run(with_sudo(argv, &rules, &active.sudo), identity, &context)
                        .map(LegacyOutcome::Record),
                    None => failed(action, "the command is empty".to_owned()),
                }
            }
            Rights::Cycle { open, close } => {
                let close = close.map(|(close, seconds)| (close, Duration::from_secs(seconds.into())));
                match (words(&open), close) {
                    (Some(open), close) => {
                        let close = close.and_then(|(close, after)| Some((words(&close)?, after)));
                        self.commands.cycle(open, close, &context).map(LegacyOutcome::Record)
                    }
                    (None, _) => failed(action, "CMD_CYCLE_OPEN: is empty".to_owned()),
                }
            }
        }
    }

    /// The fingerprint of a stanza's keys, which identifies all who have them.
    fn keys_of(&self, position: usize) -> String {
        let stanzas = self.active.as_ref().map(|active| active.verifier.stanzas());
        let loaded = stanzas.and_then(|stanzas| stanzas.get(position));
        loaded.map(|loaded| loaded.keys.to_string()).unwrap_or_default()
    }
}
