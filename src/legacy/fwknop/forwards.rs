//! What stanzas with `FORCE_NAT` forward, and what this host needs for that.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::settings::{FwknopConfig, LoadedStanza};
use crate::os::host;
use spa_knock_core::auth::ActionPart;
use spa_knock_core::knock::{PortSpec, Protocol};
use spa_knock_fwknop::{ConfigProblem, Port, Transport};

impl LoadedStanza {
    /// Whether every packet of this stanza is forwarded to the target of `FORCE_NAT`, whatever port it asks for.
    pub(crate) fn is_forwarded(&self) -> bool {
        self.stanza.nat.to.is_some() && self.stanza.cycle.is_none()
    }

    /// What an action would have that forwards as `FORCE_NAT` does: one part for each port of `OPEN_PORTS`, or one for
    /// the port of the target. `own` are the addresses of this host.
    pub(crate) fn forwards(&self, own: impl Fn(IpAddr) -> bool) -> Vec<ActionPart> {
        let Some((host, number)) = self.stanza.nat.to.filter(|_| self.is_forwarded()) else {
            return Vec::new();
        };
        let ip = if own(host.into()) { Ipv4Addr::UNSPECIFIED } else { host };
        let target = |transport| Port { transport, number };
        let mut ports: Vec<Port> = match &self.stanza.open_ports {
            Some(ports) if self.stanza.nat.no_destination => {
                ports.iter().map(|port| target(port.transport)).collect()
            }
            Some(ports) => ports.clone(),
            None => vec![target(Transport::Tcp)],
        };
        ports.dedup();
        let part = |port: Port| {
            let protocol = match port.transport {
                Transport::Tcp => Protocol::Tcp,
                Transport::Udp => Protocol::Udp,
            };
            let port = PortSpec::new(protocol, port.number)?;
            Some(ActionPart::Forward { port, to: vec![SocketAddr::from((ip, number))] })
        };
        ports.into_iter().filter_map(part).collect()
    }
}

impl FwknopConfig {
    /// The notices of the files, and what this host lacks to do what they ask for.
    pub(crate) fn all_notices(&self) -> Vec<ConfigProblem> {
        let own = host::own_addresses();
        let lacks = self.stanzas.iter().filter_map(|loaded| {
            let (target, _) = loaded.stanza.nat.to.filter(|_| loaded.is_forwarded())?;
            let parameter = host::forwarding_off(target.into()).filter(|_| !own.contains(&target.into()))?;
            Some(ConfigProblem {
                place: loaded.stanza.nat_place.clone(),
                reason: format!("FORCE_NAT: {parameter} is 0, so no packet reaches {target}"),
                hint: Some(host::forwarding_hint(parameter)),
            })
        });
        self.notices.iter().cloned().chain(lacks).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files::{self, FileMode};

    fn forwards(lines: &str) -> Vec<ActionPart> {
        read(lines).unwrap().stanzas[0].forwards(|ip| ip == Ipv4Addr::new(10, 0, 0, 1))
    }

    fn read(lines: &str) -> Result<FwknopConfig, String> {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name| scratch.path().join(name);
        let access = format!("SOURCE ANY\nKEY a\nHMAC_KEY b\n{lines}");
        files::create_new(&path("fwknopd.conf"), FileMode::Private, b"ENABLE_IPT_FORWARDING Y;\n").unwrap();
        files::create_new(&path("access.conf"), FileMode::Private, access.as_bytes()).unwrap();
        FwknopConfig::read(&path("access.conf")).map_err(|errors| errors.to_string())
    }

    #[test]
    fn an_account_that_does_not_exist_is_reported_with_its_line() {
        let error = read("ENABLE_CMD_EXEC Y\nCMD_EXEC_USER no-such-user\n").err().unwrap();
        assert!(error.contains("access.conf:5:1: CMD_EXEC_USER: there is no user"), "{error}");
    }

    #[test]
    fn a_stanza_forwards_each_of_its_ports_to_the_target() {
        let part = |port: &str, to: &str| ActionPart::Forward {
            port: port.parse().unwrap(),
            to: vec![to.parse().unwrap()],
        };
        for (lines, expected) in [
            ("OPEN_PORTS tcp/22\n", vec![]),
            ("FORCE_NAT 10.0.0.5 22\n", vec![part("tcp/22", "10.0.0.5:22")]),
            (
                "OPEN_PORTS tcp/2222,udp/53\nFORCE_NAT 10.0.0.5 22\n",
                vec![part("tcp/2222", "10.0.0.5:22"), part("udp/53", "10.0.0.5:22")],
            ),
            (
                "OPEN_PORTS tcp/2222,tcp/2223\nFORCE_NAT 10.0.0.5 22\nDISABLE_DNAT Y\n",
                vec![part("tcp/22", "10.0.0.5:22")],
            ),
            ("OPEN_PORTS tcp/2222\nFORCE_NAT 10.0.0.1 22\n", vec![part("tcp/2222", "0.0.0.0:22")]),
            ("FORCE_NAT 10.0.0.5 22\nCMD_CYCLE_OPEN /bin/true\nCMD_CYCLE_CLOSE NONE\n", vec![]),
        ] {
            assert_eq!(forwards(lines), expected, "{lines}");
        }
    }
}
