//! What a plain sequence opens. Nothing proves who knocked: whoever saw the sequence can send it, from any address that
//! he can make up. Only a door of the admin's says that it opens something all the same.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::grant::{Access, AccessTarget, Grant, is_link_local};
use super::keeper::authorization::check_address;
use super::keeper::effects::NO_LINK;
use super::rejection::Rejection;
use crate::knock::{ActionName, ClientName, PortRange};

/// A door that opens ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnauthenticatedGrant {
    /// What opens.
    pub ports: Vec<PortRange>,
    /// For how long.
    pub term: Duration,
    /// The name that stands for everybody who knocks so.
    pub client: ClientName,
    /// The door's name.
    pub action: ActionName,
}

impl UnauthenticatedGrant {
    /// The grants for this source, one for each of the ports.
    ///
    /// # Errors
    /// When the source is nobody's address, or one of `own`, this host's.
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
    fn a_plain_door_opens_its_ports_for_its_source_and_for_nobody_s_address() {
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
        for nobody in ["127.0.0.1", "::", "224.0.0.1", "255.255.255.255", "10.0.0.9"] {
            assert_eq!(
                door.grants(nobody.parse().unwrap(), &own),
                Err(Rejection::UnusableAddress),
                "{nobody}"
            );
        }
    }
}
