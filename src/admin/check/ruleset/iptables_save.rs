//! Rules of iptables that nft does not list: those of iptables-legacy, and all rules if nft is not installed. Only the
//! policy of the chain INPUT is checked.

use super::listing::{TableName, Version};
use super::remedy::{self, Maker};
use super::survey::{NFT_MAX, NeededRule};
use crate::firewall::FirewallMode;
use crate::os::host;
use crate::os::process::capabilities::{self, Capability};
use crate::os::process::spawn;
use spa_knock_core::knock::PortRange;

/// The table filter of an IP version, as iptables-save writes it.
#[derive(Debug)]
pub(in crate::admin::check) struct IptablesSave {
    /// `ip` or `ip6`.
    family: &'static str,
    /// The program that changes it.
    program: &'static str,
    text: String,
}

/// The tables that nft does not list; empty if they cannot be read.
pub(in crate::admin::check) fn read() -> Vec<IptablesSave> {
    let programs: &[_] = if host::has_legacy_filter() {
        &[("ip", "iptables-legacy"), ("ip6", "ip6tables-legacy")]
    } else if host::program("nft").is_none() {
        &[("ip", "iptables"), ("ip6", "ip6tables")]
    } else {
        &[]
    };
    let table = |&(family, program): &(&'static str, &'static str)| {
        let save = format!("{program}-save");
        let run = || spawn::run_to_end(&save, &["-t", "filter"], "", NFT_MAX);
        let text = capabilities::with_ambient(&[Capability::NET_ADMIN, Capability::NET_RAW], run).ok()?;
        Some(IptablesSave { family, program, text })
    };
    programs.iter().filter_map(table).collect()
}

impl IptablesSave {
    /// Whether it filters packets of this IP version.
    pub(in crate::admin::check) fn sees(&self, version: Version) -> bool {
        self.family == version.family()
    }

    /// Whether it drops new connections to these ports unless they have the mark.
    pub(in crate::admin::check) fn drops(&self, ports: PortRange) -> bool {
        let protocol = ports.protocol().as_str();
        let accepted = format!("-p {protocol} -m {protocol} --dport {}", ports.numbers(':'));
        let accepts = |line: &str| {
            let rest = line.strip_prefix("-A INPUT ").or_else(|| line.strip_prefix("-A ufw-user-input "));
            let rest = rest.or_else(|| line.strip_prefix("-A ufw6-user-input "));
            let matched = rest.and_then(|rest| rest.strip_suffix(" -j ACCEPT"));
            matched.is_some_and(|matched| matched == accepted)
        };
        self.text.lines().any(|line| line.starts_with(":INPUT DROP ")) && !self.text.lines().any(accepts)
    }

    /// The rule that it needs so that a grant for these ports opens them; `None` if it needs none.
    pub(in crate::admin::check) fn needed(&self, ports: PortRange, mode: FirewallMode) -> Option<NeededRule> {
        if !self.drops(ports) {
            return None;
        }
        let maker = if self.text.contains(":ufw") { Maker::Ufw } else { Maker::Iptables };
        let table = TableName { family: self.family.to_owned(), name: "filter".to_owned() };
        let command = match mode {
            FirewallMode::Mark(mark) if self.text.contains(&format!(" --mark {mark}/{mark} -j ACCEPT")) => {
                return None;
            }
            FirewallMode::Mark(mark) => remedy::accept_mark(maker, &table, "INPUT", mark)?,
            FirewallMode::Guard | FirewallMode::Set => remedy::accept_ports(maker, &table, "INPUT", ports),
        };
        let parts = command.split_once(' ').filter(|_| maker == Maker::Iptables);
        let command = parts.map_or(command.clone(), |(_, options)| format!("{} {options}", self.program));
        Some(NeededRule { firewall: maker.as_str(), command, lasting: maker.lasting() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::PacketMark;

    fn saved(rules: &str) -> IptablesSave {
        let text = format!("*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n{rules}COMMIT\n");
        IptablesSave { family: "ip6", program: "ip6tables-legacy", text }
    }

    #[test]
    fn a_chain_that_drops_by_default_needs_a_rule_until_it_has_one() {
        let ssh: PortRange = "tcp/22".parse().unwrap();
        let mark = FirewallMode::Mark(PacketMark::default());
        let needed = |rules: &str, mode| saved(rules).needed(ssh, mode).map(|rule| rule.command);
        let line = "ip6tables-legacy -I INPUT -m mark --mark 0x10000000/0x10000000 -j ACCEPT";
        assert_eq!(needed("-A INPUT -i lo -j ACCEPT\n", mark).as_deref(), Some(line));
        assert_eq!(needed("-A INPUT -m mark --mark 0x10000000/0x10000000 -j ACCEPT\n", mark), None);
        let line = "ip6tables-legacy -I INPUT -p tcp --dport 22 -j ACCEPT";
        assert_eq!(needed("", FirewallMode::Guard).as_deref(), Some(line));
        assert_eq!(needed("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n", FirewallMode::Guard), None);
        assert!(needed(":ufw6-before-input - [0:0]\n", mark).unwrap().starts_with("sed -i"));
        let open = IptablesSave { text: ":INPUT ACCEPT [0:0]\n".to_owned(), ..saved("") };
        assert_eq!(open.needed(ssh, mark), None);
    }
}
