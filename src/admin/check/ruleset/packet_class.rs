//! For how many packets of a class a rule's test holds. The class consists of packets that start a connection from
//! outside, to some ports of this host or of a host behind it. A test that is not understood holds for some of them.

use std::net::IpAddr;

use serde_json::Value;

use super::listing::{Ruleset, TableName, Version};
use super::mark::Mark;
use crate::firewall::prefix_from_json;
use spa_knock_core::knock::{PortRange, Protocol};

/// For how many of the packets a test holds. `min` is "and", `max` is "or".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::check) enum Match {
    /// For none.
    No,
    /// For particular packets: from some address, or beyond some rate.
    Few,
    /// For some packets, or for an unknown part.
    Some,
    /// For all packets except those beyond some rate.
    Most,
    /// For all.
    All,
}

impl Match {
    pub(in crate::admin::check) const fn not(self) -> Self {
        match self {
            Self::No => Self::All,
            Self::Few | Self::Some => Self::Some,
            Self::Most => Self::Few,
            Self::All => Self::No,
        }
    }

    const fn all_if(holds: bool) -> Self {
        if holds { Self::All } else { Self::No }
    }
}

/// First packets of connections (or datagrams of a new flow) from outside that a grant lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin::check) struct PacketClass {
    pub(in crate::admin::check) version: Version,
    pub(in crate::admin::check) ports: PortRange,
    pub(in crate::admin::check) to: PacketDestination,
    pub(in crate::admin::check) mark: Mark,
}

/// The destination of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin::check) enum PacketDestination {
    /// This host, at the original port.
    Here,
    /// This host, redirected to another port.
    RedirectedHere,
    /// Another host, behind this one.
    Behind(IpAddr),
}

/// Name prefixes of bridges for containers and virtual machines. Packets from outside do not arrive on them.
const INNER: [&str; 7] = ["docker", "podman", "cni-podman", "virbr", "lxdbr", "lxcbr", "incusbr"];

/// The sets of our table that contain grants.
const GRANTS: [(Version, [&str; 3]); 2] = [
    (Version::V4, ["@grants4", "@range_grants4", "@once4"]),
    (Version::V6, ["@grants6", "@range_grants6", "@once6"]),
];

impl PacketClass {
    /// `{"op": "==", "left": …, "right": …}` in a rule of this table.
    pub(in crate::admin::check) fn test(&self, test: &Value, ruleset: &Ruleset, table: &TableName) -> Match {
        let (Some(left), Some(right)) = (test.get("left"), test.get("right")) else { return Match::Some };
        let holds = self.holds(left, right, ruleset, table);
        match test.get("op").and_then(Value::as_str) {
            Some("==" | "in") => holds,
            Some("!=") => holds.not(),
            _ => Match::Some,
        }
    }

    /// Whether `left` is `right`, or one of them if it is a set.
    pub(in crate::admin::check) fn holds(
        &self,
        left: &Value,
        right: &Value,
        ruleset: &Ruleset,
        table: &TableName,
    ) -> Match {
        if let Some(masked) = left.get("&").and_then(Value::as_array) {
            return self.masked(masked, right);
        }
        if let Some(name) = right.as_str().filter(|name| name.starts_with('@')) {
            if let Some(granted) = self.granted(name, table) {
                return granted;
            }
            let elements = ruleset.set(table, name.trim_start_matches('@'));
            return elements.map_or(Match::Some, |elements| self.any(left, elements, ruleset, table));
        }
        if let Some(elements) = right.get("set").unwrap_or(right).as_array() {
            return self.any(left, elements, ruleset, table);
        }
        let concatenated = |value: &Value| value.get("concat").and_then(Value::as_array).cloned();
        match (concatenated(left), concatenated(right)) {
            (Some(left), Some(right)) if left.len() == right.len() => {
                let each =
                    left.iter().zip(&right).map(|(left, right)| self.holds(left, right, ruleset, table));
                each.min().unwrap_or(Match::Some)
            }
            (None, None) => self.field(left, right),
            _ => Match::Some,
        }
    }

    fn any(&self, left: &Value, elements: &[Value], ruleset: &Ruleset, table: &TableName) -> Match {
        let each = elements.iter().map(|element| self.holds(left, key(element), ruleset, table));
        each.max().unwrap_or(Match::No)
    }

    /// Whether the packets are in this set, if it is a set of grants.
    fn granted(&self, name: &str, table: &TableName) -> Option<Match> {
        let ours = table.family == "inet" && table.name == "spa_knock";
        let (version, _) = GRANTS.into_iter().find(|(_, names)| names.contains(&name)).filter(|_| ours)?;
        Some(Match::all_if(version == self.version))
    }

    fn field(&self, left: &Value, right: &Value) -> Match {
        let part = |kind: &str, part: &str| left.get(kind).and_then(|inner| inner.get(part));
        let text = |kind: &str, name: &str| part(kind, name).and_then(Value::as_str);
        if let Some(key) = text("meta", "key") {
            return self.meta(key, right);
        }
        if let Some(key) = text("ct", "key") {
            return self.conntrack(key, right);
        }
        if let (Some(protocol), Some(field)) = (text("payload", "protocol"), text("payload", "field")) {
            return self.payload(protocol, field, right);
        }
        if left.get("fib").is_some() {
            let of_target = part("fib", "flags").is_some_and(|flags| flags.to_string().contains("daddr"));
            let is_type = text("fib", "result") == Some("type");
            return if is_type && of_target { self.address_type(right) } else { Match::Few };
        }
        // Extension headers: source routes, fragments.
        if left.get("exthdr").is_some() { Match::Few } else { Match::Some }
    }

    fn meta(&self, key: &str, right: &Value) -> Match {
        match key {
            "l4proto" => self.protocol(right),
            "nfproto" => {
                right.as_str().map_or(Match::Some, |name| Match::all_if(name == self.version.nfproto()))
            }
            "protocol" => {
                right.as_str().map_or(Match::Some, |name| Match::all_if(name == self.version.family()))
            }
            "iif" | "iifname" => match right.as_str() {
                Some(name) if is_inner(name) => Match::No,
                Some("*") => Match::All,
                _ => Match::Some,
            },
            "pkttype" => Match::all_if(right == "host"),
            "mark" => match right.as_u64() {
                Some(value) => self.mark.holds(u64::from(u32::MAX), value),
                None => Match::Few,
            },
            "skuid" | "skgid" => Match::Few,
            _ => Match::Some,
        }
    }

    fn conntrack(&self, key: &str, right: &Value) -> Match {
        match (key, right.as_str()) {
            ("state", Some(state)) => connection_state(state),
            ("status", Some("dnat")) => Match::all_if(self.to != PacketDestination::Here),
            ("direction", Some(direction)) => Match::all_if(direction == "original"),
            ("mark" | "count", _) => Match::Few,
            _ => Match::Some,
        }
    }

    fn payload(&self, protocol: &str, field: &str, right: &Value) -> Match {
        let ours = self.ports.protocol();
        match (protocol, field) {
            ("ip" | "ip6", _) if protocol != self.version.family() => Match::No,
            ("ip", "protocol") | ("ip6", "nexthdr") => self.protocol(right),
            ("ip" | "ip6", "saddr") => source(right),
            ("ip" | "ip6", "daddr") => self.target(right),
            ("tcp" | "udp", _) if protocol != ours.as_str() => Match::No,
            ("tcp" | "udp" | "th", "dport") => self.port(right),
            ("tcp", "flags") => Match::all_if(right == "syn"),
            ("icmp" | "icmpv6" | "igmp" | "sctp" | "dccp" | "udplite" | "esp" | "ah" | "comp" | "arp", _) => {
                Match::No
            }
            ("ether", "saddr") => Match::Few,
            _ => Match::Some,
        }
    }

    fn protocol(&self, right: &Value) -> Match {
        let ours = self.ports.protocol();
        match (right.as_str(), right.as_u64()) {
            (Some(name), _) => Match::all_if(name == ours.as_str()),
            (_, Some(number)) => Match::all_if(number == u64::from(ours.number())),
            _ => Match::Some,
        }
    }

    /// The match for a port or a range of ports.
    pub(in crate::admin::check) fn port(&self, right: &Value) -> Match {
        let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
        let bounds = match right.get("range").and_then(Value::as_array).map(Vec::as_slice) {
            Some([first, last]) => number(first).zip(number(last)),
            _ => number(right).map(|port| (port, port)),
        };
        let Some((first, last)) = bounds else { return Match::Some };
        let (ours_first, ours_last) = self.ports.bounds();
        if first <= ours_first && ours_last <= last {
            Match::All
        } else {
            // Overlaps or is outside.
            if first <= ours_last && ours_first <= last { Match::Some } else { Match::No }
        }
    }

    fn target(&self, right: &Value) -> Match {
        let Some(prefix) = prefix_from_json(right) else { return Match::Some };
        match self.to {
            PacketDestination::Behind(to) => Match::all_if(prefix.contains(to)),
            _ if prefix.is_everything() => Match::All,
            _ if prefix.first().is_multicast() || prefix.first().is_loopback() => Match::No,
            _ => Match::Some,
        }
    }

    const fn is_forwarded(&self) -> bool {
        matches!(self.to, PacketDestination::Behind(_))
    }

    fn address_type(&self, right: &Value) -> Match {
        match right.as_str() {
            Some("local") => Match::all_if(!self.is_forwarded()),
            Some("unicast") => Match::all_if(self.is_forwarded()),
            Some("broadcast" | "multicast" | "anycast" | "blackhole" | "unreachable" | "prohibit") => {
                Match::No
            }
            _ => Match::Some,
        }
    }

    /// The match of `tcp flags & (fin | syn) == syn`: the packets have only the flag SYN.
    fn masked(&self, masked: &[Value], right: &Value) -> Match {
        let [field, mask] = masked else { return Match::Some };
        if field.get("meta").and_then(|meta| meta.get("key")).is_some_and(|key| key == "mark") {
            let numbers = mask.as_u64().zip(right.as_u64());
            return numbers.map_or(Match::Few, |(mask, value)| self.mark.holds(mask, value));
        }
        let field = field.get("payload");
        let text = |name: &str| field.and_then(|field| field.get(name)).and_then(Value::as_str);
        if (text("protocol"), text("field")) != (Some("tcp"), Some("flags")) {
            return Match::Some;
        }
        if self.ports.protocol() != Protocol::Tcp {
            return Match::No;
        }
        let (mut mask_flags, mut flags) = (Vec::new(), Vec::new());
        if !(collect_flags(mask, &mut mask_flags) && collect_flags(right, &mut flags)) {
            return Match::Some;
        }
        let seen: Vec<&str> = mask_flags.into_iter().filter(|flag| *flag == "syn").collect();
        Match::all_if(seen == flags)
    }
}

/// The match for a connection state: new connections are only in the state `new`.
pub(in crate::admin::check) fn connection_state(state: &str) -> Match {
    match state {
        "new" => Match::All,
        "established" | "related" | "invalid" | "untracked" => Match::No,
        _ => Match::Some,
    }
}

/// The key of a set element: alone, with a timeout or a comment, or followed by its mapped value.
fn key(element: &Value) -> &Value {
    let element = element.as_array().and_then(|pair| pair.first()).unwrap_or(element);
    element.get("elem").and_then(|inner| inner.get("val")).unwrap_or(element)
}

fn source(right: &Value) -> Match {
    match prefix_from_json(right) {
        Some(prefix) if prefix.is_everything() => Match::All,
        Some(prefix) if prefix.first().is_loopback() => Match::No,
        _ => Match::Few,
    }
}

/// Whether no packets from outside arrive on this interface.
fn is_inner(name: &str) -> bool {
    let bridge = name
        .strip_prefix("br-")
        .is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    name == "lo" || bridge || INNER.iter().any(|inner| name.starts_with(inner))
}

/// Collects the flags of `"syn"`, `["fin", "syn"]` or `{"|": [..]}`; 0 is no flag. Returns false for any other value.
fn collect_flags<'a>(value: &'a Value, found: &mut Vec<&'a str>) -> bool {
    match value {
        Value::String(flag) => {
            found.push(flag);
            true
        }
        Value::Array(all) => all.iter().all(|value| collect_flags(value, found)),
        Value::Object(_) => value.get("|").is_some_and(|inner| collect_flags(inner, found)),
        Value::Number(number) => number.as_u64() == Some(0),
        _ => false,
    }
}
