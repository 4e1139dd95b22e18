//! The rules for the knock port: datagrams that are captured before the firewall are dropped; where a socket receives
//! them, only those with a live hint pass.

use super::ruleset::TABLE;
use crate::firewall::text::Text;
use crate::firewall::{GateSpec, HintFilter};
use spa_knock_core::wire::{DATAGRAM_MAX, DATAGRAM_MIN};

/// Length of a UDP header in bytes. UDP's length field includes it.
const UDP_HEADER: usize = 8;

impl Text {
    /// Drops datagrams to the knock port without a response.
    pub(super) fn drop_silently(&mut self, gate: &GateSpec) {
        let Some(port) = gate.silent_port else { return };
        if !gate.early.is_empty() {
            self.ingress(&gate.early);
            self.line(format_args!("add rule {TABLE} ingress udp dport {port} drop"));
        }
        // Before the loopback rule, so that this host itself gets no response either.
        self.line(format_args!("add rule {TABLE} input udp dport {port} drop"));
    }

    /// Drops datagrams to the knock port that no client can have made: without a live hint, or of another length. The
    /// rules accept what they know and drop the rest, because a datagram too short for a hint matches no rule about hints.
    pub(super) fn drop_without_hint(&mut self, gate: &GateSpec) {
        let Some(HintFilter { port, forwards }) = gate.hint_filter else { return };
        self.line(format_args!("add set {TABLE} hints {{ typeof @th,64,64; flags timeout; }}"));
        let early = if gate.early.is_empty() {
            // Before connection tracking, which would have an entry for each datagram.
            self.line(format_args!(
                "add chain {TABLE} knock_port {{ type filter hook prerouting priority raw - 50; policy accept; }}"
            ));
            "knock_port"
        } else {
            self.ingress(&gate.early);
            "ingress"
        };
        let (shortest, longest) = (DATAGRAM_MIN + UDP_HEADER, DATAGRAM_MAX + UDP_HEADER);
        let to_this_host = if forwards { " fib daddr type local" } else { "" };
        // In `input`, too: fragments are put together only before that.
        for (chain, to_this_host) in [(early, to_this_host), ("input", "")] {
            self.line(format_args!(
                "add rule {TABLE} {chain} udp dport {port} udp length {shortest}-{longest} @th,64,64 @hints accept"
            ));
            self.line(format_args!("add rule {TABLE} {chain} udp dport {port}{to_this_host} counter drop"));
        }
    }

    fn ingress(&mut self, interfaces: &[String]) {
        let devices: Vec<_> = interfaces.iter().map(|name| format!("\"{name}\"")).collect();
        self.line(format_args!(
            "add chain {TABLE} ingress {{ type filter hook ingress devices = {{ {} }} priority -500; policy accept; }}",
            devices.join(", ")
        ));
    }
}
