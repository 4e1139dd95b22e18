//! The host's whole nftables ruleset as `nft` lists it: chains in order, rules, sets. Does not interpret rules.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::iptables_save::IptablesSave;

/// A table's family and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(in crate::admin::check) struct TableName {
    pub(in crate::admin::check) family: String,
    pub(in crate::admin::check) name: String,
}

/// The loaded ruleset.
#[derive(Debug, Default)]
pub(in crate::admin::check) struct Ruleset {
    pub(in crate::admin::check) chains: Vec<Chain>,
    /// The elements of named sets and maps, by table and name.
    sets: BTreeMap<(TableName, String), Vec<Value>>,
    /// Tables that nft does not list.
    pub(in crate::admin::check) unlisted: Vec<IptablesSave>,
}

/// A chain.
#[derive(Debug)]
pub(in crate::admin::check) struct Chain {
    pub(in crate::admin::check) table: TableName,
    pub(in crate::admin::check) name: String,
    /// The hook of a base chain; `None` for a chain that is only jumped to.
    pub(in crate::admin::check) base: Option<Base>,
    pub(in crate::admin::check) rules: Vec<RulesetRule>,
}

/// The hook at which the kernel enters a base chain.
#[derive(Debug)]
pub(in crate::admin::check) struct Base {
    /// `filter`, `nat` or `route`.
    pub(in crate::admin::check) kind: String,
    pub(in crate::admin::check) hook: String,
    pub(in crate::admin::check) priority: i64,
    pub(in crate::admin::check) policy: ChainPolicy,
}

/// What happens to a packet if no rule of a base chain decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin::check) enum ChainPolicy {
    Accept,
    Drop,
}

/// A rule.
#[derive(Debug)]
pub(in crate::admin::check) struct RulesetRule {
    pub(in crate::admin::check) handle: u64,
    /// Its matches and statements, in order.
    pub(in crate::admin::check) statements: Vec<Value>,
    /// Its human-readable text, without its counter; empty if it was not listed.
    pub(in crate::admin::check) text: String,
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::check) enum Version {
    V4,
    V6,
}

impl Version {
    /// nftables' name for the family of its tables.
    pub(in crate::admin::check) const fn family(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// Its usual name.
    pub(in crate::admin::check) const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The name of `meta nfproto`.
    pub(super) const fn nfproto(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

impl Ruleset {
    /// Parses the output of `nft -j list ruleset`, and takes the texts of the rules from that of `nft -a list ruleset`.
    ///
    /// # Errors
    /// When the JSON is not such a list.
    pub(in crate::admin::check) fn read(json: &str, text: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let objects = json.get("nftables").and_then(Value::as_array).ok_or("no list of objects")?;
        let texts = texts(text);
        let mut ruleset = Self::default();
        for object in objects {
            // Unknown kinds of objects are ignored.
            let _ = ruleset.add(object, &texts);
        }
        Ok(ruleset)
    }

    /// The ruleset with tables that nft does not list.
    pub(in crate::admin::check) fn with_unlisted(self, unlisted: Vec<IptablesSave>) -> Self {
        Self { unlisted, ..self }
    }

    /// The chain of this name in a table.
    pub(in crate::admin::check) fn chain(&self, table: &TableName, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name && chain.table == *table)
    }

    /// The elements of the set of this name in a table.
    pub(in crate::admin::check) fn set(&self, table: &TableName, name: &str) -> Option<&[Value]> {
        self.sets.get(&(table.clone(), name.to_owned())).map(Vec::as_slice)
    }

    fn add(&mut self, object: &Value, texts: &BTreeMap<RuleLocation, String>) -> Option<()> {
        if let Some(chain) = object.get("chain") {
            let (table, name) = (table(chain)?, string(chain, "name")?);
            self.chains.push(Chain { table, name, base: base(chain), rules: Vec::new() });
        } else if let Some(rule) = object.get("rule") {
            let (table, chain) = (table(rule)?, string(rule, "chain")?);
            let handle = rule.get("handle")?.as_u64()?;
            let statements = rule.get("expr")?.as_array()?.clone();
            let place = (table, chain, handle);
            let text = texts.get(&place).cloned().unwrap_or_default();
            let (table, chain, _) = place;
            let chain = self.chains.iter_mut().find(|known| known.name == chain && known.table == table)?;
            chain.rules.push(RulesetRule { handle, statements, text });
        } else if let Some(set) = object.get("set").or_else(|| object.get("map")) {
            let elements = set.get("elem").and_then(Value::as_array).cloned().unwrap_or_default();
            self.sets.insert((table(set)?, string(set, "name")?), elements);
        }
        Some(())
    }
}

impl Chain {
    /// Whether it sees packets of this IP version.
    pub(in crate::admin::check) fn sees(&self, version: Version) -> bool {
        let family = self.table.family.as_str();
        family == "inet" || family == version.family()
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {} {}, chain {}", self.table.family, self.table.name, self.name)
    }
}

/// Table, chain and handle of a rule.
type RuleLocation = (TableName, String, u64);

fn table(object: &Value) -> Option<TableName> {
    Some(TableName { family: string(object, "family")?, name: string(object, "table")? })
}

fn string(object: &Value, key: &str) -> Option<String> {
    object.get(key)?.as_str().map(str::to_owned)
}

fn base(chain: &Value) -> Option<Base> {
    let policy = if chain.get("policy").is_some_and(|policy| policy == "drop") {
        ChainPolicy::Drop
    } else {
        ChainPolicy::Accept
    };
    let priority = chain.get("prio")?.as_i64()?;
    Some(Base { kind: string(chain, "type")?, hook: string(chain, "hook")?, priority, policy })
}

/// The texts of the rules in a human-readable listing: `table inet filter { # handle 1` contains `chain input { #
/// handle 2`, which contains one line per rule that ends with `# handle 3`.
fn texts(listing: &str) -> BTreeMap<RuleLocation, String> {
    let mut texts = BTreeMap::new();
    let (mut table, mut chain) = (None, None);
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, "{", ..] if !line.starts_with(char::is_whitespace) => {
                table = Some(TableName { family: (*family).to_owned(), name: (*name).to_owned() });
            }
            ["chain", name, "{", ..] => chain = Some((*name).to_owned()),
            [.., "#", "handle", handle] => {
                if let (Some(table), Some(chain), Ok(handle)) = (&table, &chain, handle.parse()) {
                    let rule = line.rsplit_once(" # handle ").map_or(line, |(rule, _)| rule);
                    texts.insert((table.clone(), chain.clone(), handle), without_counters(rule));
                }
            }
            ["}"] => chain = None,
            _ => {}
        }
    }
    texts
}

/// A rule's text without `packets 1 bytes 2`, and without control characters that a terminal would interpret.
fn without_counters(rule: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut words = rule.split_whitespace();
    while let Some(word) = words.next() {
        if word == "packets" && kept.last() == Some(&"counter") {
            // The number, `bytes` and the second number.
            words.nth(2);
        } else {
            kept.push(word);
        }
    }
    kept.join(" ").chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_rules_and_sets_are_parsed_and_rules_get_their_text() {
        let json = include_str!("samples/iptables.json");
        let text = include_str!("samples/iptables.txt");
        let ruleset = Ruleset::read(json, text).unwrap();
        let input = ruleset.chains.iter().find(|chain| chain.name == "INPUT").unwrap();
        assert_eq!(input.to_string(), "table ip filter, chain INPUT");
        let base = input.base.as_ref().unwrap();
        assert_eq!((base.hook.as_str(), base.priority, base.policy), ("input", 0, ChainPolicy::Drop));
        let texts: Vec<&str> = input.rules.iter().map(|rule| rule.text.as_str()).collect();
        assert_eq!(texts[0], "ct state related,established counter accept");
        assert_eq!(texts[4], "limit rate 3/minute counter log prefix \"[UFW BLOCK] \"");
        assert!(ruleset.chain(&input.table, "ufw-user-input").unwrap().base.is_none());
    }

    #[test]
    fn an_invalid_ruleset_is_an_error_and_unknown_objects_are_ignored() {
        assert!(Ruleset::read("", "").is_err());
        assert!(Ruleset::read("{}", "").is_err());
        let odd = r#"{"nftables":[{"flowtable":{}},{"rule":{"family":"ip"}},{"chain":7},3]}"#;
        assert!(Ruleset::read(odd, "table\nchain x {\n # handle 3\n").unwrap().chains.is_empty());
    }
}
