//! The table's text for `nft -f`: one transaction that builds it, or takes over what has changed and leaves every
//! live grant alone.

use std::fmt::Write;
use std::net::IpAddr;

use super::super::Gate;

/// The family and name of our table.
pub(super) const TABLE: &str = "inet spa_knock";

/// For as long as conntrack itself would remember an idle connection (`nf_conntrack_tcp_timeout_established`).
const OLDER_TIMEOUT: &str = "5d";

/// Everything but what depends on the config. `add` on what is there already changes nothing. Older connections
/// that still stand are named anew by each load; of those that ended none stays behind.
const FRAME: &str = "\
add table inet spa_knock { comment \"spa-knock: ports that open by a knock; schema 1\"; }
add set inet spa_knock protected { type inet_proto . inet_service; }
add set inet spa_knock grants4 { type ipv4_addr . inet_proto . inet_service; flags timeout; size 65536; }
add set inet spa_knock grants6 { type ipv6_addr . inet_proto . inet_service; flags timeout; size 65536; }
add set inet spa_knock older4 { type ipv4_addr . inet_service . inet_service; flags timeout; size 65536; }
add set inet spa_knock older6 { type ipv6_addr . inet_service . inet_service; flags timeout; size 65536; }
add chain inet spa_knock input { type filter hook input priority filter - 10; policy accept; }
add chain inet spa_knock gate
add chain inet spa_knock early
flush chain inet spa_knock input
flush chain inet spa_knock gate
delete chain inet spa_knock early
flush set inet spa_knock protected
flush set inet spa_knock older4
flush set inet spa_knock older6
";

/// The gate itself. Only packets to protected ports come here.
const GATE: &str = "\
add rule inet spa_knock input iif lo accept
add rule inet spa_knock input meta l4proto . th dport @protected jump gate
add rule inet spa_knock gate ct state established accept
add rule inet spa_knock gate ip saddr . meta l4proto . th dport @grants4 accept
add rule inet spa_knock gate ip6 saddr . meta l4proto . th dport @grants6 accept
add rule inet spa_knock gate tcp flags & (fin|syn|rst|ack) != syn ip saddr . tcp sport . tcp dport @older4 accept
add rule inet spa_knock gate tcp flags & (fin|syn|rst|ack) != syn ip6 saddr . tcp sport . tcp dport @older6 accept
add rule inet spa_knock gate counter drop
";

/// The whole transaction.
pub(super) fn text(gate: &Gate) -> String {
    let mut text = FRAME.to_owned();
    // Writing to a String cannot fail.
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{arguments}");
    };
    if let Some(port) = gate.silent_port {
        if !gate.early.is_empty() {
            let devices: Vec<_> = gate.early.iter().map(|name| format!("\"{name}\"")).collect();
            line(format_args!(
                "add chain {TABLE} early {{ type filter hook ingress devices = {{ {} }} priority -500; policy accept; }}",
                devices.join(", ")
            ));
            line(format_args!("add rule {TABLE} early udp dport {port} drop"));
        }
        // Before the loopback rule: our own host gets silence too.
        line(format_args!("add rule {TABLE} input udp dport {port} drop"));
    }
    for door in &gate.protect {
        line(format_args!(
            "add element {TABLE} protected {{ {} . {} }}",
            door.protocol().as_str(),
            door.port()
        ));
    }
    for connection in &gate.older {
        let set = match connection.remote.ip() {
            IpAddr::V4(_) => "older4",
            IpAddr::V6(_) => "older6",
        };
        line(format_args!(
            "add element {TABLE} {set} {{ {} . {} . {} timeout {OLDER_TIMEOUT} }}",
            connection.remote.ip(),
            connection.remote.port(),
            connection.local.port()
        ));
    }
    text.push_str(GATE);
    text
}
