//! Rules for the ports of the daemon itself, in the table filter: the knock port, and the port for health checks.

use super::family::IpVersion;
use super::installed::InstalledRules;
use super::names::{ENTRY, IptablesTable};
use crate::firewall::text::Text;
use crate::firewall::{GateSpec, HealthPort};

impl Text {
    /// Drops packets to the daemon's own ports, where the gate is in another table and this table contains nothing else of
    /// ours.
    pub(super) fn drop_alone(&mut self, family: IpVersion, gate: &GateSpec) {
        if gate.silent_port.is_none() && gate.health.is_none() {
            return;
        }
        self.start(IptablesTable::Filter);
        self.line(format_args!(":{ENTRY} - [0:0]"));
        self.jump_rule(IptablesTable::Filter, None, &InstalledRules::default());
        self.drop_datagrams(gate);
        if gate.health.is_some() {
            self.line(format_args!("-A {ENTRY} -i lo -j RETURN"));
        }
        self.health_port(family, gate);
        self.end();
    }

    /// Drops datagrams to the knock port without a response. Comes before the loopback rule, so that this host itself gets
    /// no response either.
    pub(super) fn drop_datagrams(&mut self, gate: &GateSpec) {
        if let Some(port) = gate.silent_port {
            self.line(format_args!("-A {ENTRY} -p udp -m udp --dport {port} -j DROP"));
        }
    }

    /// Leaves packets of load balancers to the port for health checks to the other rules, and drops those of everyone else.
    pub(super) fn health_port(&mut self, family: IpVersion, gate: &GateSpec) {
        let Some(HealthPort { port, from }) = &gate.health else { return };
        let packets = format!("-p tcp -m tcp --dport {port}");
        for prefix in from.iter().filter(|prefix| IpVersion::of(**prefix) == family) {
            self.line(format_args!("-A {ENTRY} -s {prefix} {packets} -j RETURN"));
        }
        self.line(format_args!("-A {ENTRY} {packets} -j DROP"));
    }
}
