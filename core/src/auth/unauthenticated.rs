//! The grants of a knock sequence of knockd. Nothing proves who knocked: anyone who observed the sequence can send it,
//! from any spoofed address. It opens ports only if the administrator has configured a door of knockd.conf to do so.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::grant::{Access, AccessTarget, Grant, is_link_local};
use super::keeper::authorization::check_address;
use super::keeper::effects::NO_LINK;
use super::rejection::Rejection;
use crate::knock::{ActionName, ClientName, PortRange};

/// A door of knockd.conf that opens ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnauthenticatedGrant {
    /// The ports that it opens.
    pub ports: Vec<PortRange>,
    /// The duration of the grants.
    pub term: Duration,
    /// The client name under which all such grants are recorded.
    pub client: ClientName,
    /// The name of the door in knockd.conf.
    pub action: ActionName,
}

impl UnauthenticatedGrant {
    /// The grants for this source, one for each of the ports.
    ///
    /// # Errors
    /// If the source is not the address of one other host; `own` are the addresses of this host.
    pub fn grants(&self, source: IpAddr, own: &BTreeSet<IpAddr>) -> Result<Vec<Grant>, Rejection> {
        check_address(source, own)?;
        if is_link_local(source) {
            return Err(Rejection::LinkLocal(NO_LINK));
        }
        let grant = |&ports: &PortRange| Grant {
            access: Access::new(source.into(), AccessTarget::Ports(ports)),
            limit: None,
            duration: self.term,
            client: self.client.clone(),
            action: self.action.clone(),
        };
        Ok(self.ports.iter().map(grant).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knockd_door_opens_its_ports_for_its_source_but_not_for_an_unusable_address() {
        let door = UnauthenticatedGrant {
            ports: vec!["tcp/22".parse().unwrap(), "tcp/8000-8010".parse().unwrap()],
            term: Duration::from_secs(30),
            client: "knockd".parse().unwrap(),
            action: "ssh".parse().unwrap(),
        };
        let own = BTreeSet::from(["10.0.0.9".parse().unwrap()]);
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        let grants = door.grants(source, &own).unwrap();
        let opened: Vec<_> = grants.iter().map(Grant::access).collect();
        let expected = door.ports.iter().map(|&ports| Access::new(source.into(), AccessTarget::Ports(ports)));
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
}
