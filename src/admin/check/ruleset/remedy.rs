//! The command that makes another firewall accept packets with a grant: for ufw, firewalld, iptables or nftables,
//! depending on which of them created the chain that drops.

use super::listing::{Ruleset, TableName};
use crate::firewall::PacketMark;
use spa_knock_core::knock::PortRange;

/// The firewall that created a table, which decides how it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::check) enum Maker {
    Ufw,
    Firewalld,
    Iptables,
    Nftables,
}

impl Maker {
    /// The firewall that created this table, judged by its name and chains.
    pub(in crate::admin::check) fn of(table: &TableName, ruleset: &Ruleset) -> Self {
        let from_iptables = matches!(table.family.as_str(), "ip" | "ip6")
            && ["filter", "mangle", "raw", "nat", "security"].contains(&table.name.as_str());
        let has_chain = |prefix: &str| {
            ruleset.chains.iter().any(|chain| chain.table == *table && chain.name.starts_with(prefix))
        };
        if table.name == "firewalld" {
            Self::Firewalld
        } else if has_chain("ufw") {
            Self::Ufw
        } else if from_iptables && ["INPUT", "FORWARD", "PREROUTING"].into_iter().any(has_chain) {
            Self::Iptables
        } else {
            Self::Nftables
        }
    }

    /// Its usual name.
    pub(in crate::admin::check) const fn as_str(self) -> &'static str {
        match self {
            Self::Ufw => "ufw",
            Self::Firewalld => "firewalld",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }

    /// How to keep a rule after a reboot; `None` if the command itself does that.
    pub(in crate::admin::check) const fn lasting(self) -> Option<&'static str> {
        match self {
            Self::Ufw | Self::Firewalld => None,
            Self::Iptables => Some("save it with your other rules, e.g. netfilter-persistent save"),
            Self::Nftables => {
                Some("add the rule to the file that your ruleset is loaded from, e.g. /etc/nftables.conf")
            }
        }
    }
}

/// The command that accepts packets with the mark; `None` if rules cannot match marks.
pub(in crate::admin::check) fn accept_mark(
    maker: Maker,
    table: &TableName,
    base: &str,
    mark: PacketMark,
) -> Option<String> {
    let TableName { family, name } = table;
    let command = match maker {
        Maker::Firewalld => return None,
        Maker::Ufw => {
            let six = if family == "ip6" { "6" } else { "" };
            let chain = format!("ufw{six}-before-{}", base.to_lowercase());
            format!(
                "sed -i '/^# End required lines/a -A {chain} -m mark --mark {mark}/{mark} -j ACCEPT' \
                 /etc/ufw/before{six}.rules && ufw reload"
            )
        }
        Maker::Iptables => {
            format!("{} -I {base} -m mark --mark {mark}/{mark} -j ACCEPT", iptables(table))
        }
        Maker::Nftables => {
            format!("nft insert rule {family} {name} {base} meta mark and {mark} == {mark} accept")
        }
    };
    Some(command)
}

/// The command that accepts all packets to these ports.
pub(in crate::admin::check) fn accept_ports(
    maker: Maker,
    table: &TableName,
    base: &str,
    ports: PortRange,
) -> String {
    let TableName { family, name } = table;
    let protocol = ports.protocol().as_str();
    match maker {
        Maker::Firewalld => {
            let numbers = ports.numbers('-');
            format!("firewall-cmd --permanent --add-port={numbers}/{protocol} && firewall-cmd --reload")
        }
        Maker::Ufw => format!("ufw allow {}/{protocol}", ports.numbers(':')),
        Maker::Iptables => {
            let numbers = ports.numbers(':');
            format!("{} -I {base} -p {protocol} --dport {numbers} -j ACCEPT", iptables(table))
        }
        Maker::Nftables => {
            format!("nft insert rule {family} {name} {base} {protocol} dport {} accept", ports.numbers('-'))
        }
    }
}

/// The command that accepts all packets that were redirected to another address or port.
pub(in crate::admin::check) fn accept_forwarded(maker: Maker, table: &TableName, base: &str) -> String {
    let TableName { family, name } = table;
    match maker {
        Maker::Iptables => {
            format!("{} -I {base} -m conntrack --ctstate DNAT -j ACCEPT", iptables(table))
        }
        _ => format!("nft insert rule {family} {name} {base} ct status dnat accept"),
    }
}

/// The program for a table's IP version.
fn iptables(table: &TableName) -> &'static str {
    if table.family == "ip6" { "ip6tables" } else { "iptables" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(family: &str, name: &str) -> TableName {
        TableName { family: family.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn each_firewall_has_its_own_command_for_the_mark() {
        let mark = PacketMark::default();
        let line =
            |maker, family: &str, name: &str, base| accept_mark(maker, &table(family, name), base, mark);
        for (maker, family, name, base, expected) in [
            (
                Maker::Ufw,
                "ip6",
                "filter",
                "INPUT",
                "sed -i '/^# End required lines/a -A ufw6-before-input -m mark --mark 0x10000000/0x10000000 -j ACCEPT' \
                 /etc/ufw/before6.rules && ufw reload",
            ),
            (
                Maker::Iptables,
                "ip",
                "filter",
                "FORWARD",
                "iptables -I FORWARD -m mark --mark 0x10000000/0x10000000 -j ACCEPT",
            ),
            (
                Maker::Nftables,
                "inet",
                "filter",
                "input",
                "nft insert rule inet filter input meta mark and 0x10000000 == 0x10000000 accept",
            ),
        ] {
            assert_eq!(line(maker, family, name, base).unwrap(), expected);
        }
        assert_eq!(line(Maker::Firewalld, "inet", "firewalld", "filter_INPUT"), None);
    }
}
