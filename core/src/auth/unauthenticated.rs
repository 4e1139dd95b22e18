//! The grants of a knock sequence of knockd, or of a packet of fwknop. Nothing proves who knocked: anyone who observed the
//! sequence can send it, from any spoofed address. It opens ports only if the administrator has configured a door of knockd.conf to do so,
//! and a packet of fwknop only if a stanza of access.conf permits it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::grant::{Access, AccessTarget, Grant, is_link_local};
use super::keeper::authorization::check_address;
use super::keeper::effects::NO_LINK;
use super::rejection::Rejection;
use crate::knock::{ActionName, ClientName};

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
        let link_local = door.grants("fe80::1".parse().unwrap(), &own);
        assert_eq!(link_local, Err(Rejection::LinkLocal(NO_LINK)), "its link is unknown");
    }
}
