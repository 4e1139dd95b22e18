//! The table's text for `nft -f`: one transaction that builds it, or takes over what has changed and leaves every
//! live grant alone.

use std::net::IpAddr;
use std::time::Duration;

use super::HeldElement;
use super::element::{self, Element, ElementEntry};
use super::plane::Area;
use crate::firewall::grant_table::GrantHolder;
use crate::firewall::text::Text;
use crate::firewall::{Enforcement, Failsafe, FirewallMode, GateSpec, PacketMark};
use spa_knock_core::auth::{Access, AccessTarget};
use spa_knock_core::knock::{PortRange, Prefix, Steady};

/// The family and name of our table.
pub(super) const TABLE: &str = "inet spa_knock";
/// A chain that does nothing but say that the table's sets are those of this version. To be renamed with them.
pub(super) const SCHEMA: &str = "schema-4";
/// The chains that close and open. `ingress` only saves work, and goes with its interfaces.
pub(super) const CHAIN_NAMES: [&str; 5] = ["input", "published", "translate", "marks", "gate"];

/// For as long as conntrack itself would remember an idle connection (`nf_conntrack_tcp_timeout_established`).
const OLDER_TIMEOUT: &str = "5d";

/// The sets. `add` on what is there already changes nothing. Older connections that still stand are named anew by each
/// load; of those that ended none stays behind.
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

/// The chains that are ours, empty; an admin's own chains in our table stay as they are.
const CHAINS: &str = "\
add chain inet spa_knock input { type filter hook input priority filter - 10; policy accept; }
add chain inet spa_knock published { type filter hook prerouting priority mangle; policy accept; }
add chain inet spa_knock translate { type nat hook prerouting priority dstnat - 10; policy accept; }
add chain inet spa_knock gate
add chain inet spa_knock ingress
add chain inet spa_knock marks
flush chain inet spa_knock input
flush chain inet spa_knock published
flush chain inet spa_knock translate
flush chain inet spa_knock gate
delete chain inet spa_knock ingress
delete chain inet spa_knock marks
";

/// What passes the gate, each line without its verdict.
const PASSES: &str = "\
add rule inet spa_knock gate ct state established
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @grants4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @grants6
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @range_grants4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @range_grants6
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @prefix_grants4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @prefix_grants6
add rule inet spa_knock gate meta iif . ip6 saddr . meta l4proto . th dport @linked6
add rule inet spa_knock gate ct state new ip saddr . meta l4proto . th dport @once4 delete @once4 { ip saddr . meta l4proto . th dport }
add rule inet spa_knock gate ct state new ip6 saddr . meta l4proto . th dport @once6 delete @once6 { ip6 saddr . meta l4proto . th dport }
add rule inet spa_knock gate tcp flags & (fin|syn|rst|ack) != syn ip saddr . tcp sport . tcp dport @established4
add rule inet spa_knock gate tcp flags & (fin|syn|rst|ack) != syn ip6 saddr . tcp sport . tcp dport @established6
";

/// The same for those whom a failsafe lets in.
const FAILSAFE: &str = "\
add rule inet spa_knock gate meta l4proto != @heartbeat ip saddr @failsafe4
add rule inet spa_knock gate meta l4proto != @heartbeat ip6 saddr @failsafe6
";

/// The same for packets that `translate` leads elsewhere, in mode `mark`.
const LED: &str = "\
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @forwards4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @forwards6
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @redirects4
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @redirects6
";

/// Ports that lead elsewhere: of connections to this host alone, never of those that it passes on for others.
const INSIDE: &str = "\
add rule inet spa_knock translate fib daddr type local dnat ip to ip saddr . meta l4proto . th dport map @forwards4
add rule inet spa_knock translate fib daddr type local dnat ip6 to ip6 saddr . meta l4proto . th dport map @forwards6
add rule inet spa_knock translate fib daddr type local meta l4proto tcp redirect to :ip saddr . meta l4proto . th dport map @redirects4
add rule inet spa_knock translate fib daddr type local meta l4proto tcp redirect to :ip6 saddr . meta l4proto . th dport map @redirects6
add rule inet spa_knock translate fib daddr type local meta l4proto udp redirect to :ip saddr . meta l4proto . th dport map @redirects4
add rule inet spa_knock translate fib daddr type local meta l4proto udp redirect to :ip6 saddr . meta l4proto . th dport map @redirects6
";

/// What becomes of a table that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreviousTable {
    /// It is taken over.
    Kept,
    /// It is of another version, and goes.
    Replaced,
    /// It is taken over, but for its grants: who holds them is not known.
    Emptied,
}

/// The whole transaction; `live` is what it opens besides, from `now` on.
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
    text.silence(gate);
    text.line(format_args!("add rule {TABLE} input iif lo accept"));
    text.established(gate);
    text.timed(
        "enforcing",
        match gate.enforcement {
            Enforcement::Permanent => None,
            Enforcement::Trial(time) => Some(time),
        },
    );
    text.timed("heartbeat", gate.failsafe.as_ref().map(|failsafe| failsafe.after));
    text.spared(gate.failsafe.as_ref());
    match gate.mode {
        FirewallMode::Guard => {
            text.guard(gate);
            text.verdicts(gate, "accept", "drop");
        }
        FirewallMode::Set => text.verdicts(gate, "accept", "drop"),
        FirewallMode::Mark(mark) => {
            text.mark(gate, mark);
            text.verdicts(gate, &format!("meta mark set meta mark or {mark} accept"), "return");
        }
    }
    text.0.push_str(INSIDE);
    for (element, holder) in live {
        // What is not as we write it is not written.
        let _ = text.grant(element, holder, now);
    }
    text.0
}

impl Text {
    /// Nobody answers at the knock port.
    fn silence(&mut self, gate: &GateSpec) {
        let Some(port) = gate.silent_port else { return };
        if !gate.early.is_empty() {
            let devices: Vec<_> = gate.early.iter().map(|name| format!("\"{name}\"")).collect();
            self.line(format_args!(
                "add chain {TABLE} ingress {{ type filter hook ingress devices = {{ {} }} priority -500; policy accept; }}",
                devices.join(", ")
            ));
            self.line(format_args!("add rule {TABLE} ingress udp dport {port} drop"));
        }
        // Before the loopback rule: our own host gets silence too.
        self.line(format_args!("add rule {TABLE} input udp dport {port} drop"));
    }

    /// What leads to the gate: packets to protected ports, and those to published ones before they are led inside.
    /// Rules and no set: a set of ranges that is filled anew is empty for a moment in the middle of the transaction, and
    /// who comes then would be let in.
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

    /// The same where the packets only get a mark, which others' rules accept. This is after the usual place for
    /// restoring marks of connections (mangle), before addresses are translated, and only for packets to this host.
    fn mark(&mut self, gate: &GateSpec, mark: PacketMark) {
        self.line(format_args!(
            "add chain {TABLE} marks {{ type filter hook prerouting priority mangle + 10; policy accept; }}"
        ));
        // No rule of others sets the mark for us.
        self.line(format_args!("add rule {TABLE} marks meta mark set meta mark and {:#x}", !mark.bit()));
        self.line(format_args!("add rule {TABLE} marks iif lo accept"));
        for ports in &gate.protect {
            self.line(format_args!(
                "add rule {TABLE} marks {} fib daddr type local jump gate",
                matched(*ports)
            ));
        }
    }

    /// The gate: what passes it, and what becomes of the rest.
    fn verdicts(&mut self, gate: &GateSpec, pass: &str, end: &str) {
        let marking = matches!(gate.mode, FirewallMode::Mark(_));
        let failsafe = if gate.failsafe.is_some() { FAILSAFE } else { "" };
        let led = if marking { LED } else { "" };
        for line in PASSES.lines().chain(led.lines()).chain(failsafe.lines()) {
            self.line(format_args!("{line} {pass}"));
        }
        // A trial in mode `mark` only ends with its table: without it the admin's rules decide alone.
        if gate.enforcement != Enforcement::Permanent && !marking {
            // The kernel removes the element when the time of the trial is over.
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

    /// Both protocols stand in the set, for ever or for so long.
    fn timed(&mut self, set: &str, time: Option<Duration>) {
        let timeout = time.map(|time| format!(" timeout {}", written(time))).unwrap_or_default();
        self.line(format_args!("add element {TABLE} {set} {{ tcp{timeout}, udp{timeout} }}"));
    }

    fn spared(&mut self, failsafe: Option<&Failsafe>) {
        for prefix in failsafe.iter().flat_map(|failsafe| &failsafe.allow) {
            let set = if prefix.first().is_ipv4() { "failsafe4" } else { "failsafe6" };
            self.line(format_args!("add element {TABLE} {set} {{ {} }}", range(*prefix)));
        }
    }

    /// Nothing where the element is not one of ours.
    fn grant(&mut self, element: &Element, holder: &GrantHolder<Steady>, now: Steady) -> Option<()> {
        let set = std::str::from_utf8(element.set.strip_suffix(b"\0")?).ok()?;
        let (link, from, ports, to) = match element::entry(element)? {
            ElementEntry::Interval(area, rectangle) => {
                let link = match area {
                    Area::Linked(link) => format!("{link} . "),
                    Area::Spans | Area::Nets => String::new(),
                };
                (link, span(rectangle.first, rectangle.last), rectangle.ports, String::new())
            }
            ElementEntry::Passage(Access { from, target: way, .. }) => {
                let (ports, to) = match way {
                    AccessTarget::Ports(ports) => (ports, String::new()),
                    // Whether it has been used is not known: it is not given twice.
                    AccessTarget::Once(_) => return None,
                    AccessTarget::Forward { door, to } if to.ip().is_unspecified() => {
                        (door.into(), format!(" : {}", to.port()))
                    }
                    AccessTarget::Forward { door, to } => {
                        (door.into(), format!(" : {} . {}", to.ip(), to.port()))
                    }
                };
                (String::new(), range(from), ports, to)
            }
        };
        let timeout = written(holder.end.since(now));
        self.line(format_args!(
            "add element {TABLE} {set} {{ {link}{from} . {} timeout {timeout} comment \"{}\"{to} }}",
            dotted(ports),
            holder.comment()
        ));
        Some(())
    }
}

fn matched(ports: PortRange) -> String {
    format!("{} dport {}", ports.protocol().as_str(), ports.numbers('-'))
}

fn dotted(ports: PortRange) -> String {
    format!("{} . {}", ports.protocol().as_str(), ports.numbers('-'))
}

/// As a range: some versions of nft do not take a prefix of no bits.
fn range(prefix: Prefix) -> String {
    span(prefix.first(), prefix.last())
}

fn span(first: IpAddr, last: IpAddr) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn written(time: Duration) -> String {
    format!("{}ms", time.as_millis().max(1))
}
