//! The checks of fwknop's stanzas.

use super::report::CheckReport;
use crate::config::ServerConfig;
use crate::console::counted;
use crate::legacy::fwknop::FwknopConfig;
use spa_knock_core::knock::{PortRange, PortSpec, Protocol};
use spa_knock_fwknop::{Port, Transport};

impl CheckReport {
    pub(super) fn fwknop(&mut self, config: &ServerConfig, fwknop: &FwknopConfig) {
        let stanzas = counted(fwknop.stanzas.len(), "stanza");
        self.ok(format!("packets of fwknop: {stanzas} in {}", fwknop.path.display()));
        let place = ["legacy", "fwknop"];
        for notice in &fwknop.notices {
            let hint = notice.hint.as_deref().unwrap_or("remove the line if this is what you want");
            self.warning(config, &place, format!("{}: {}", notice.place, notice.reason), hint);
        }
        for loaded in &fwknop.stanzas {
            let ports = loaded.stanza.open_ports.iter().flatten().filter_map(|port| range(*port));
            for port in ports.filter(|port| !config.guarded().any(|guarded| guarded.overlap(*port))) {
                self.warning(
                    config,
                    &place,
                    format!("legacy.fwknop: {}: OPEN_PORTS: {port} is not in firewall.protect", loaded.name),
                    "the port is open to everyone, or another firewall closes it; a grant changes neither",
                );
            }
        }
    }
}

fn range(port: Port) -> Option<PortRange> {
    let protocol = match port.transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    PortSpec::new(protocol, port.number).map(PortRange::from)
}
