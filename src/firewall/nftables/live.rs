//! The live grants in the kernel, as `nft -j list table` tells them.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::held::Holder;
use crate::knock::Door;

/// The grants that the text tells of, their ends counted from `now`. What is not as we write it is passed over.
pub(super) fn read(text: &str, now: Duration) -> Vec<(IpAddr, Door, Holder)> {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let objects = json.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let sets = objects.filter_map(|object| object.get("set")).filter(|set| is_ours(set));
    let elements = sets.filter_map(|set| set.get("elem")?.as_array()).flatten();
    elements.filter_map(|element| grant(element.get("elem")?, now)).collect()
}

fn is_ours(set: &Value) -> bool {
    matches!(set.get("name").and_then(Value::as_str), Some("grants4" | "grants6"))
}

fn grant(element: &Value, now: Duration) -> Option<(IpAddr, Door, Holder)> {
    let key = element.get("val")?.get("concat")?.as_array()?;
    let [address, protocol, port] = key.as_slice() else { return None };
    let address = address.as_str()?.parse().ok()?;
    let door = format!("{}/{}", protocol.as_str()?, port.as_u64()?).parse().ok()?;
    let (client, action) = element.get("comment")?.as_str()?.split_once(' ')?;
    let left = Duration::from_secs(element.get("expires")?.as_u64()?);
    let holder =
        Holder { client: client.parse().ok()?, action: action.parse().ok()?, end: now.saturating_add(left) };
    Some((address, door, holder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grants_of_both_families_are_found_and_nothing_else_is_taken_for_one() {
        let text = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"set": {"family": "inet", "name": "protected", "table": "spa_knock", "handle": 1,
              "type": ["inet_proto", "inet_service"], "elem": [{"concat": ["tcp", 22]}]}},
            {"set": {"family": "inet", "name": "grants4", "table": "spa_knock", "handle": 2, "size": 65536,
              "elem": [{"elem": {"val": {"concat": ["10.77.0.2", "tcp", 22]}, "timeout": 30, "expires": 29,
                                 "comment": "laptop open-ssh"}},
                       {"elem": {"val": {"concat": ["10.77.0.3", "tcp", 22]}, "expires": 29, "comment": "x"}}]}},
            {"set": {"family": "inet", "name": "grants6", "table": "spa_knock", "handle": 3,
              "elem": [{"elem": {"val": {"concat": ["fd77::2", "udp", 53]}, "expires": 5,
                                 "comment": "phone open-dns"}}]}},
            {"chain": {"family": "inet", "table": "spa_knock", "name": "input"}}]}"#;
        let found = read(text, Duration::from_secs(100));
        let told: Vec<_> = found
            .iter()
            .map(|(address, door, holder)| format!("{address} {door} {} {:?}", holder.comment(), holder.end))
            .collect();
        assert_eq!(told, ["10.77.0.2 tcp/22 laptop open-ssh 129s", "fd77::2 udp/53 phone open-dns 105s"]);
        for broken in ["", "{", "[]", "{\"nftables\": 1}"] {
            assert!(read(broken, Duration::ZERO).is_empty(), "{broken}");
        }
    }
}
