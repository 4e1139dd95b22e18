//! Reads the table in the kernel and changes it by name, for commands while no daemon is running.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::program::{nft, submit};
use super::ruleset::TABLE;
use crate::firewall::FirewallError;
use spa_knock_core::knock::{ClientName, PortRange};

/// The ports that only a grant opens, read from the rules.
pub(super) fn closed_ports() -> Result<Vec<PortRange>, FirewallError> {
    let table = table()?;
    let rules = objects(&table).filter_map(|object| object.get("rule")?.get("expr")?.as_array());
    let mut closed: Vec<PortRange> = Vec::new();
    for ports in rules.filter(|rule| leads_to_gate(rule)).flatten().filter_map(ports) {
        if !closed.contains(&ports) {
            closed.push(ports);
        }
    }
    Ok(closed)
}

/// Opens these ports for an address for a time. An existing grant gets this time.
pub(super) fn grant_unconfirmed(
    address: IpAddr,
    ports: &[PortRange],
    time: Duration,
    comment: &str,
) -> Result<(), FirewallError> {
    let family = if address.is_ipv4() { '4' } else { '6' };
    let mut text = String::new();
    for ports in ports {
        let set = if ports.single().is_some() { "grants" } else { "range_grants" };
        let key = format!("{address} . {} . {}", ports.protocol().as_str(), ports.numbers('-'));
        let seconds = time.as_secs().max(1);
        let add = format!(
            "add element {TABLE} {set}{family} {{ {key} timeout {seconds}s comment \"{comment}\" }}\n"
        );
        // An existing element would keep its timeout, so it is added, deleted and added again.
        text.push_str(&format!("{add}delete element {TABLE} {set}{family} {{ {key} }}\n{add}"));
    }
    submit(&text)
}

/// Closes what this client's knocks have opened, and returns the number of elements.
pub(super) fn close_client(client: &ClientName) -> Result<usize, FirewallError> {
    // Another program may change the sets between listing and deleting.
    try_close_client(client).or_else(|_| try_close_client(client))
}

fn try_close_client(client: &ClientName) -> Result<usize, FirewallError> {
    let table = table()?;
    let sets = objects(&table).filter_map(|object| object.get("set").or_else(|| object.get("map")));
    let mut changes = Vec::new();
    let mut count = 0_usize;
    for set in sets {
        let (Some(name), Some(elements)) = (set.get("name"), set.get("elem").and_then(Value::as_array))
        else {
            continue;
        };
        for element in elements.iter().filter_map(|element| key_of(element, client)) {
            let element = json!({"element": {
                "family": "inet", "table": "spa_knock", "name": name, "elem": [element]
            }});
            // An element that has expired since it was listed would fail the transaction, so it is added first.
            changes.extend([json!({ "add": element }), json!({ "delete": element })]);
            count = count.saturating_add(1);
        }
    }
    if count == 0 {
        return Ok(0);
    }
    let text = json!({ "nftables": changes }).to_string();
    nft(&["-j", "-f", "-"], &text).map_err(|error| FirewallError::Other(error.to_string()))?;
    Ok(count)
}

fn table() -> Result<Value, FirewallError> {
    let text = nft(&["-j", "list", "table", "inet", "spa_knock"], "")
        .map_err(|error| FirewallError::Other(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| FirewallError::Other(format!("nft: {error}")))
}

fn objects(table: &Value) -> impl Iterator<Item = &Value> {
    table.get("nftables").and_then(Value::as_array).into_iter().flatten()
}

fn leads_to_gate(rule: &[Value]) -> bool {
    let target = |expression: &Value| Some(expression.get("jump")?.get("target")?.as_str()? == "gate");
    rule.iter().any(|expression| target(expression) == Some(true))
}

/// The ports that an expression of a rule matches.
fn ports(expression: &Value) -> Option<PortRange> {
    let found = expression.get("match")?;
    let field = found.get("left")?.get("payload")?;
    let (protocol, "dport") = (field.get("protocol")?.as_str()?, field.get("field")?.as_str()?) else {
        return None;
    };
    let right = found.get("right")?;
    let numbers = match right.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        Some([first, last]) => format!("{}-{}", first.as_u64()?, last.as_u64()?),
        _ => right.as_u64()?.to_string(),
    };
    format!("{protocol}/{numbers}").parse().ok()
}

/// The key of an element that this client opened; in a map, with its value.
fn key_of(element: &Value, client: &ClientName) -> Option<Value> {
    let (key, value) = match element.as_array().map(Vec::as_slice) {
        Some([key, value]) => (key, Some(value)),
        Some(_) => return None,
        None => (element, None),
    };
    let inner = key.get("elem")?;
    let (holder, _) = inner.get("comment")?.as_str()?.split_once(' ')?;
    if holder != client.as_str() {
        return None;
    }
    let key = inner.get("val")?.clone();
    Some(value.map_or_else(|| key.clone(), |value| json!([key, value])))
}
