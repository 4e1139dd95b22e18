//! Splits one rule into steps: for which part of the packets it decides what. iptables' own matches, which nft's JSON
//! only names, are read from the rule's text.

use serde_json::Value;

use super::listing::{Ruleset, RulesetRule, TableName, Version};
use super::packet_class::{Match, PacketClass, connection_state};
use spa_knock_core::knock::Protocol;

/// What a rule decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin::check) enum RuleVerdict {
    Accept,
    Drop,
    Reject,
    Return,
    Jump(String),
    Goto(String),
    /// Redirected to another host or port.
    Redirected,
    /// Not tracked as a connection; continues through the chain.
    Untracked,
    /// Decided elsewhere: by a program in user space, or by an unknown target.
    Elsewhere,
}

/// Targets of iptables after which the packet continues through the chain.
const PASSING: [&str; 12] = [
    "LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "CT", "TCPMSS", "CHECKSUM", "CLASSIFY", "SET", "AUDIT",
    "TRACE",
];

/// The steps of a rule, in order.
pub(in crate::admin::check) fn steps(
    packets: &PacketClass,
    rule: &RulesetRule,
    ruleset: &Ruleset,
    table: &TableName,
) -> Vec<(Match, RuleVerdict)> {
    let mut steps = Vec::new();
    let mut matched = Match::All;
    for statement in &rule.statements {
        let Some((kind, inner)) = statement.as_object().and_then(|object| object.iter().next()) else {
            // A bare word never decides.
            continue;
        };
        match kind.as_str() {
            "match" => matched = matched.min(packets.test(inner, ruleset, table)),
            "xt" if inner.get("type").is_some_and(|kind| kind == "match") => {
                matched = matched.min(foreign(packets, inner, &rule.text));
            }
            "limit" if !inner.get("inv").is_some_and(|inverted| inverted == true) => {
                matched = matched.min(Match::Most);
            }
            "limit" | "quota" | "ct count" | "meter" => matched = matched.min(Match::Few),
            "notrack" => steps.push((matched, RuleVerdict::Untracked)),
            "xt" if inner.get("name").is_some_and(|name| name == "CT") && rule.text.contains("notrack") => {
                steps.push((matched, RuleVerdict::Untracked));
            }
            "vmap" => steps.extend(branches(packets, inner, matched, ruleset, table)),
            "set" | "map" => matched = matched.min(noted(packets, inner)),
            "reject" => steps.push((matched.min(rejected(packets, inner, table)), RuleVerdict::Reject)),
            "dnat" | "redirect" => {
                steps.push((matched.min(mapped(packets, inner, ruleset, table)), RuleVerdict::Redirected))
            }
            _ => steps.extend(verdict(kind, inner).map(|verdict| (matched, verdict))),
        }
    }
    steps.retain(|(matched, _)| *matched != Match::No);
    steps
}

fn verdict(kind: &str, inner: &Value) -> Option<RuleVerdict> {
    let target = || inner.get("target").and_then(Value::as_str).map(str::to_owned);
    match kind {
        "accept" => Some(RuleVerdict::Accept),
        "drop" => Some(RuleVerdict::Drop),
        "return" => Some(RuleVerdict::Return),
        "jump" => target().map(RuleVerdict::Jump),
        "goto" => target().map(RuleVerdict::Goto),
        "queue" | "synproxy" | "tproxy" => Some(RuleVerdict::Elsewhere),
        "xt" => match inner.get("name").and_then(Value::as_str) {
            Some("REJECT") => Some(RuleVerdict::Reject),
            Some("DNAT" | "REDIRECT") => Some(RuleVerdict::Redirected),
            Some(name) if PASSING.contains(&name) => None,
            _ => Some(RuleVerdict::Elsewhere),
        },
        _ => None,
    }
}

/// The steps of a `vmap`: each key has its own verdict.
fn branches(
    packets: &PacketClass,
    vmap: &Value,
    matched: Match,
    ruleset: &Ruleset,
    table: &TableName,
) -> Vec<(Match, RuleVerdict)> {
    let (Some(key), Some(data)) = (vmap.get("key"), vmap.get("data")) else {
        return vec![(matched.min(Match::Some), RuleVerdict::Elsewhere)];
    };
    let named = data.as_str().and_then(|name| ruleset.set(table, name.trim_start_matches('@')));
    let elements = named.or_else(|| data.get("set")?.as_array().map(Vec::as_slice)).unwrap_or_default();
    let branch = |element: &Value| {
        let [tested, to] = element.as_array()?.as_slice() else { return None };
        let (kind, inner) = to.as_object()?.iter().next()?;
        let tested = tested.get("elem").and_then(|inner| inner.get("val")).unwrap_or(tested);
        let holds = if tested == "*" { Match::All } else { packets.holds(key, tested, ruleset, table) };
        Some((matched.min(holds), verdict(kind, inner)?))
    };
    elements.iter().filter_map(branch).collect()
}

/// The match of `add @seen { ip saddr limit rate over 9/second }`, including its limit. nft does not list the IP
/// version that such a rule needs.
fn noted(packets: &PacketClass, inner: &Value) -> Match {
    let limited = inner.get("stmt").and_then(Value::as_array).is_some_and(|limits| !limits.is_empty());
    let element = inner.get("elem").map(Value::to_string).unwrap_or_default();
    let of = |version: Version| element.contains(&format!("\"protocol\":\"{}\"", version.family()));
    match packets.version {
        Version::V4 if of(Version::V6) => Match::No,
        Version::V6 if of(Version::V4) => Match::No,
        _ if limited => Match::Few,
        _ => Match::All,
    }
}

/// The match of a rejection, whose type may imply an IP version or a protocol.
fn rejected(packets: &PacketClass, inner: &Value, table: &TableName) -> Match {
    let of = |version: Version| if packets.version == version { Match::All } else { Match::No };
    match inner.get("type").and_then(Value::as_str) {
        Some("icmp") => of(Version::V4),
        Some("icmpv6") => of(Version::V6),
        Some("tcp reset") if packets.ports.protocol() != Protocol::Tcp => Match::No,
        // nft 1.0.6 hides a `meta nfproto ipv4` of the rule in this case.
        Some("tcp reset") if table.family == "inet" => Match::Some,
        _ => Match::All,
    }
}

/// The match of `dnat to … map @m`: only packets in the map are redirected.
fn mapped(packets: &PacketClass, to: &Value, ruleset: &Ruleset, table: &TableName) -> Match {
    if to.get("family").is_some_and(|family| family != packets.version.family()) {
        return Match::No;
    }
    let map = ["addr", "port"].iter().filter_map(|part| to.get(part)?.get("map"));
    let holds = map.map(|map| match (map.get("key"), map.get("data")) {
        (Some(key), Some(data)) => packets.holds(key, data, ruleset, table),
        _ => Match::Some,
    });
    holds.min().unwrap_or(Match::All)
}

/// A match of iptables, read from nft's human-readable text.
fn foreign(packets: &PacketClass, inner: &Value, text: &str) -> Match {
    let after = |prefix: &str| text.split_once(prefix).map(|(_, rest)| rest);
    let first = |rest: &str| rest.split_whitespace().next().unwrap_or_default().to_owned();
    match inner.get("name").and_then(Value::as_str) {
        Some("comment") => Match::All,
        Some("conntrack" | "state") => match after("ct state ").map(first) {
            Some(states) if text.matches("ct ").count() == 1 => {
                states.split(',').map(connection_state).max().unwrap_or(Match::Some)
            }
            _ => Match::Some,
        },
        Some("addrtype") => after("fib daddr type ").map(first).map_or(Match::Some, |kind| {
            let left = serde_json::json!({ "fib": { "result": "type", "flags": "daddr" } });
            packets.holds(&left, &Value::String(kind), &Ruleset::default(), &TableName::default())
        }),
        Some("multiport") => {
            after(" dport { ").and_then(|rest| rest.split_once(" }")).map_or(Match::Some, |(all, _)| {
                all.split(',').map(|ports| packets.port(&range(ports.trim()))).max().unwrap_or(Match::Some)
            })
        }
        Some("limit") => Match::Most,
        Some("hashlimit" | "connlimit") => Match::Few,
        // Extension headers and options, which our clients never send.
        Some("rt" | "frag" | "hbh" | "dst" | "ah" | "esp" | "ipv6header" | "mh") => Match::Few,
        // nft shows a native match if it can translate it.
        Some("mark" | "connmark") => Match::Few,
        _ => Match::Some,
    }
}

/// `22` or `8000-8099` in the form of nft's JSON.
fn range(text: &str) -> Value {
    let number = |text: &str| text.parse::<u16>().map_or(Value::Null, Value::from);
    match text.split_once('-') {
        Some((first, last)) => serde_json::json!({ "range": [number(first), number(last)] }),
        None => number(text),
    }
}
