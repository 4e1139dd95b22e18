//! The table as the kernel has it, from what `nft -j list table` tells: its schema and the live grants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use crate::firewall::held::Holder;
use crate::gate::{Passage, Way};
use crate::knock::{Door, Ports, Prefix};

/// What there is of our table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// The names of its chains.
    chains: Vec<String>,
    /// Whether the last rule of its gate is there: what takes rules away takes that too, or leaves it where it is.
    closes: bool,
    /// The live grants, their ends counted from the time of reading.
    pub(super) grants: Vec<(Passage, Holder)>,
}

impl Listed {
    /// Whether it has a chain of this name.
    pub(super) fn has_chain(&self, name: &str) -> bool {
        self.chains.iter().any(|chain| chain == name)
    }

    /// Whether nothing of it has been taken away.
    pub(super) fn is_whole(&self) -> bool {
        self.closes && self.has_chain("input") && self.has_chain("outside") && self.has_chain("inside")
    }
}

/// Reads it at `now`. What is not as we write it is passed over.
pub(super) fn read(text: &str, now: Duration) -> Listed {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let objects = || json.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let chains = objects().filter_map(|object| object.get("chain")?.get("name")?.as_str());
    let sets = objects().filter_map(|object| object.get("set").or_else(|| object.get("map")));
    let grants = sets.filter_map(|set| Some((set.get("name")?.as_str()?, set.get("elem")?.as_array()?)));
    let grants = grants
        .flat_map(|(name, elements)| elements.iter().filter_map(move |element| grant(name, element, now)));
    let rules = objects().filter_map(|object| object.get("rule"));
    let closes = rules.filter(|rule| rule.get("chain").and_then(Value::as_str) == Some("gate"));
    let mut last = closes.filter_map(|rule| rule.get("expr")?.as_array()?.last());
    // In mode `mark` the rest goes on to the rules of others.
    let closes = last.any(|last| last.get("drop").is_some() || last.get("return").is_some());
    Listed { chains: chains.map(str::to_owned).collect(), closes, grants: grants.collect() }
}

/// One element of the set or map of this name: `{"elem": …}`, or that and what it is mapped to.
fn grant(set: &str, element: &Value, now: Duration) -> Option<(Passage, Holder)> {
    let (element, value) = match element.as_array().map(Vec::as_slice) {
        Some([element, value]) => (element, Some(value)),
        Some(_) => return None,
        None => (element, None),
    };
    let element = element.get("elem")?;
    let [from, protocol, ports] = element.get("val")?.get("concat")?.as_array()?.as_slice() else {
        return None;
    };
    let (from, ports) = (prefix_from_json(from)?, self::ports(protocol.as_str()?, ports)?);
    let way = match set {
        "grants4" | "grants6" | "spans4" | "spans6" => Way::Ports(ports),
        "once4" | "once6" => Way::Once(ports.single()?),
        "forwards4" | "forwards6" => Way::Forward { door: ports.single()?, to: elsewhere(value?)? },
        "locals4" => Way::Forward { door: ports.single()?, to: here(Ipv4Addr::UNSPECIFIED.into(), value?)? },
        "locals6" => Way::Forward { door: ports.single()?, to: here(Ipv6Addr::UNSPECIFIED.into(), value?)? },
        _ => return None,
    };
    let (client, action) = element.get("comment")?.as_str()?.split_once(' ')?;
    let left = Duration::from_secs(element.get("expires")?.as_u64()?);
    let holder =
        Holder { client: client.parse().ok()?, action: action.parse().ok()?, end: now.saturating_add(left) };
    Some((Passage { from, way }, holder))
}

/// Addresses, as nft writes them in JSON: `"10.0.0.1"` or `{"prefix": {"addr": "10.0.0.0", "len": 8}}`.
#[must_use]
pub fn prefix_from_json(value: &Value) -> Option<Prefix> {
    if let Some(address) = value.as_str() {
        return address.parse().ok();
    }
    let prefix = value.get("prefix")?;
    let address: IpAddr = prefix.get("addr")?.as_str()?.parse().ok()?;
    Some(Prefix::of(address, u8::try_from(prefix.get("len")?.as_u64()?).ok()?))
}

fn ports(protocol: &str, value: &Value) -> Option<Ports> {
    if let Some(port) = value.as_u64() {
        return format!("{protocol}/{port}").parse::<Door>().ok().map(Ports::from);
    }
    let [first, last] = value.get("range")?.as_array()?.as_slice() else { return None };
    format!("{protocol}/{}-{}", first.as_u64()?, last.as_u64()?).parse().ok()
}

fn elsewhere(value: &Value) -> Option<SocketAddr> {
    let [address, port] = value.get("concat")?.as_array()?.as_slice() else { return None };
    Some(SocketAddr::new(address.as_str()?.parse().ok()?, u16::try_from(port.as_u64()?).ok()?))
}

fn here(address: IpAddr, port: &Value) -> Option<SocketAddr> {
    Some(SocketAddr::new(address, u16::try_from(port.as_u64()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grants_of_every_kind_are_found_and_nothing_else_is_taken_for_one() {
        // As nft 1.0.6 prints it.
        let text = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"table": {"family": "inet", "name": "spa_knock", "handle": 7}},
            {"set": {"family": "inet", "name": "protected", "table": "spa_knock", "handle": 1,
              "type": ["inet_proto", "inet_service"], "elem": [{"concat": ["tcp", 22]}]}},
            {"set": {"family": "inet", "name": "grants4", "table": "spa_knock", "handle": 2, "size": 65536,
              "elem": [{"elem": {"val": {"concat": ["10.77.0.2", "tcp", 22]}, "timeout": 30, "expires": 29,
                                 "comment": "laptop open-ssh", "counter": {"packets": 0, "bytes": 0}}},
                       {"elem": {"val": {"concat": ["10.77.0.3", "tcp", 22]}, "expires": 29, "comment": "x"}}]}},
            {"set": {"family": "inet", "name": "grants6", "table": "spa_knock", "handle": 3,
              "elem": [{"elem": {"val": {"concat": ["fd77::2", "udp", 53]}, "expires": 5,
                                 "comment": "phone open-dns"}}]}},
            {"set": {"name": "spans4", "elem": [{"elem": {"val": {"concat": [{"prefix": {"addr": "10.0.0.0",
              "len": 24}}, "tcp", {"range": [80, 90]}]}, "timeout": 30, "expires": 29, "comment": "a b"}}]}},
            {"set": {"name": "once4", "elem": [{"elem": {"val": {"concat": ["10.0.0.1", "tcp", 81]},
              "timeout": 30, "expires": 29, "comment": "a b"}}]}},
            {"map": {"name": "forwards4", "map": "x", "elem": [[{"elem": {"val": {"concat": ["10.0.0.1", "tcp", 80]},
              "timeout": 30, "expires": 29, "comment": "a b"}}, {"concat": ["10.9.0.1", 8080]}]]}},
            {"map": {"name": "locals4", "map": "x", "elem": [[{"elem": {"val": {"concat": ["10.0.0.1", "tcp", 81]},
              "timeout": 30, "expires": 29, "comment": "a b"}}, 8080]]}},
            {"chain": {"family": "inet", "table": "spa_knock", "name": "input"}}]}"#;
        let listed = read(text, Duration::from_secs(100));
        assert!(listed.has_chain("input") && !listed.has_chain("schema-2"));
        let told: Vec<_> = listed
            .grants
            .iter()
            .map(|(passage, holder)| {
                format!("{} {}: {} {:?}", passage.from, passage.way, holder.comment(), holder.end)
            })
            .collect();
        assert_eq!(
            told,
            [
                "10.77.0.2 tcp/22: laptop open-ssh 129s",
                "fd77::2 udp/53: phone open-dns 105s",
                "10.0.0.0/24 tcp/80-90: a b 129s",
                "10.0.0.1 tcp/81 once: a b 129s",
                "10.0.0.1 tcp/80 to 10.9.0.1:8080: a b 129s",
                "10.0.0.1 tcp/81 to port 8080: a b 129s",
            ]
        );
        for broken in ["", "{", "[]", "{\"nftables\": 1}"] {
            assert!(read(broken, Duration::ZERO).grants.is_empty(), "{broken}");
        }
    }
}
