//! The structure of our table without the elements of its sets, as the kernel lists it. Compared with the structure
//! after the last load, it shows every change by another program.

use super::batch::Attributes;
use super::kernel::{Kernel, Object};
use super::ruleset::{CHAIN_NAMES, SCHEMA};
use crate::firewall::FirewallError;

// From linux/netfilter/nf_tables.h: NFTA_TABLE_*, NFTA_CHAIN_*, NFTA_RULE_*, NFTA_SET_*, NFTA_EXPR_*. Left out are
// handles, and numbers that change with traffic and use.
const TABLE_FLAGS: u16 = 2;
const TABLE_OWNER: u16 = 7;
const CHAIN_NAME: u16 = 3;
const CHAIN: [u16; 5] = [3, 4, 5, 7, 10];
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_NAME: u16 = 2;
const SET: [u16; 7] = [2, 3, 4, 5, 6, 7, 9];
const EXPR_NAME: u16 = 1;
/// The flag of a table whose chains the kernel ignores.
const NFT_TABLE_F_DORMANT: u32 = 1;

/// The table, its chains, rules and sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Structure {
    /// At most one.
    tables: Vec<ListedTable>,
    chains: Vec<Vec<u8>>,
    rules: Vec<Vec<u8>>,
    sets: Vec<Vec<u8>>,
    schema: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ListedTable {
    flags: u32,
    /// The netlink port of the program without which the table ends.
    owner: Option<Vec<u8>>,
}

impl ListedTable {
    fn read(table: Attributes<'_>) -> Self {
        let flags =
            table.get(TABLE_FLAGS).and_then(|flags| flags.try_into().ok()).map_or(0, u32::from_be_bytes);
        Self { flags, owner: table.get(TABLE_OWNER).map(<[u8]>::to_vec) }
    }
}

impl Structure {
    /// Reads the structure from the kernel.
    ///
    /// # Errors
    /// When the kernel does not list it completely.
    pub(super) fn read(kernel: &mut Kernel) -> Result<Self, FirewallError> {
        let tables = kernel.objects(Object::Table, |table| Some(ListedTable::read(table)))?;
        let names = kernel.objects(Object::Chain, |chain| Some(chain.get(CHAIN_NAME)?.to_vec()))?;
        let chains = kernel.objects(Object::Chain, |chain| {
            is_ours(chain.get(CHAIN_NAME)?).then(|| some_of(chain, &CHAIN))
        })?;
        let rules = kernel.objects(Object::Rule, |rule| {
            let chain = rule.get(RULE_CHAIN).filter(|chain| is_ours(chain))?;
            Some([chain, &expressions(rule.within(RULE_EXPRESSIONS)?)].concat())
        })?;
        let sets = kernel.objects(Object::Set, |set| {
            // Anonymous sets belong to rules.
            (!set.get(SET_NAME)?.starts_with(b"__")).then(|| some_of(set, &SET))
        })?;
        let schema = names.iter().any(|name| name.strip_suffix(b"\0") == Some(SCHEMA.as_bytes()));
        Ok(Self { tables, chains, rules, sets, schema })
    }

    /// Whether our table exists.
    pub(super) fn is_there(&self) -> bool {
        !self.tables.is_empty()
    }

    /// Whether the kernel ignores its chains, because another program has set that flag.
    pub(super) fn is_dormant(&self) -> bool {
        self.tables.iter().any(|table| table.flags & NFT_TABLE_F_DORMANT != 0)
    }

    /// Whether its sets belong to this version.
    pub(super) const fn is_current(&self) -> bool {
        self.schema
    }
}

/// Whether we write a chain of this name, a C string. `ingress` is left out because it disappears with its interfaces.
fn is_ours(name: &[u8]) -> bool {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    CHAIN_NAMES.iter().any(|ours| ours.as_bytes() == name)
}

fn some_of(attributes: Attributes<'_>, kinds: &[u16]) -> Vec<u8> {
    let values = attributes.filter(|(kind, _)| kinds.contains(kind));
    values.flat_map(|(kind, value)| [&kind.to_ne_bytes(), value].concat()).collect()
}

/// The expressions of a rule, except its counters.
fn expressions(list: Attributes<'_>) -> Vec<u8> {
    let counts = |expression: &[u8]| Attributes(expression).get(EXPR_NAME) == Some(b"counter\0");
    list.filter(|(_, expression)| !counts(expression))
        .flat_map(|(_, expression)| expression.to_vec())
        .collect()
}
