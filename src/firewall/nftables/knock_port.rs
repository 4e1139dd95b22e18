//! The rules for the knock port: datagrams that are captured before the firewall are dropped; where a socket receives
//! them, only those with a live hint pass.

use super::ruleset::TABLE;
use crate::firewall::text::Text;
use crate::firewall::{EarlyDrop, GateSpec};
use crate::packet::UDP_HEADER;
use spa_knock_core::wire::{DATAGRAM_MAX, DATAGRAM_MIN};

impl Text {
    /// Drops datagrams to the knock port without a response.
    pub(super) fn drop_silently(&mut self, gate: &GateSpec) {
        let Some(port) = gate.silent_port else { return };
        let early = self.early_chain(gate);
        // Before the loopback rule, so that this host itself gets no response either.
        for chain in early.into_iter().chain(["input"]) {
            self.line(format_args!("add rule {TABLE} {chain} udp dport {port} drop"));
        }
    }

    /// Drops datagrams to the knock port that no client can have made: without a live hint, or of another length. The
    /// rules accept what they know and drop the rest, because a datagram too short for a hint matches no rule about hints.
    pub(super) fn drop_without_hint(&mut self, gate: &GateSpec) {
        let Some(port) = gate.hinted_port else { return };
        self.line(format_args!("add set {TABLE} hints {{ typeof @th,64,64; flags timeout; }}"));
        let early = self.early_chain(gate);
        let (shortest, longest) = (DATAGRAM_MIN + UDP_HEADER, DATAGRAM_MAX + UDP_HEADER);
        // In `input`, too: fragments are put together only before that.
        for chain in early.into_iter().chain(["input"]) {
            self.line(format_args!(
                "add rule {TABLE} {chain} udp dport {port} udp length {shortest}-{longest} @th,64,64 @hints accept"
            ));
            self.line(format_args!("add rule {TABLE} {chain} udp dport {port} counter drop"));
        }
    }

    /// The chain that sees datagrams to the knock port before routing. None on a host that forwards: its packets for others
    /// also pass there, and can have the same port number.
    fn early_chain(&mut self, gate: &GateSpec) -> Option<&'static str> {
        match &gate.early {
            EarlyDrop::None => None,
            // Before connection tracking, which would have an entry for each datagram.
            EarlyDrop::Prerouting => {
                self.line(format_args!(
                    "add chain {TABLE} knock_port {{ type filter hook prerouting priority raw - 50; policy accept; }}"
                ));
                Some("knock_port")
            }
            EarlyDrop::Ingress(interfaces) => {
                let devices: Vec<_> = interfaces.iter().map(|name| format!("\"{name}\"")).collect();
                self.line(format_args!(
                    "add chain {TABLE} ingress {{ type filter hook ingress devices = {{ {} }} priority -500; policy accept; }}",
                    devices.join(", ")
                ));
                Some("ingress")
            }
        }
    }
}
