//! The grants of a knock sequence of knockd, or of a packet of fwknop. Nothing proves who knocked: anyone who observed the
//! sequence can send it, from any spoofed address. It opens ports only if the administrator has configured a door of knockd.conf to do so,
//! and a packet of fwknop only if a stanza of access.conf permits it. Also the grants that another member of the fleet has made
//! for a knock that was authenticated there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::grant::{Access, AccessTarget, Grant, is_link_local};
use super::keeper::authorization::check_address;
use super::keeper::effects::NO_LINK;
use super::rejection::Rejection;
use crate::knock::{ActionName, ClientName, PortRange, Prefix};

/// What a door of knockd.conf or a packet of fwknop opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnauthenticatedGrant {
    /// What it opens.
    pub targets: Vec<AccessTarget>,
    /// The duration of the grants.
    pub term: Duration,
    /// The client name under which all such grants are recorded.
    pub client: ClientName,
    /// The name of the door in knockd.conf, or of the stanza in access.conf.
    pub action: ActionName,
}

impl UnauthenticatedGrant {
    /// The grants for this source, one for each target.
    ///
    /// # Errors
    /// If the source is not the address of one other host; `own` are the addresses of this host.
    pub fn grants(&self, source: IpAddr, own: &BTreeSet<IpAddr>) -> Result<Vec<Grant>, Rejection> {
        check_address(source, own)?;
        if is_link_local(source) {
            return Err(Rejection::LinkLocal(NO_LINK));
        }
        let grant = |&target: &AccessTarget| Grant {
            access: Access::new(source.into(), target),
            limit: None,
            duration: self.term,
            client: self.client.clone(),
            action: self.action.clone(),
        };
        Ok(self.targets.iter().map(grant).collect())
    }
}

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
    /// How many grants the client can hold.
    pub limit: u32,
}

impl GrantOfMember {
    /// The grants, one for each address and port range.
    ///
    /// # Errors
    /// If an address is not that of other hosts; `own` are the addresses of this host.
    pub fn grants(&self, own: &BTreeSet<IpAddr>) -> Result<Vec<Grant>, Rejection> {
        for prefix in &self.addresses {
            check_address(prefix.first(), own)?;
            if is_link_local(prefix.first()) {
                return Err(Rejection::LinkLocal(NO_LINK));
            }
        }
        let grant = |(&from, &ports): (&Prefix, &PortRange)| Grant {
            access: Access::new(from, AccessTarget::Ports(ports)),
            limit: Some(self.limit),
            duration: self.remaining,
            client: self.client.clone(),
            action: self.action.clone(),
        };
        let pairs = self.addresses.iter().flat_map(|from| self.ports.iter().map(move |ports| (from, ports)));
        Ok(pairs.map(grant).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knockd_door_opens_its_ports_for_its_source_but_not_for_an_unusable_address() {
        let door = UnauthenticatedGrant {
            targets: ["tcp/22", "tcp/8000-8010"]
                .map(|ports| AccessTarget::Ports(ports.parse().unwrap()))
                .into(),
            term: Duration::from_secs(30),
            client: "knockd".parse().unwrap(),
            action: "ssh".parse().unwrap(),
        };
        let own = BTreeSet::from(["10.0.0.9".parse().unwrap()]);
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        let grants = door.grants(source, &own).unwrap();
        let opened: Vec<_> = grants.iter().map(Grant::access).collect();
        let expected = door.targets.iter().map(|&target| Access::new(source.into(), target));
        assert_eq!(opened, expected.collect::<Vec<_>>());
        assert!(grants.iter().all(|grant| grant.duration() == door.term));
        for unusable in ["127.0.0.1", "::", "224.0.0.1", "255.255.255.255", "10.0.0.9"] {
            assert_eq!(
                door.grants(unusable.parse().unwrap(), &own),
                Err(Rejection::UnusableAddress),
                "{unusable}"
            );
        }
    }

    #[test]
    fn the_grant_of_a_member_opens_each_port_for_each_address_but_none_for_an_unusable_one() {
        let granted = |addresses: &[&str]| GrantOfMember {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ports: ["tcp/22", "udp/60000-60010"].map(|ports| ports.parse().unwrap()).into(),
            remaining: Duration::from_secs(7),
            client: "laptop".parse().unwrap(),
            action: "open-ssh".parse().unwrap(),
            limit: 64,
        };
        let own = BTreeSet::from(["10.0.0.9".parse().unwrap()]);
        let grants = granted(&["10.0.0.1", "2001:db8::/64"]).grants(&own).unwrap();
        assert_eq!(grants.len(), 4);
        assert!(grants.iter().all(|grant| grant.duration().as_secs() == 7 && grant.limit() == Some(64)));
        for unusable in ["127.0.0.1", "224.0.0.1", "10.0.0.9", "fe80::1"] {
            assert!(granted(&["10.0.0.1", unusable]).grants(&own).is_err(), "{unusable}");
        }
    }
}
