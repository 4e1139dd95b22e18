//! Grants that all members of the fleet open: what is granted or revoked here, and what others have granted.

use std::time::Duration;

use crate::daemon::event_loop::Daemon;
use crate::os::{clock, host};
use spa_knock_core::auth::{
    AuditCause, AuditEvent, AuditRecord, Authorized, ClaimNote, Explanation, Grant, GrantOfMember, KeyAge,
    KnockId,
};
use spa_knock_fleet::grants::SharedGrant;

/// What the audit record states about a grant that another member has made.
const SHARED: ClaimNote = ClaimNote { result: "shared", micros: None };

impl Daemon {
    /// Publishes what a knock has opened.
    pub(in crate::daemon) fn share_grant(&mut self, authorized: &Authorized) {
        if let Some(member) = &mut self.fleet.member {
            member.publish(authorized, clock::now());
        }
    }

    /// Withdraws a revoked grant from the other members.
    pub(in crate::daemon) fn withdraw_grant(&mut self, record: &AuditRecord) {
        if record.event == AuditEvent::Revoked
            && let Some(member) = &mut self.fleet.member
        {
            member.note_revoked(record, clock::steady());
        }
    }

    /// Opens what other members have granted, with one change of the firewall if possible.
    pub(super) fn open_for_members(&mut self, opened: Vec<(KnockId, SharedGrant, Duration)>) {
        if opened.is_empty() {
            return;
        }
        let own = host::own_addresses();
        let mut all: Vec<(KnockId, GrantOfMember, Vec<Grant>)> = Vec::new();
        for (id, grant, remaining) in opened {
            let Some(known) = self.setup.clients.iter().find(|client| client.name == grant.client) else {
                log::warn!(
                    "client {}: another member has granted {}, but it is unknown here",
                    grant.client,
                    grant.action
                );
                continue;
            };
            let SharedGrant { client, action, addresses, ports, .. } = grant;
            let grant = GrantOfMember { addresses, ports, remaining, client, action };
            match grant.grants(&known.rules, &self.setup.config.actions, &own) {
                Ok(grants) => all.push((id, grant, grants)),
                Err(rejection) => log::warn!("client {}: grant of another member: {rejection}", grant.client),
            }
        }
        let joined: Vec<Grant> = all.iter().flat_map(|(_, _, grants)| grants.clone()).collect();
        let outcome = self.executor.gate().grant_unconfirmed(&joined, &self.setup);
        for (id, grant, grants) in all {
            // Together they may exceed a limit that some of them do not.
            let outcome = match &outcome {
                Ok(()) => Ok(()),
                Err(_) => self.executor.gate().grant_unconfirmed(&grants, &self.setup),
            };
            let (event, reason) = match outcome {
                Ok(()) => (AuditEvent::Granted, None),
                Err(error) => {
                    (AuditEvent::Failed, Some(Explanation::new(AuditCause::ActionFailed, error.to_string())))
                }
            };
            let record = AuditRecord {
                event,
                client: grant.client,
                key: KeyAge::Current,
                action: Some(grant.action),
                addresses: grant.addresses.iter().map(|prefix| prefix.first()).collect(),
                source: None,
                seconds: u32::try_from(grant.remaining.as_secs()).unwrap_or(u32::MAX),
                reason,
                knock: Some(id),
                via: None,
                claim: Some(SHARED),
            };
            self.audit.write(&record, clock::wall());
        }
    }
}
