//! The input for `nft -f`: one transaction that builds the table, or applies what has changed and keeps every active
//! grant.

use std::net::IpAddr;
use std::time::Duration;

use super::HeldElement;
use super::element;
use super::element_text::span;
use crate::firewall::text::Text;
use crate::firewall::{
    Enforcement, EstablishedSessions, Failsafe, FirewallMode, GateSpec, HealthPort, PacketMark,
};
use spa_knock_core::knock::{PortRange, Prefix, Steady};

/// The family and name of our table.
pub(super) const TABLE: &str = "inet spa_knock";
/// An empty chain whose name identifies the version of the table's sets. Rename it when the sets change.
pub(super) const SCHEMA: &str = "schema-6";
/// The chains that close and open ports. `ingress` is left out: it only saves work, and disappears with its interfaces.
pub(super) const CHAIN_NAMES: [&str; 7] =
    ["input", "published", "translate", "source", "marks", "knock_port", "gate"];

/// As long as conntrack remembers an idle connection (`nf_conntrack_tcp_timeout_established`).
const OLDER_TIMEOUT: &str = "5d";

/// The sets. `add` does not change a set that exists. Each load refills the sets of older connections with those that
/// are still established.
const SETS: &str = "\
add set inet spa_knock grants4 { type ipv4_addr . inet_proto . inet_service; flags timeout; size 65536; counter; }
add set inet spa_knock grants6 { type ipv6_addr . inet_proto . inet_service; flags timeout; size 65536; counter; }
add set inet spa_knock range_grants4 { type ipv4_addr . inet_proto . inet_service; flags interval, timeout; size 65536; counter; }
add set inet spa_knock range_grants6 { type ipv6_addr . inet_proto . inet_service; flags interval, timeout; size 65536; counter; }
add set inet spa_knock prefix_grants4 { type ipv4_addr . inet_proto . inet_service; flags interval, timeout; size 65536; counter; }
add set inet spa_knock prefix_grants6 { type ipv6_addr . inet_proto . inet_service; flags interval, timeout; size 65536; counter; }
add set inet spa_knock linked6 { type iface_index . ipv6_addr . inet_proto . inet_service; flags interval, timeout; size 65536; counter; }
add set inet spa_knock once4 { type ipv4_addr . inet_proto . inet_service; flags timeout, dynamic; size 65536; }
add set inet spa_knock once6 { type ipv6_addr . inet_proto . inet_service; flags timeout, dynamic; size 65536; }
add map inet spa_knock forwards4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; flags timeout; size 65536; }
add map inet spa_knock forwards6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; flags timeout; size 65536; }
add map inet spa_knock redirects4 { type ipv4_addr . inet_proto . inet_service : inet_service; flags timeout; size 65536; }
add map inet spa_knock redirects6 { type ipv6_addr . inet_proto . inet_service : inet_service; flags timeout; size 65536; }
add map inet spa_knock diverts4 { type ipv4_addr : ipv4_addr; flags timeout; size 65536; }
add set inet spa_knock routes4 { type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags timeout; size 65536; }
add set inet spa_knock masqueraded_routes4 { type ipv4_addr . ipv4_addr . inet_proto . inet_service; flags timeout; size 65536; }
add map inet spa_knock translated_routes4 { type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr; flags timeout; size 65536; }
add set inet spa_knock transits4 { type ipv4_addr; flags timeout; size 65536; }
add set inet spa_knock masqueraded_transits4 { type ipv4_addr; flags timeout; size 65536; }
add map inet spa_knock translated_transits4 { type ipv4_addr : ipv4_addr; flags timeout; size 65536; }
add set inet spa_knock established4 { type ipv4_addr . inet_service . inet_service; flags timeout; size 65536; }
add set inet spa_knock established6 { type ipv6_addr . inet_service . inet_service; flags timeout; size 65536; }
add set inet spa_knock enforcing { type inet_proto; flags timeout; }
add set inet spa_knock heartbeat { type inet_proto; flags timeout; }
add set inet spa_knock failsafe4 { type ipv4_addr; flags interval; }
add set inet spa_knock failsafe6 { type ipv6_addr; flags interval; }
flush set inet spa_knock established4
flush set inet spa_knock established6
flush set inet spa_knock enforcing
flush set inet spa_knock heartbeat
flush set inet spa_knock failsafe4
flush set inet spa_knock failsafe6
";

/// Our chains, emptied. The administrator's own chains in our table stay unchanged.
const CHAINS: &str = "\
add chain inet spa_knock input { type filter hook input priority filter - 10; policy accept; }
add chain inet spa_knock published { type filter hook prerouting priority mangle; policy accept; }
add chain inet spa_knock translate { type nat hook prerouting priority dstnat - 10; policy accept; }
add chain inet spa_knock source { type nat hook postrouting priority srcnat - 10; policy accept; }
add chain inet spa_knock gate
add chain inet spa_knock ingress
add chain inet spa_knock marks
add chain inet spa_knock knock_port
flush chain inet spa_knock input
flush chain inet spa_knock published
flush chain inet spa_knock translate
flush chain inet spa_knock source
flush chain inet spa_knock gate
delete chain inet spa_knock ingress
delete chain inet spa_knock marks
delete chain inet spa_knock knock_port
";

/// Rules for established connections, each without its verdict.
const ESTABLISHED: &str = "\
add rule inet spa_knock gate ct state established
add rule inet spa_knock gate tcp flags & (fin|syn|rst|ack) != syn ip saddr . tcp sport . tcp dport @established4
add rule inet spa_knock gate tcp flags & (fin|syn|rst|ack) != syn ip6 saddr . tcp sport . tcp dport @established6
";

/// The same for what passes the gate by a grant.
const PASSES: &str = "\
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @grants4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @grants6
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @range_grants4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @range_grants6
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @prefix_grants4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @prefix_grants6
add rule inet spa_knock gate meta iif . ip6 saddr . meta l4proto . th dport @linked6
add rule inet spa_knock gate ct state new ip saddr . meta l4proto . th dport @once4 delete @once4 { ip saddr . meta l4proto . th dport }
add rule inet spa_knock gate ct state new ip6 saddr . meta l4proto . th dport @once6 delete @once6 { ip6 saddr . meta l4proto . th dport }
";

/// The same for addresses that a failsafe admits.
const FAILSAFE: &str = "\
add rule inet spa_knock gate meta l4proto != @heartbeat ip saddr @failsafe4
add rule inet spa_knock gate meta l4proto != @heartbeat ip6 saddr @failsafe6
";

/// The same for packets that `translate` forwards, in mode `mark`.
const FORWARD_PASSES: &str = "\
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @forwards4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @forwards6
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @redirects4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @redirects6
";

/// The same for packets that this host routes or diverts, in mode `mark` and in its chain.
const ROUTED_PASSES: &str = "\
add rule inet spa_knock marks ip saddr . ip daddr . meta l4proto . th dport @routes4 fib daddr type != local
add rule inet spa_knock marks ip saddr . ip daddr . meta l4proto . th dport @masqueraded_routes4 fib daddr type != local
add rule inet spa_knock marks ip saddr . ip daddr . meta l4proto . th dport @translated_routes4 fib daddr type != local
add rule inet spa_knock marks ip saddr @transits4 fib daddr type != local
add rule inet spa_knock marks ip saddr @masqueraded_transits4 fib daddr type != local
add rule inet spa_knock marks ip saddr @translated_transits4 fib daddr type != local
add rule inet spa_knock marks ip saddr @diverts4 ct state new
add rule inet spa_knock marks ip saddr @diverts4 ct status dnat
";

/// Source addresses of routed packets. A port comes before all packets.
const SOURCES: &str = "\
add rule inet spa_knock source ip saddr . ip daddr . meta l4proto . th dport @masqueraded_routes4 masquerade
add rule inet spa_knock source snat ip to ip saddr . ip daddr . meta l4proto . th dport map @translated_routes4
add rule inet spa_knock source ip saddr @masqueraded_transits4 masquerade
add rule inet spa_knock source snat ip to ip saddr map @translated_transits4
";

/// Forwards and redirects, only for connections to this host itself, never for those that it routes for others. Packets
/// that are diverted come last: a port of its own comes first. A port that is open for the address is not forwarded:
/// otherwise, who can forward could lead another client's connections elsewhere.
const FORWARDS: &str = "\
add rule inet spa_knock translate ip saddr . meta l4proto . th dport @grants4 return
add rule inet spa_knock translate ip6 saddr . meta l4proto . th dport @grants6 return
add rule inet spa_knock translate ip saddr . meta l4proto . th dport @range_grants4 return
add rule inet spa_knock translate ip6 saddr . meta l4proto . th dport @range_grants6 return
add rule inet spa_knock translate ip saddr . meta l4proto . th dport @prefix_grants4 return
add rule inet spa_knock translate ip6 saddr . meta l4proto . th dport @prefix_grants6 return
add rule inet spa_knock translate fib daddr type local dnat ip to ip saddr . meta l4proto . th dport map @forwards4
add rule inet spa_knock translate fib daddr type local dnat ip6 to ip6 saddr . meta l4proto . th dport map @forwards6
add rule inet spa_knock translate fib daddr type local meta l4proto tcp redirect to :ip saddr . meta l4proto . th dport map @redirects4
add rule inet spa_knock translate fib daddr type local meta l4proto tcp redirect to :ip6 saddr . meta l4proto . th dport map @redirects6
add rule inet spa_knock translate fib daddr type local meta l4proto udp redirect to :ip saddr . meta l4proto . th dport map @redirects4
add rule inet spa_knock translate fib daddr type local meta l4proto udp redirect to :ip6 saddr . meta l4proto . th dport map @redirects6
add rule inet spa_knock translate dnat ip to ip saddr map @diverts4
";

/// What happens to an existing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreviousTable {
    /// It is kept and updated.
    Kept,
    /// It belongs to another version and is deleted.
    Replaced,
    /// It is kept without its grants, because their holders are unknown.
    Emptied,
}

/// The whole transaction. `live` are the grants to add, active at `now`.
pub(super) fn text(gate: &GateSpec, before: PreviousTable, live: &[HeldElement], now: Steady) -> String {
    let mut text = Text::default();
    if before == PreviousTable::Replaced {
        text.line(format_args!("delete table {TABLE}"));
    }
    text.line(format_args!("add table {TABLE} {{ comment \"spa-knock: ports that open by a knock\"; }}"));
    text.line(format_args!("add chain {TABLE} {SCHEMA}"));
    text.0.push_str(SETS);
    if before == PreviousTable::Emptied {
        for set in element::SETS {
            text.line(format_args!(
                "flush set {TABLE} {}",
                String::from_utf8_lossy(set).trim_end_matches('\0')
            ));
        }
    }
    text.0.push_str(CHAINS);
    text.drop_silently(gate);
    text.drop_without_hint(gate);
    text.line(format_args!("add rule {TABLE} input iif lo accept"));
    text.health_checks(gate.health.as_ref());
    text.established(gate);
    text.timed(
        "enforcing",
        match gate.enforcement {
            Enforcement::Permanent => None,
            Enforcement::Trial(time) => Some(time),
        },
    );
    text.timed("heartbeat", gate.failsafe.as_ref().map(|failsafe| failsafe.after));
    text.failsafe(gate.failsafe.as_ref());
    match gate.mode {
        FirewallMode::Guard => {
            text.guard(gate);
            text.verdicts(gate, "accept", "drop");
        }
        FirewallMode::Set => text.verdicts(gate, "accept", "drop"),
        FirewallMode::Mark(mark) => {
            let pass = format!("meta mark set meta mark or {mark} accept");
            text.mark(gate, mark, &pass);
            text.verdicts(gate, &pass, "return");
        }
    }
    text.0.push_str(FORWARDS);
    text.0.push_str(SOURCES);
    for (element, holder) in live {
        // An element that does not have the form that we write is skipped.
        let _ = text.grant(element, holder, now);
    }
    text.0
}

impl Text {
    /// Leaves packets of load balancers to the port for health checks to the other rules, and drops those of everyone else.
    fn health_checks(&mut self, health: Option<&HealthPort>) {
        let Some(HealthPort { port, from }) = health else { return };
        for (family, is_ipv4) in [("ip", true), ("ip6", false)] {
            let ranges: Vec<String> = from
                .iter()
                .filter(|prefix| prefix.first().is_ipv4() == is_ipv4)
                .map(|prefix| range(*prefix))
                .collect();
            if !ranges.is_empty() {
                let ranges = ranges.join(", ");
                self.line(format_args!(
                    "add rule {TABLE} input tcp dport {port} {family} saddr {{ {ranges} }} return"
                ));
            }
        }
        self.line(format_args!("add rule {TABLE} input tcp dport {port} drop"));
    }

    /// Rules that lead to the gate: packets to protected ports, and packets to published ports before they are
    /// forwarded. They name the ports instead of using a set: while a set of ranges is refilled, it is empty for a
    /// moment within the transaction, which would admit packets.
    fn guard(&mut self, gate: &GateSpec) {
        for ports in &gate.protect {
            self.line(format_args!("add rule {TABLE} input {} jump gate", matched(*ports)));
        }
        self.line(format_args!("add rule {TABLE} published iif lo accept"));
        for ports in &gate.published {
            self.line(format_args!(
                "add rule {TABLE} published fib daddr type local {} jump gate",
                matched(*ports)
            ));
        }
    }

    /// The same where packets only get a mark, which other rules accept. The chain comes after the usual place for
    /// restoring connection marks (mangle) and before address translation, and applies only to packets to this host.
    fn mark(&mut self, gate: &GateSpec, mark: PacketMark, pass: &str) {
        self.line(format_args!(
            "add chain {TABLE} marks {{ type filter hook prerouting priority mangle + 10; policy accept; }}"
        ));
        // Clears a mark that another rule may have set.
        self.line(format_args!("add rule {TABLE} marks meta mark set meta mark and {:#x}", !mark.bit()));
        self.line(format_args!("add rule {TABLE} marks iif lo accept"));
        for line in ROUTED_PASSES.lines() {
            self.line(format_args!("{line} {pass}"));
        }
        for ports in &gate.protect {
            self.line(format_args!(
                "add rule {TABLE} marks {} fib daddr type local jump gate",
                matched(*ports)
            ));
        }
    }

    /// The gate: the rules that let packets pass, and the verdict on the others.
    fn verdicts(&mut self, gate: &GateSpec, pass: &str, end: &str) {
        let marking = matches!(gate.mode, FirewallMode::Mark(_));
        let failsafe = if gate.failsafe.is_some() { FAILSAFE } else { "" };
        let forwards = if marking { FORWARD_PASSES } else { "" };
        let established = match gate.sessions {
            EstablishedSessions::Pass => ESTABLISHED,
            EstablishedSessions::NeedGrant => "",
        };
        for line in established.lines().chain(PASSES.lines()).chain(forwards.lines()).chain(failsafe.lines())
        {
            self.line(format_args!("{line} {pass}"));
        }
        // In mode `mark`, a trial ends only with its table, after which the administrator's rules alone decide.
        if gate.enforcement != Enforcement::Permanent && !marking {
            // The kernel removes the element when the trial ends.
            self.line(format_args!("add rule {TABLE} gate meta l4proto != @enforcing {pass}"));
        }
        self.line(format_args!("add rule {TABLE} gate counter {end}"));
    }

    fn established(&mut self, gate: &GateSpec) {
        for connection in &gate.established {
            let set = match connection.remote.ip() {
                IpAddr::V4(_) => "established4",
                IpAddr::V6(_) => "established6",
            };
            self.line(format_args!(
                "add element {TABLE} {set} {{ {} . {} . {} timeout {OLDER_TIMEOUT} }}",
                connection.remote.ip(),
                connection.remote.port(),
                connection.local.port()
            ));
        }
    }

    /// Adds both protocols to the set, permanently or with a timeout.
    fn timed(&mut self, set: &str, time: Option<Duration>) {
        let timeout = time.map(|time| format!(" timeout {}", milliseconds(time))).unwrap_or_default();
        self.line(format_args!("add element {TABLE} {set} {{ tcp{timeout}, udp{timeout} }}"));
    }

    fn failsafe(&mut self, failsafe: Option<&Failsafe>) {
        for prefix in failsafe.iter().flat_map(|failsafe| &failsafe.allow) {
            let set = if prefix.first().is_ipv4() { "failsafe4" } else { "failsafe6" };
            self.line(format_args!("add element {TABLE} {set} {{ {} }}", range(*prefix)));
        }
    }
}

fn matched(ports: PortRange) -> String {
    format!("{} dport {}", ports.protocol().as_str(), ports.numbers('-'))
}

/// Written as a range, because some versions of nft do not accept a prefix of length 0.
pub(super) fn range(prefix: Prefix) -> String {
    span(prefix.first(), prefix.last())
}

pub(super) fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input_rules(gate: &GateSpec) -> Vec<String> {
        let text = text(gate, PreviousTable::Kept, &[], crate::os::clock::steady());
        let rules = text.lines().filter_map(|line| line.strip_prefix("add rule inet spa_knock input "));
        rules.map(str::to_owned).collect()
    }

    #[test]
    fn health_checks_are_admitted_before_protected_ports_and_dropped_from_elsewhere_in_every_mode() {
        let health = |prefixes: &[&str]| {
            let from = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
            Some(HealthPort { port: 8080, from })
        };
        let gate = GateSpec {
            protect: vec!["tcp/22".parse().unwrap()],
            silent_port: Some(62_201),
            health: health(&["10.0.0.0/16", "fd00::/64", "10.2.0.1"]),
            ..GateSpec::default()
        };
        let first = ["udp dport 62201 drop", "iif lo accept"];
        let v4 = "tcp dport 8080 ip saddr { 10.0.0.0-10.0.255.255, 10.2.0.1 } return";
        let v6 = "tcp dport 8080 ip6 saddr { fd00::-fd00::ffff:ffff:ffff:ffff } return";
        let drop = "tcp dport 8080 drop";
        assert_eq!(input_rules(&gate), [&first[..], &[v4, v6, drop, "tcp dport 22 jump gate"]].concat());
        for mode in [FirewallMode::Set, FirewallMode::Mark(PacketMark::default())] {
            let gate = GateSpec { mode, ..gate.clone() };
            assert_eq!(input_rules(&gate), [&first[..], &[v4, v6, drop]].concat(), "{mode:?}");
        }
        let only_v6 = GateSpec { health: health(&["fd00::/64"]), silent_port: None, ..gate.clone() };
        assert_eq!(input_rules(&only_v6), ["iif lo accept", v6, drop, "tcp dport 22 jump gate"]);
        let none = GateSpec { health: None, ..gate };
        assert_eq!(input_rules(&none), [&first[..], &["tcp dport 22 jump gate"]].concat());
    }
}
