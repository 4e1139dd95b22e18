//! Grants of doors with `Open` and of fwknop's packets, through the gate of the legacy daemons or of `spa-knockd run`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::gate::{Gate, GateConfig};
use crate::os::{clock, host};
use spa_knock_core::auth::{
    AccessTarget, AuditCause, AuditEvent, AuditRecord, Explanation, Grant, KeyAge, UnauthenticatedGrant, Via,
};
use spa_knock_core::knock::{ActionName, ClientName, Steady};

/// How many of these grants can be active. Sources of knock sequences can be spoofed, and there must be room for grants
/// of clients.
const LIVE_MAX: usize = 1_024;

/// What a daemon must do for a legacy protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LegacyOutcome {
    /// Grant access.
    Grant(GrantOrder),
    /// Write an audit record.
    Record(AuditRecord),
}

/// A grant to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrantOrder {
    /// The client name in the audit record, which all grants of the protocol share.
    pub(crate) client: ClientName,
    /// The name of the door or stanza.
    pub(crate) action: ActionName,
    /// The address that gets access.
    pub(crate) address: IpAddr,
    /// Where the packet came from, if that is another matter than the address.
    pub(crate) sender: Option<SocketAddr>,
    /// What it may reach.
    pub(crate) targets: Vec<AccessTarget>,
    /// For how long.
    pub(crate) term: Duration,
    /// Whose grants are limited together: the door, or all stanzas with the same keys, which can be many.
    pub(crate) holder: String,
    /// Most active grants of this holder.
    pub(crate) limit: usize,
    /// The protocol.
    pub(crate) via: Via,
}

/// The active grants of legacy protocols.
#[derive(Default)]
pub(crate) struct LegacyGrants(Vec<LegacyGrant>);

/// A grant, as far as it must be counted.
struct LegacyGrant {
    end: Steady,
    holder: String,
    /// The door or stanza.
    action: ActionName,
    address: IpAddr,
    targets: Vec<AccessTarget>,
}

impl LegacyGrants {
    /// Makes the grants among these outcomes, unless the audit log cannot be written for this reason. Returns the records
    /// of all outcomes.
    pub(crate) fn carry_out(
        &mut self,
        outcomes: Vec<LegacyOutcome>,
        audit: &Result<(), String>,
        gate: &mut Gate,
        config: &impl GateConfig,
    ) -> Vec<AuditRecord> {
        // Read once for all outcomes: each read queries the kernel.
        let opens = outcomes.iter().any(|outcome| matches!(outcome, LegacyOutcome::Grant(_)));
        let own = opens.then(host::own_addresses).unwrap_or_default();
        let carry_out = |outcome| match outcome {
            LegacyOutcome::Record(record) => record,
            LegacyOutcome::Grant(order) => match audit {
                Ok(()) => self.grant(&order, &own, gate, config),
                Err(why) => {
                    let why = Explanation::new(AuditCause::AuditUnavailable, why);
                    order.record(AuditEvent::Failed, Some(why))
                }
            },
        };
        outcomes.into_iter().map(carry_out).collect()
    }

    /// Makes one grant. Returns its audit record.
    pub(crate) fn grant(
        &mut self,
        order: &GrantOrder,
        own: &BTreeSet<IpAddr>,
        gate: &mut Gate,
        config: &impl GateConfig,
    ) -> AuditRecord {
        let failed = |detail: String| {
            order.record(AuditEvent::Failed, Some(Explanation::new(AuditCause::ActionFailed, detail)))
        };
        let now = clock::steady();
        let GrantOrder { client, action, address, targets, term, holder, .. } = order.clone();
        let grant = LegacyGrant { end: now.plus(term), holder, action, address, targets };
        let plain = UnauthenticatedGrant {
            targets: grant.targets.clone(),
            term,
            client,
            action: grant.action.clone(),
        };
        let grants = match plain.grants(order.address, own) {
            Ok(grants) => grants,
            Err(rejection) => {
                return order.record(AuditEvent::Refused, Some(Explanation::from(&rejection)));
            }
        };
        if !self.has_room(order, now) {
            return failed(format!("too many grants by {} are active", order.source_name()));
        }
        if grants.iter().any(|grant| is_forwarded_by_another(gate, grant)) {
            return failed("another client or stanza forwards this port for this address".to_owned());
        }
        if let Err(error) = gate.grant_unconfirmed(&grants, config) {
            return failed(error.to_string());
        }
        self.add(grant);
        AuditRecord {
            seconds: u32::try_from(term.as_secs()).unwrap_or(u32::MAX),
            ..order.record(AuditEvent::Granted, None)
        }
    }

    /// Whether there is room for one more grant at `now`.
    fn has_room(&mut self, order: &GrantOrder, now: Steady) -> bool {
        let of_holder =
            |grants: &[LegacyGrant]| grants.iter().filter(|grant| grant.holder == order.holder).count();
        if self.0.len() >= LIVE_MAX || of_holder(&self.0) >= order.limit {
            self.0.retain(|grant| grant.end > now);
        }
        // Repeating a grant needs no more room.
        let is_repeated = self.0.iter().any(|grant| {
            (&grant.action, grant.address, &grant.targets) == (&order.action, order.address, &order.targets)
        });
        is_repeated || (self.0.len() < LIVE_MAX && of_holder(&self.0) < order.limit)
    }

    /// Counts a grant. One that repeats another replaces it, as in the kernel, and does not end earlier.
    fn add(&mut self, mut grant: LegacyGrant) {
        let key = |grant: &LegacyGrant| (grant.action.clone(), grant.address, grant.targets.clone());
        let of_new = key(&grant);
        self.0.retain(|other| {
            let is_same = key(other) == of_new;
            if is_same {
                grant.end = grant.end.max(other.end);
            }
            !is_same
        });
        self.0.push(grant);
    }
}

/// Whether a grant would replace another holder's active forward of the same packets to another target.
fn is_forwarded_by_another(gate: &Gate, grant: &Grant) -> bool {
    let access = grant.access();
    // Listing all grants takes time, and an open port excludes none.
    access.target.first_alternative().is_some()
        && gate.live().iter().any(|live| {
            access.excludes(&live.access) && (&live.client, &live.action) != (grant.client(), grant.action())
        })
}

impl GrantOrder {
    /// An order without a limit of its own.
    pub(crate) const NO_LIMIT: usize = LIVE_MAX;

    fn source_name(&self) -> &'static str {
        match self.via {
            Via::Fwknop => "packets of fwknop",
            Via::Udp | Via::Ports | Via::Knockd => "knock sequences",
        }
    }

    fn record(&self, event: AuditEvent, reason: Option<Explanation>) -> AuditRecord {
        AuditRecord {
            event,
            client: self.client.clone(),
            key: KeyAge::Current,
            action: Some(self.action.clone()),
            addresses: vec![self.address],
            source: self.sender,
            seconds: 0,
            reason,
            knock: None,
            via: Some(self.via),
            claim: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use super::*;

    fn order(action: &str, limit: usize) -> GrantOrder {
        GrantOrder {
            client: "knockd".parse().unwrap(),
            action: action.parse().unwrap(),
            address: [192, 0, 2, 1].into(),
            sender: None,
            targets: Vec::new(),
            term: Duration::from_secs(1),
            holder: action.to_owned(),
            limit,
            via: Via::Knockd,
        }
    }

    /// A grant of this order for another address.
    fn grant(order: &GrantOrder, end: Steady, number: usize) -> LegacyGrant {
        let address = match number {
            0 => order.address,
            _ => std::net::Ipv4Addr::from(u32::try_from(number).unwrap()).into(),
        };
        let GrantOrder { holder, action, targets, .. } = order.clone();
        LegacyGrant { end, holder, action, address, targets }
    }

    #[test]
    fn active_grants_are_bounded_and_expired_ones_make_room() {
        let mut grants = LegacyGrants::default();
        let at = |seconds| Steady::from_duration(Duration::from_secs(seconds));
        let any = order("a", GrantOrder::NO_LIMIT);
        for second in 0..LIVE_MAX {
            assert!(grants.has_room(&any, at(0)));
            grants.add(grant(&any, at(u64::try_from(second).unwrap() + 1), second + 1));
        }
        assert!(!grants.has_room(&any, at(0)));
        assert!(grants.has_room(&any, at(1)));
        assert_eq!(grants.0.len(), LIVE_MAX - 1);
    }

    #[test]
    fn a_stanza_at_its_limit_leaves_room_for_the_others() {
        let mut grants = LegacyGrants::default();
        let at = |seconds| Steady::from_duration(Duration::from_secs(seconds));
        let (full, other) = (order("stanza-1", 2), order("stanza-2", 2));
        grants.add(grant(&full, at(5), 1));
        grants.add(grant(&full, at(9), 2));
        assert!(!grants.has_room(&full, at(4)) && grants.has_room(&other, at(4)));
        assert!(grants.has_room(&full, at(5)));
    }

    #[test]
    fn all_stanzas_with_the_same_keys_have_one_limit() {
        let mut grants = LegacyGrants::default();
        let at = |seconds| Steady::from_duration(Duration::from_secs(seconds));
        // More stanzas than it takes to use up the room for all.
        let stanzas: Vec<_> = (0..20)
            .map(|number| GrantOrder {
                holder: "thief".to_owned(),
                ..order(&format!("stanza-{number}"), 128)
            })
            .collect();
        for (number, stanza) in (0..2_000).zip(stanzas.iter().cycle()) {
            if grants.has_room(stanza, at(0)) {
                grants.add(grant(stanza, at(60), number + 1));
            }
        }
        assert_eq!(grants.0.len(), 128);
        assert!(grants.has_room(&order("stanza-20", 128), at(0)));
    }

    #[test]
    fn a_grant_that_is_repeated_for_days_counts_once() {
        let mut grants = LegacyGrants::default();
        let at = |seconds| Steady::from_duration(Duration::from_secs(seconds));
        let (full, end) = (order("stanza-1", 2), 86_400);
        grants.add(grant(&full, at(end), 1));
        for second in 0..1_000 {
            assert!(grants.has_room(&full, at(second)));
            grants.add(grant(&full, at(end + second), 0));
        }
        assert_eq!(grants.0.len(), 2);
        let another = GrantOrder { address: [192, 0, 2, 9].into(), ..full.clone() };
        assert!(!grants.has_room(&another, at(1_000)) && grants.has_room(&full, at(1_000)));
        // A shorter one does not end it earlier.
        grants.add(grant(&full, at(1_010), 0));
        assert!(!grants.has_room(&another, at(1_020)));
    }
}
