//! Which address a knock names, and what follows from an answer (`docs/protocol.md`, section 3). Pure: it knows
//! no socket, no clock and no file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use spa_knock_core::knock::{
    AddressPolicy, Addresses, Reply, ReplyStatus, ReplyWanted, SourceOption, canonical,
};

/// What a knock says about the address to let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct Claim {
    /// How the server finds the address.
    pub(in crate::client) policy: AddressPolicy,
    /// The addresses that the knock names.
    pub(in crate::client) addresses: Addresses,
}

/// What the client knows before its first knock.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) struct Facts {
    /// Where the knock goes.
    pub(in crate::client) server: IpAddr,
    /// The own outgoing address towards it.
    pub(in crate::client) own: IpAddr,
    /// The address that a grant confirmed last, if the own one is still that of then.
    pub(in crate::client) learnt: Option<IpAddr>,
    /// Whether an answer is asked for.
    pub(in crate::client) reply: ReplyWanted,
}

/// Which knock of a plan an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum KnockAttempt {
    /// The first.
    First,
    /// The second, behind address translation.
    Second,
}

/// What an answer leads to.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum NextAttempt {
    /// This answer is the outcome.
    Report,
    /// The answer says nothing new: keep listening.
    Listen,
    /// Look for answers that say otherwise, for a moment, then knock again.
    Linger,
    /// Two answers to one knock name different addresses: believe neither.
    Contradiction(IpAddr, IpAddr),
}

/// The course of one or two knocks.
#[derive(Debug)]
pub(in crate::client) struct AddressPlan {
    first: Claim,
    own: IpAddr,
    state: PlanState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlanState {
    /// No answer is followed by another knock.
    Fixed,
    /// Knocked once, with an address of our own finding.
    Guessed,
    /// The server named another address.
    Corrected(IpAddr),
    /// Knocked again with it.
    Again(IpAddr),
}

impl AddressPlan {
    /// The plan for what a person asked for.
    pub(in crate::client) fn new(source: SourceOption, facts: &Facts) -> Self {
        let (state, policy, addresses) = match source {
            SourceOption::Observed => (PlanState::Fixed, AddressPolicy::Observed, Addresses::default()),
            SourceOption::Exact(addresses) => (PlanState::Fixed, AddressPolicy::Exact, addresses),
            SourceOption::Listed(addresses) => (PlanState::Fixed, AddressPolicy::Listed, addresses),
            SourceOption::Auto if translated_unheard(facts) => {
                (PlanState::Fixed, AddressPolicy::Observed, Addresses::default())
            }
            SourceOption::Auto => {
                (PlanState::Guessed, AddressPolicy::Exact, facts.learnt.unwrap_or(facts.own).into())
            }
        };
        Self { first: Claim { policy, addresses }, own: facts.own, state }
    }

    /// What the first knock says.
    pub(in crate::client) const fn first_claim(&self) -> Claim {
        self.first
    }

    /// What follows from an answer; `own` is the own outgoing address of the family of the address in it.
    pub(in crate::client) fn heard(
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
                if self.names_another(reply) && !own.is_some_and(is_global) =>
            {
                self.state = PlanState::Corrected(reply.observed);
                NextAttempt::Linger
            }
            _ => NextAttempt::Report,
        }
    }

    /// What the second knock says, once nothing has contradicted the server's answer to the first.
    pub(in crate::client) fn retry(&mut self) -> Option<Claim> {
        let PlanState::Corrected(named) = self.state else { return None };
        self.state = PlanState::Again(named);
        Some(Claim { policy: AddressPolicy::Exact, addresses: named.into() })
    }

    /// The own address and the one that the server sees, where `reply`, the outcome, has confirmed a new one.
    pub(in crate::client) fn learnt(&self, reply: &Reply) -> Option<(IpAddr, IpAddr)> {
        match self.state {
            PlanState::Again(named) if reply.status.is_success() => Some((self.own, named)),
            _ => None,
        }
    }

    fn names_another(&self, reply: &Reply) -> bool {
        let claimed = match reply.observed {
            IpAddr::V4(_) => self.first.addresses.ipv4().map(IpAddr::V4),
            IpAddr::V6(_) => self.first.addresses.ipv6().map(IpAddr::V6),
        };
        reply.status == ReplyStatus::AddressRefused
            && claimed != Some(reply.observed)
            && !reply.observed.is_unspecified()
    }
}

/// Whether the address is translated on its way for certain, with nobody to say into what.
fn translated_unheard(facts: &Facts) -> bool {
    facts.reply == ReplyWanted::No && !is_global(facts.own) && is_global(facts.server)
}

/// Whether the Internet routes the address; those that documentation uses count as if it did.
pub(in crate::client) fn is_global(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) => is_global_v6(v6),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    // RFC 6598: between carriers' translators and their customers.
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
        Facts { server: ip(SERVER), own: ip(own), learnt: None, reply: ReplyWanted::Yes }
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

    /// Hears an answer as a client does whose own address of every family is that of the plan.
    fn hear(plan: &mut AddressPlan, turn: KnockAttempt, reply: &Reply) -> NextAttempt {
        plan.heard(turn, reply, Some(plan.own))
    }

    #[test]
    fn auto_names_the_own_outgoing_address() {
        for own in [PRIVATE, SEEN, "2001:db8::7"] {
            assert_eq!(AddressPlan::new(SourceOption::Auto, &facts(own)).first_claim(), exact(own));
        }
    }

    #[test]
    fn auto_names_the_learnt_address_rather_than_the_own() {
        let plan = AddressPlan::new(SourceOption::Auto, &Facts { learnt: Some(ip(SEEN)), ..facts(PRIVATE) });
        assert_eq!(plan.first_claim(), exact(SEEN));
        assert_eq!(plan.learnt(&reply(ReplyStatus::Granted, SEEN)), None, "nothing new was learnt");
    }

    #[test]
    fn behind_nat_the_second_knock_names_what_the_server_saw_and_a_grant_confirms_it() {
        let mut plan = behind_nat();
        assert_eq!(plan.first_claim(), exact(PRIVATE));
        assert_eq!(plan.retry(), None);
        assert_eq!(hear(&mut plan, KnockAttempt::First, &refused(SEEN)), NextAttempt::Linger);
        assert_eq!(plan.learnt(&reply(ReplyStatus::Granted, SEEN)), None);
        assert_eq!(plan.retry(), Some(exact(SEEN)));
        let granted = reply(ReplyStatus::Granted, SEEN);
        assert_eq!(hear(&mut plan, KnockAttempt::Second, &granted), NextAttempt::Report);
        assert_eq!(plan.learnt(&granted), Some((ip(PRIVATE), ip(SEEN))));
    }

    #[test]
    fn a_learnt_address_that_is_outdated_is_corrected() {
        let mut plan =
            AddressPlan::new(SourceOption::Auto, &Facts { learnt: Some(ip(OTHER)), ..facts(PRIVATE) });
        assert_eq!(hear(&mut plan, KnockAttempt::First, &refused(SEEN)), NextAttempt::Linger);
        assert_eq!(plan.retry(), Some(exact(SEEN)));
        let done = reply(ReplyStatus::Done, SEEN);
        assert_eq!(plan.learnt(&done), Some((ip(PRIVATE), ip(SEEN))));
    }

    #[test]
    fn there_is_no_third_knock_and_nothing_is_learnt_without_a_grant() {
        let mut plan = behind_nat();
        let _ = hear(&mut plan, KnockAttempt::First, &refused(SEEN));
        assert!(plan.retry().is_some());
        assert_eq!(plan.retry(), None);
        for outcome in [refused(OTHER), refused(SEEN), reply(ReplyStatus::NotAllowed, SEEN)] {
            assert_eq!(hear(&mut plan, KnockAttempt::Second, &outcome), NextAttempt::Report);
            assert_eq!(plan.learnt(&outcome), None);
            assert_eq!(plan.retry(), None);
        }
    }

    #[test]
    fn only_a_refused_address_that_is_another_leads_to_a_second_knock() {
        let nat64 = "2001:db8::7";
        for (own, answer, own_of_its_family, expected) in [
            (PRIVATE, reply(ReplyStatus::Granted, PRIVATE), Some(PRIVATE), NextAttempt::Report),
            (PRIVATE, reply(ReplyStatus::NotAllowed, SEEN), Some(PRIVATE), NextAttempt::Report),
            (PRIVATE, refused(PRIVATE), Some(PRIVATE), NextAttempt::Report),
            (PRIVATE, refused("0.0.0.0"), Some(PRIVATE), NextAttempt::Report),
            // A global address is not translated: whoever names another one is not to be believed.
            (SEEN, refused(OTHER), Some(SEEN), NextAttempt::Report),
            // IPv6 here, IPv4 there (NAT64): what counts is the family of the address that was named.
            (nat64, refused(SEEN), None, NextAttempt::Linger),
            (nat64, refused(SEEN), Some(PRIVATE), NextAttempt::Linger),
            (nat64, refused(SEEN), Some(OTHER), NextAttempt::Report),
            ("fd00::7", refused("2001:db8::1"), Some("fd00::7"), NextAttempt::Linger),
        ] {
            let mut plan = AddressPlan::new(SourceOption::Auto, &facts(own));
            assert_eq!(
                plan.heard(KnockAttempt::First, &answer, own_of_its_family.map(ip)),
                expected,
                "{own} {answer:?}"
            );
        }
    }

    #[test]
    fn two_answers_to_the_first_knock_that_differ_end_the_plan_at_any_time() {
        for knocked_again in [false, true] {
            for second_answer in [refused(OTHER), reply(ReplyStatus::Granted, OTHER)] {
                let mut plan = behind_nat();
                let _ = hear(&mut plan, KnockAttempt::First, &refused(SEEN));
                assert_eq!(
                    hear(&mut plan, KnockAttempt::First, &refused(SEEN)),
                    NextAttempt::Listen,
                    "a copy says nothing new"
                );
                assert_eq!(knocked_again, knocked_again && plan.retry().is_some());
                let next = hear(&mut plan, KnockAttempt::First, &second_answer);
                assert_eq!(next, NextAttempt::Contradiction(ip(SEEN), ip(OTHER)));
            }
        }
    }

    #[test]
    fn a_configured_source_is_never_changed() {
        for (text, policy) in [
            ("observed", AddressPolicy::Observed),
            (PRIVATE, AddressPolicy::Exact),
            ("listed:192.168.1.5", AddressPolicy::Listed),
        ] {
            let mut plan = AddressPlan::new(text.parse().unwrap(), &facts(PRIVATE));
            assert_eq!(plan.first_claim().policy, policy);
            assert_eq!(hear(&mut plan, KnockAttempt::First, &refused(SEEN)), NextAttempt::Report);
            assert_eq!(plan.retry(), None);
        }
    }

    #[test]
    fn auto_means_observed_only_without_replies_and_where_translation_is_certain() {
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
