//! Finds our chains and rules in the output of `iptables-save`.

use super::names::{CHAINS, ENTRY, GATE, GRANTS, IptablesTable, ROUTES};
use spa_knock_core::knock::ClientName;

/// Our chains and the rules that jump to them, as the kernel has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InstalledRules {
    /// Table and line, as `iptables-save` prints them.
    lines: Vec<(IptablesTable, String)>,
}

impl InstalledRules {
    /// Extracts our lines from the text.
    pub(super) fn read(text: &str) -> Self {
        let mut table = None;
        let mut lines = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = IptablesTable::ALL.into_iter().find(|table| table.name() == name);
            } else if let Some(table) = table.filter(|table| is_ours(*table, line)) {
                let bare = line.rsplit_once(" [").filter(|_| line.starts_with(':'));
                lines.push((table, bare.map_or(line, |(bare, _)| bare).to_owned()));
            }
        }
        Self { lines }
    }

    /// Whether nothing of ours is installed.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The rules that send packets to the gate, without `-A`.
    pub(super) fn guarded(&self) -> impl Iterator<Item = &str> {
        let rules = self.lines.iter().filter_map(|(_, line)| line.strip_prefix("-A "));
        rules.filter(|rule| chain(rule) == Some(ENTRY) && rule.ends_with(&format!(" -j {GATE}")))
    }

    /// The rules that this client's knocks have added, without `-A`, each with the name of its table.
    pub(super) fn by_client(&self, client: &ClientName) -> Vec<(&'static str, &str)> {
        let named = format!(" --comment \"{client} ");
        let rules = self.lines.iter().filter(|(_, line)| line.contains(&named));
        rules.filter_map(|(table, line)| Some((table.name(), line.strip_prefix("-A ")?))).collect()
    }

    /// The rules that jump to our chains, without `-A`, each as often as it is installed.
    pub(super) fn jump_rules(&self, table: IptablesTable) -> Vec<String> {
        let installed =
            |jump: &String| self.of(table).filter(|line| line.strip_prefix("-A ") == Some(jump)).count();
        table.jumps().into_iter().flat_map(|jump| vec![jump.clone(); installed(&jump)]).collect()
    }

    /// The names of our chains.
    pub(super) fn chains(&self, table: IptablesTable) -> Vec<&str> {
        self.of(table).filter_map(|line| chain(line.strip_prefix(':')?)).collect()
    }

    /// The lines that do not change between two loads.
    pub(super) fn lasting(&self) -> Vec<&str> {
        let lasting = |(table, line): &&(IptablesTable, String)| {
            let chain = line.strip_prefix("-A ").and_then(chain);
            let in_grants = chain == Some(GRANTS) || chain == Some(ROUTES);
            *table != IptablesTable::Nat && !(in_grants && line.contains(" --comment "))
        };
        self.lines.iter().filter(lasting).map(|(_, line)| line.as_str()).collect()
    }

    fn of(&self, table: IptablesTable) -> impl Iterator<Item = &str> {
        self.lines.iter().filter(move |(of, _)| *of == table).map(|(_, line)| line.as_str())
    }
}

fn is_ours(table: IptablesTable, line: &str) -> bool {
    let rest = line.strip_prefix(':').or_else(|| line.strip_prefix("-A "));
    rest.is_some_and(|rest| {
        table.jumps().iter().any(|jump| jump == rest)
            || chain(rest).is_some_and(|name| CHAINS.contains(&name))
    })
}

fn chain(rest: &str) -> Option<&str> {
    rest.split(' ').next()
}
