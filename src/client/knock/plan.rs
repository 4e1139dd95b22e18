//! Decides which address a knock claims, and what follows from a reply (`docs/internals/protocol.md`, section 3).
//! Pure: uses no socket, no clock and no file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use spa_knock_core::knock::{
    AddressPolicy, Addresses, Reply, ReplyStatus, ReplyWanted, SourceOption, canonical,
};

/// What a knock claims about the address that gets access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct Claim {
    /// How the server determines the address.
    pub(in crate::client) policy: AddressPolicy,
    /// The addresses in the knock.
    pub(in crate::client) addresses: Addresses,
}

/// Whether a knock claims an address that the client learned from a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Learning {
    /// Yes. Without an SSH key, the reply is as trustworthy as the knock.
    FromReply,
    /// If the user confirms it: what the SSH key signs must not depend on a reply, which anyone with the pair secret can
    /// make.
    WithConsent,
    /// No: no one can be asked.
    Never,
}

/// What the client knows before its first knock.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) struct Facts {
    /// The server's address.
    pub(in crate::client) server: IpAddr,
    /// The local outgoing address toward the server.
    pub(in crate::client) own: IpAddr,
    /// The address that the last grant confirmed, if the local address has not changed since.
    pub(in crate::client) learned: Option<IpAddr>,
    /// Whether a reply is requested.
    pub(in crate::client) reply: ReplyWanted,
    /// Whether a second knock can claim the address in a reply.
    pub(in crate::client) learning: Learning,
}

impl Facts {
    /// Whether the user has confirmed the learned address. An address that was learned from replies alone can be outdated,
    /// which only another reply could show.
    fn is_confirmed(&self) -> bool {
        self.learned.is_some() && self.learning != Learning::FromReply
    }
}

/// The knock of a plan that a reply belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum KnockAttempt {
    /// The first.
    First,
    /// The second, behind NAT.
    Second,
}

/// What follows from a reply.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum NextAttempt {
    /// This reply is the outcome.
    Report,
    /// The reply contains nothing new: keep listening.
    Listen,
    /// Listen for contradictory replies for a short time, then knock again.
    Linger,
    /// Two replies to one knock report different addresses: believe neither.
    Contradiction(IpAddr, IpAddr),
}

/// The sequence of one or two knocks.
#[derive(Debug)]
pub(in crate::client) struct AddressPlan {
    first: Claim,
    own: IpAddr,
    learning: Learning,
    state: PlanState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlanState {
    /// No reply leads to another knock.
    Fixed,
    /// Knocked once, with an address that the client assumes.
    Guessed,
    /// The server reported another address.
    Corrected(IpAddr),
    /// Knocked again, with this address.
    Again(IpAddr),
}

impl Claim {
    /// The same claim with the address of the other family that one of `others` claims, under the exact policy.
    pub(in crate::client) fn joined(self, others: &[Self]) -> Self {
        let is_exact = |claim: &&Self| claim.policy == AddressPolicy::Exact;
        let mut exact = others.iter().filter(is_exact);
        let addresses = match (self.addresses.ipv4(), self.addresses.ipv6()) {
            (Some(v4), None) => {
                exact.find_map(|other| other.addresses.ipv6()).map(|v6| Addresses::both(v4, v6))
            }
            (None, Some(v6)) => {
                exact.find_map(|other| other.addresses.ipv4()).map(|v4| Addresses::both(v4, v6))
            }
            _ => None,
        };
        match addresses.filter(|_| is_exact(&&self)) {
            Some(addresses) => Self { addresses, ..self },
            None => self,
        }
    }
}

impl AddressPlan {
    /// The plan for the requested source.
    pub(in crate::client) fn new(source: SourceOption, facts: &Facts) -> Self {
        let (state, policy, addresses) = match source {
            SourceOption::Observed => (PlanState::Fixed, AddressPolicy::Observed, Addresses::default()),
            SourceOption::Exact(addresses) => (PlanState::Fixed, AddressPolicy::Exact, addresses),
            SourceOption::Listed(addresses) => (PlanState::Fixed, AddressPolicy::Listed, addresses),
            SourceOption::Auto if is_translated_without_reply(facts) && !facts.is_confirmed() => {
                (PlanState::Fixed, AddressPolicy::Observed, Addresses::default())
            }
            SourceOption::Auto => {
                (PlanState::Guessed, AddressPolicy::Exact, facts.learned.unwrap_or(facts.own).into())
            }
        };
        Self { first: Claim { policy, addresses }, own: facts.own, learning: facts.learning, state }
    }

    /// The same plan with a first claim that includes its own.
    pub(in crate::client) fn with_first_claim(self, first: Claim) -> Self {
        Self { first, ..self }
    }

    /// The claim of the first knock.
    pub(in crate::client) const fn first_claim(&self) -> Claim {
        self.first
    }

    /// What follows from a reply. `own` is the local outgoing address in the family of the address that it reports.
    pub(in crate::client) fn after_reply(
        &mut self,
        turn: KnockAttempt,
        reply: &Reply,
        own: Option<IpAddr>,
    ) -> NextAttempt {
        match (self.state, turn) {
            (PlanState::Corrected(named) | PlanState::Again(named), KnockAttempt::First)
                if named != reply.observed =>
            {
                NextAttempt::Contradiction(named, reply.observed)
            }
            (PlanState::Corrected(_) | PlanState::Again(_), KnockAttempt::First) => NextAttempt::Listen,
            (PlanState::Guessed, KnockAttempt::First)
                if self.learning != Learning::Never
                    && self.reports_another_address(reply)
                    && !own.is_some_and(is_global) =>
            {
                self.state = PlanState::Corrected(reply.observed);
                NextAttempt::Linger
            }
            _ => NextAttempt::Report,
        }
    }

    /// The claim of the second knock, after no reply has contradicted the first one.
    pub(in crate::client) fn retry(&mut self) -> Option<Claim> {
        let PlanState::Corrected(named) = self.state else { return None };
        self.state = PlanState::Again(named);
        Some(Claim { policy: AddressPolicy::Exact, addresses: named.into() })
    }

    /// The local address and the one that the server sees, if `reply`, the outcome, confirms a new one.
    pub(in crate::client) fn learned(&self, reply: &Reply) -> Option<(IpAddr, IpAddr)> {
        match self.state {
            PlanState::Again(named) if reply.status.is_success() => Some((self.own, named)),
            _ => None,
        }
    }

    fn reports_another_address(&self, reply: &Reply) -> bool {
        let claimed = match reply.observed {
            IpAddr::V4(_) => self.first.addresses.ipv4().map(IpAddr::V4),
            IpAddr::V6(_) => self.first.addresses.ipv6().map(IpAddr::V6),
        };
        reply.status == ReplyStatus::AddressRefused
            && claimed != Some(reply.observed)
            && !reply.observed.is_unspecified()
    }
}

/// Whether the local address is certainly translated (NAT), and no reply can report the result.
fn is_translated_without_reply(facts: &Facts) -> bool {
    facts.reply == ReplyWanted::No && !is_global(facts.own) && is_global(facts.server)
}

/// Whether the address is routed on the Internet. Addresses reserved for documentation count as routed.
pub(in crate::client) fn is_global(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) => is_global_v6(v6),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    // RFC 6598: addresses between carrier-grade NAT and customers.
    let carrier = a == 100 && b & 0xC0 == 64;
    let none = a == 0 || address.is_broadcast() || address.is_multicast();
    !(none || carrier || address.is_private() || address.is_loopback() || address.is_link_local())
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spa_knock_core::knock::{ReplyText, Timestamp};

    const PRIVATE: &str = "192.168.1.5";
    const SEEN: &str = "203.0.113.9";
    const OTHER: &str = "198.51.100.66";
    const SERVER: &str = "203.0.113.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn facts(own: &str) -> Facts {
        let (reply, learning) = (ReplyWanted::Yes, Learning::FromReply);
        Facts { server: ip(SERVER), own: ip(own), learned: None, reply, learning }
    }

    fn exact(address: &str) -> Claim {
        Claim { policy: AddressPolicy::Exact, addresses: ip(address).into() }
    }

    fn reply(status: ReplyStatus, observed: &str) -> Reply {
        Reply {
            status,
            server_time: Timestamp::default(),
            observed: ip(observed),
            port: 1,
            seconds: 0,
            text: ReplyText::default(),
        }
    }

    fn refused(observed: &str) -> Reply {
        reply(ReplyStatus::AddressRefused, observed)
    }

    fn behind_nat() -> AddressPlan {
        AddressPlan::new(SourceOption::Auto, &facts(PRIVATE))
    }

    /// Passes a reply to a plan whose local address is the same in every family.
    fn after_reply(plan: &mut AddressPlan, turn: KnockAttempt, reply: &Reply) -> NextAttempt {
        plan.after_reply(turn, reply, Some(plan.own))
    }

    #[test]
    fn auto_claims_the_local_outgoing_address() {
        for own in [PRIVATE, SEEN, "2001:db8::7"] {
            assert_eq!(AddressPlan::new(SourceOption::Auto, &facts(own)).first_claim(), exact(own));
        }
    }

    #[test]
    fn auto_claims_the_learned_address_rather_than_the_local_one() {
        let plan = AddressPlan::new(SourceOption::Auto, &Facts { learned: Some(ip(SEEN)), ..facts(PRIVATE) });
        assert_eq!(plan.first_claim(), exact(SEEN));
        assert_eq!(plan.learned(&reply(ReplyStatus::Granted, SEEN)), None, "nothing new is learned");
    }

    #[test]
    fn without_replies_behind_nat_auto_claims_the_address_that_the_user_confirmed_and_no_other_learned_one() {
        let observed = Claim { policy: AddressPolicy::Observed, addresses: Addresses::default() };
        for (learning, learned, claim) in [
            (Learning::FromReply, None, observed),
            (Learning::FromReply, Some(ip(SEEN)), observed),
            (Learning::WithConsent, None, observed),
            (Learning::WithConsent, Some(ip(SEEN)), exact(SEEN)),
            (Learning::Never, None, observed),
            (Learning::Never, Some(ip(SEEN)), exact(SEEN)),
        ] {
            let facts = Facts { reply: ReplyWanted::No, learning, learned, ..facts(PRIVATE) };
            let plan = AddressPlan::new(SourceOption::Auto, &facts);
            assert_eq!(plan.first_claim(), claim, "{learning:?} {learned:?}");
        }
    }

    #[test]
    fn behind_nat_the_second_knock_claims_the_address_that_the_server_saw_and_a_grant_confirms_it() {
        let mut plan = behind_nat();
        assert_eq!(plan.first_claim(), exact(PRIVATE));
        assert_eq!(plan.retry(), None);
        assert_eq!(after_reply(&mut plan, KnockAttempt::First, &refused(SEEN)), NextAttempt::Linger);
        assert_eq!(plan.learned(&reply(ReplyStatus::Granted, SEEN)), None);
        assert_eq!(plan.retry(), Some(exact(SEEN)));
        let granted = reply(ReplyStatus::Granted, SEEN);
        assert_eq!(after_reply(&mut plan, KnockAttempt::Second, &granted), NextAttempt::Report);
        assert_eq!(plan.learned(&granted), Some((ip(PRIVATE), ip(SEEN))));
    }

    #[test]
    fn a_reply_leads_to_a_second_knock_only_if_someone_can_be_asked_or_the_reply_is_trusted() {
        for (learning, expected) in [
            (Learning::FromReply, NextAttempt::Linger),
            (Learning::WithConsent, NextAttempt::Linger),
            (Learning::Never, NextAttempt::Report),
        ] {
            let mut plan = AddressPlan::new(SourceOption::Auto, &Facts { learning, ..facts(PRIVATE) });
            let next = after_reply(&mut plan, KnockAttempt::First, &refused(SEEN));
            assert_eq!(next, expected, "{learning:?}");
            assert_eq!(plan.retry().is_some(), expected == NextAttempt::Linger, "{learning:?}");
        }
    }

    #[test]
    fn a_joint_claim_has_the_address_of_the_other_family_under_the_exact_policy_only() {
        let observed = Claim { policy: AddressPolicy::Observed, addresses: Addresses::default() };
        let listed = Claim { policy: AddressPolicy::Listed, ..exact("2001:db8::9") };
        let all = [exact(PRIVATE), observed, listed, exact("2001:db8::7"), exact("2001:db8::8"), exact(SEEN)];
        let both = |v4: &str, v6: &str| {
            let addresses = Addresses::both(v4.parse().unwrap(), v6.parse().unwrap());
            Claim { policy: AddressPolicy::Exact, addresses }
        };
        for (own, joint) in [
            (exact(SEEN), both(SEEN, "2001:db8::7")),
            (exact("2001:db8::8"), both(PRIVATE, "2001:db8::8")),
            (both(OTHER, "fd00::1"), both(OTHER, "fd00::1")),
            (observed, observed),
            (listed, listed),
        ] {
            assert_eq!(own.joined(&all), joint);
        }
        assert_eq!(exact(SEEN).joined(&[exact(PRIVATE), listed]), exact(SEEN));
    }

    #[test]
    fn an_outdated_learned_address_is_corrected() {
        let mut plan =
            AddressPlan::new(SourceOption::Auto, &Facts { learned: Some(ip(OTHER)), ..facts(PRIVATE) });
        assert_eq!(after_reply(&mut plan, KnockAttempt::First, &refused(SEEN)), NextAttempt::Linger);
        assert_eq!(plan.retry(), Some(exact(SEEN)));
        let done = reply(ReplyStatus::Done, SEEN);
        assert_eq!(plan.learned(&done), Some((ip(PRIVATE), ip(SEEN))));
    }

    #[test]
    fn there_is_no_third_knock_and_nothing_is_learned_without_a_grant() {
        let mut plan = behind_nat();
        let _ = after_reply(&mut plan, KnockAttempt::First, &refused(SEEN));
        assert!(plan.retry().is_some());
        assert_eq!(plan.retry(), None);
        for outcome in [refused(OTHER), refused(SEEN), reply(ReplyStatus::NotAllowed, SEEN)] {
            assert_eq!(after_reply(&mut plan, KnockAttempt::Second, &outcome), NextAttempt::Report);
            assert_eq!(plan.learned(&outcome), None);
            assert_eq!(plan.retry(), None);
        }
    }

    #[test]
    fn only_a_refusal_that_reports_another_address_leads_to_a_second_knock() {
        let nat64 = "2001:db8::7";
        for (own, reply, own_of_its_family, expected) in [
            (PRIVATE, reply(ReplyStatus::Granted, PRIVATE), Some(PRIVATE), NextAttempt::Report),
            (PRIVATE, reply(ReplyStatus::NotAllowed, SEEN), Some(PRIVATE), NextAttempt::Report),
            (PRIVATE, refused(PRIVATE), Some(PRIVATE), NextAttempt::Report),
            (PRIVATE, refused("0.0.0.0"), Some(PRIVATE), NextAttempt::Report),
            // A global address is not translated: a reply that reports another one is not believed.
            (SEEN, refused(OTHER), Some(SEEN), NextAttempt::Report),
            // IPv6 here, IPv4 there (NAT64): the family of the reported address decides.
            (nat64, refused(SEEN), None, NextAttempt::Linger),
            (nat64, refused(SEEN), Some(PRIVATE), NextAttempt::Linger),
            (nat64, refused(SEEN), Some(OTHER), NextAttempt::Report),
            ("fd00::7", refused("2001:db8::1"), Some("fd00::7"), NextAttempt::Linger),
        ] {
            let mut plan = AddressPlan::new(SourceOption::Auto, &facts(own));
            assert_eq!(
                plan.after_reply(KnockAttempt::First, &reply, own_of_its_family.map(ip)),
                expected,
                "{own} {reply:?}"
            );
        }
    }

    #[test]
    fn two_different_replies_to_the_first_knock_end_the_plan_at_any_time() {
        for knocked_again in [false, true] {
            for second_reply in [refused(OTHER), reply(ReplyStatus::Granted, OTHER)] {
                let mut plan = behind_nat();
                let _ = after_reply(&mut plan, KnockAttempt::First, &refused(SEEN));
                assert_eq!(
                    after_reply(&mut plan, KnockAttempt::First, &refused(SEEN)),
                    NextAttempt::Listen,
                    "a copy contains nothing new"
                );
                assert_eq!(knocked_again, knocked_again && plan.retry().is_some());
                let next = after_reply(&mut plan, KnockAttempt::First, &second_reply);
                assert_eq!(next, NextAttempt::Contradiction(ip(SEEN), ip(OTHER)));
            }
        }
    }

    #[test]
    fn a_configured_source_never_changes() {
        for (text, policy) in [
            ("observed", AddressPolicy::Observed),
            (PRIVATE, AddressPolicy::Exact),
            ("listed:192.168.1.5", AddressPolicy::Listed),
        ] {
            let mut plan = AddressPlan::new(text.parse().unwrap(), &facts(PRIVATE));
            assert_eq!(plan.first_claim().policy, policy);
            assert_eq!(after_reply(&mut plan, KnockAttempt::First, &refused(SEEN)), NextAttempt::Report);
            assert_eq!(plan.retry(), None);
        }
    }

    #[test]
    fn auto_means_observed_only_without_replies_and_if_translation_is_certain() {
        let silent = |own, server| Facts { reply: ReplyWanted::No, server: ip(server), ..facts(own) };
        for (own, server, policy) in [
            (PRIVATE, SERVER, AddressPolicy::Observed),
            ("100.64.0.9", SERVER, AddressPolicy::Observed),
            ("fd00::7", "2001:db8::1", AddressPolicy::Observed),
            (PRIVATE, "192.168.1.1", AddressPolicy::Exact),
            ("127.0.0.1", "127.0.0.1", AddressPolicy::Exact),
            (SEEN, SERVER, AddressPolicy::Exact),
        ] {
            assert_eq!(
                AddressPlan::new(SourceOption::Auto, &silent(own, server)).first_claim().policy,
                policy,
                "{own} {server}"
            );
        }
        assert_eq!(
            AddressPlan::new(SourceOption::Auto, &facts(PRIVATE)).first_claim().policy,
            AddressPolicy::Exact
        );
    }

    #[test]
    fn addresses_that_the_internet_does_not_route_are_not_global() {
        for local in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.31.0.1",
            "192.168.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_global(ip(local)), "{local}");
        }
        for global in
            ["1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", SEEN, "2606:4700::1", "::ffff:1.1.1.1"]
        {
            assert!(is_global(ip(global)), "{global}");
        }
    }
}
