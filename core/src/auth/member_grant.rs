//! The grants that another member of the fleet has made, for a knock that was authenticated there. They open no more than a
//! knock of that client could open here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::grant::{Access, AccessTarget, Grant, is_link_local};
use super::keeper::authorization::check_address;
use super::keeper::effects::NO_LINK;
use super::policy::{Action, ActionPart, ClientRules, Uses};
use super::rejection::Rejection;
use crate::knock::{ActionName, ClientName, PortRange, Prefix};

/// What another member of the fleet has granted. It is sealed with the fleet key; the client is one of this server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantOfMember {
    /// The addresses that get access.
    pub addresses: Vec<Prefix>,
    /// The ports that they can reach.
    pub ports: Vec<PortRange>,
    /// For how long from now on.
    pub remaining: Duration,
    /// The client that knocked.
    pub client: ClientName,
    /// The action that it requested.
    pub action: ActionName,
}

impl GrantOfMember {
    /// The grants, one for each address and port range: no more than a knock with this action could open here.
    ///
    /// # Errors
    /// If this server's rules do not permit them, or an address is not that of other hosts; `own` are the addresses of
    /// this host.
    pub fn grants(
        &self,
        rules: &ClientRules,
        actions: &BTreeMap<ActionName, Action>,
        own: &BTreeSet<IpAddr>,
    ) -> Result<Vec<Grant>, Rejection> {
        let unknown = || Rejection::UnknownAction(self.action.clone());
        let action = actions.get(&self.action).ok_or_else(unknown)?;
        if !rules.allow.contains(&self.action) {
            return Err(Rejection::NotAllowed(self.action.clone()));
        }
        let opened = |ports: &PortRange| action.parts.iter().any(|part| opens(part, *ports));
        if !self.ports.iter().all(opened) {
            return Err(Rejection::Argument("this action does not open these ports"));
        }
        for prefix in &self.addresses {
            if rules.grant_prefix.around(prefix.first()) != *prefix {
                return Err(Rejection::UnusableAddress);
            }
            check_address(prefix.first(), own)?;
            if is_link_local(prefix.first()) {
                return Err(Rejection::LinkLocal(NO_LINK));
            }
        }
        let longest = action.term.map_or(Duration::ZERO, |term| term.max);
        let grant = |(&from, &ports): (&Prefix, &PortRange)| Grant {
            access: Access::new(from, AccessTarget::Ports(ports)),
            limit: Some(rules.grants),
            duration: self.remaining.min(longest),
            client: self.client.clone(),
            action: self.action.clone(),
        };
        let pairs = self.addresses.iter().flat_map(|from| self.ports.iter().map(move |ports| (from, ports)));
        Ok(pairs.map(grant).collect())
    }
}

/// Whether a part of an action opens these ports for any number of connections.
fn opens(part: &ActionPart, wanted: PortRange) -> bool {
    match part {
        ActionPart::Open { ports: opened, uses: Uses::Many }
        | ActionPart::OpenArgument { allowed: opened, uses: Uses::Many } => {
            opened.iter().any(|ports| ports.contain(wanted))
        }
        // A forwarded port of this host is one behind the forward.
        ActionPart::Forward { to, .. } => to.iter().any(|to| {
            to.ip().is_unspecified() && wanted.single().is_some_and(|port| port.port() == to.port())
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Term;
    use super::*;
    use crate::knock::PrefixLengths;

    fn rules(allow: &str) -> ClientRules {
        ClientRules {
            allow: [allow.parse().unwrap()].into(),
            sources: BTreeSet::new(),
            grants: 64,
            grant_prefix: PrefixLengths::SINGLE,
            rate: None,
            expires: None,
            uses: None,
            key_limit: None,
        }
    }

    fn actions() -> BTreeMap<ActionName, Action> {
        let ports = |text: &[&str]| text.iter().map(|ports| ports.parse().unwrap()).collect();
        let term = Some(Term { usual: Duration::from_secs(30), max: Duration::from_secs(60) });
        let action = |part| Action { parts: vec![part], term };
        BTreeMap::from([
            (
                "open-ssh".parse().unwrap(),
                action(ActionPart::Open { ports: ports(&["tcp/22", "udp/60000-60010"]), uses: Uses::Many }),
            ),
            (
                "named".parse().unwrap(),
                action(ActionPart::OpenArgument { allowed: ports(&["tcp/8000-8999"]), uses: Uses::Many }),
            ),
            (
                "once".parse().unwrap(),
                action(ActionPart::Open { ports: ports(&["tcp/22"]), uses: Uses::One }),
            ),
            (
                "forwarded".parse().unwrap(),
                action(ActionPart::Forward {
                    port: "tcp/80".parse().unwrap(),
                    to: vec!["10.0.0.5:5432".parse().unwrap(), "[::]:8080".parse().unwrap()],
                }),
            ),
            ("close".parse().unwrap(), action(ActionPart::Close("open-ssh".parse().unwrap()))),
        ])
    }

    fn granted(action: &str, addresses: &[&str], ports: &[&str]) -> GrantOfMember {
        GrantOfMember {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ports: ports.iter().map(|ports| ports.parse().unwrap()).collect(),
            remaining: Duration::from_secs(7),
            client: "laptop".parse().unwrap(),
            action: action.parse().unwrap(),
        }
    }

    #[test]
    fn the_grant_of_a_member_opens_each_port_for_each_address_but_none_for_an_unusable_one() {
        let own = BTreeSet::from(["10.0.0.9".parse().unwrap()]);
        let of = |addresses: &[&str]| granted("open-ssh", addresses, &["tcp/22", "udp/60000-60010"]);
        let grants = |granted: GrantOfMember| granted.grants(&rules("open-ssh"), &actions(), &own);
        let opened = grants(of(&["10.0.0.1", "2001:db8::1"])).unwrap();
        assert_eq!(opened.len(), 4);
        assert!(opened.iter().all(|grant| grant.duration().as_secs() == 7 && grant.limit() == Some(64)));
        for unusable in ["127.0.0.1", "224.0.0.1", "10.0.0.9", "fe80::1", "10.0.0.0/8"] {
            assert!(grants(of(&["10.0.0.1", unusable])).is_err(), "{unusable}");
        }
        let long = GrantOfMember { remaining: Duration::from_secs(3_600), ..of(&["10.0.0.1"]) };
        assert!(grants(long).unwrap().iter().all(|grant| grant.duration().as_secs() == 60));
    }

    #[test]
    fn the_grant_of_a_member_opens_no_more_than_a_knock_could_here() {
        let own = BTreeSet::new();
        let cases = [
            ("open-ssh", "open-ssh", "tcp/22", true),
            ("open-ssh", "open-ssh", "udp/60003", true),
            ("open-ssh", "open-ssh", "tcp/80", false),
            ("open-ssh", "open-ssh", "tcp/1-65535", false),
            ("open-ssh", "named", "tcp/22", false),
            ("named", "named", "tcp/8443", true),
            ("named", "named", "tcp/22", false),
            ("once", "once", "tcp/22", false),
            ("forwarded", "forwarded", "tcp/8080", true),
            ("forwarded", "forwarded", "tcp/8081", false),
            ("forwarded", "forwarded", "tcp/8080-8081", false),
            ("forwarded", "forwarded", "tcp/5432", false),
            ("forwarded", "forwarded", "tcp/80", false),
            ("close", "close", "tcp/22", false),
            ("unknown", "unknown", "tcp/22", false),
        ];
        for (action, allowed, ports, opens) in cases {
            let granted = granted(action, &["10.0.0.1"], &[ports]);
            let grants = granted.grants(&rules(allowed), &actions(), &own);
            assert_eq!(grants.is_ok(), opens, "{action} {allowed} {ports}: {grants:?}");
        }
    }
}
