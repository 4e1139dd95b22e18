//! What `init` must know about this host's own firewall: the suitable mode, and the rules that are missing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::iptables_save;
use super::journey::{PacketPath, granted};
use super::listing::{Ruleset, Version};
use super::mark::Mark;
use super::path::{Blocker, Coverage};
use super::remedy::{self, Maker};
use crate::config::{BackendKind, ServerConfig};
use crate::firewall::{FirewallMode, PacketMark};
use crate::os::host;
use crate::os::process::capabilities::{self, Capability};
use crate::os::process::spawn;
use spa_knock_core::knock::PortRange;

/// How long nft may take to list the ruleset. A hundred thousand elements take a second.
pub(in crate::admin::check) const NFT_MAX: Duration = Duration::from_secs(20);

/// A rule that another firewall needs so that a grant opens a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NeededRule {
    /// The firewall's usual name.
    pub(crate) firewall: &'static str,
    /// The command that adds the rule.
    pub(crate) command: String,
    /// How to keep the rule after a reboot, if the command does not do that.
    pub(crate) lasting: Option<&'static str>,
}

/// The suitable mode for this host's own rules about these ports: `mark` if they drop by default and can match marks,
/// else `guard`, also if they cannot be listed.
pub(crate) fn suggest_mode(ports: &[PortRange]) -> FirewallMode {
    let saved = iptables_save::read();
    if ports.iter().any(|ports| saved.iter().any(|table| table.drops(*ports))) {
        return FirewallMode::Mark(PacketMark::default());
    }
    list().map_or(FirewallMode::Guard, |ruleset| mode_for(ports, &ruleset, &versions()))
}

/// The backend whose programs are installed on this host.
pub(crate) fn suggest_backend() -> BackendKind {
    match host::program("nft").is_none() && host::program("iptables").is_some() {
        true => BackendKind::Iptables,
        false => BackendKind::Nftables,
    }
}

/// The rules that this config needs and the host's own firewall does not have; empty if its rules cannot be listed.
pub(crate) fn needed_rules(config: &ServerConfig) -> Vec<NeededRule> {
    let needed = |ruleset: Ruleset| needed_in(config, &ruleset, &versions(), granted(config));
    let mut needed = list().map_or_else(|_| Vec::new(), needed);
    needed.extend(needed_in_saved(config));
    needed
}

/// The rules that this config needs if no rule accepts the mark; empty if the host's rules cannot be listed.
#[cfg(feature = "fwknop")]
pub(in crate::admin::check) fn needed_rules_without_mark(config: &ServerConfig) -> Vec<NeededRule> {
    list().map_or_else(
        |_| Vec::new(),
        |ruleset| needed_in(config, &ruleset, &versions(), granted(config).cleared()),
    )
}

/// The rules needed in tables that nft does not list.
pub(in crate::admin::check) fn needed_in_saved(config: &ServerConfig) -> Vec<NeededRule> {
    let saved = iptables_save::read();
    let rules = config
        .gated()
        .into_iter()
        .flat_map(|ports| saved.iter().filter_map(move |table| table.needed(ports, config.mode)));
    rules.collect::<BTreeSet<_>>().into_iter().collect()
}

fn mode_for(ports: &[PortRange], ruleset: &Ruleset, versions: &[Version]) -> FirewallMode {
    let makers: BTreeSet<Maker> = ports
        .iter()
        .flat_map(|ports| versions.iter().map(|version| PacketPath::here(*ports, *version, Mark::None)))
        .flat_map(|path| path.blockers(ruleset))
        .filter(closes_by_default)
        .map(|blocker| Maker::of(&blocker.base.table, ruleset))
        .collect();
    match makers.is_empty() || makers.contains(&Maker::Firewalld) {
        true => FirewallMode::Guard,
        false => FirewallMode::Mark(PacketMark::default()),
    }
}

fn needed_in(config: &ServerConfig, ruleset: &Ruleset, versions: &[Version], mark: Mark) -> Vec<NeededRule> {
    let mut needed = BTreeSet::new();
    for ports in config.gated() {
        for version in versions {
            let path = PacketPath::here(ports, *version, mark);
            for blocker in path.blockers(ruleset).iter().filter(|met| closes_by_default(met)) {
                let base = blocker.base;
                let maker = Maker::of(&base.table, ruleset);
                let marked = match config.mode {
                    FirewallMode::Mark(mark) => remedy::accept_mark(maker, &base.table, &base.name, mark),
                    FirewallMode::Guard | FirewallMode::Set => None,
                };
                let command =
                    marked.unwrap_or_else(|| remedy::accept_ports(maker, &base.table, &base.name, ports));
                needed.insert(NeededRule { firewall: maker.as_str(), command, lasting: maker.lasting() });
            }
        }
    }
    needed.into_iter().collect()
}

/// Whether everything is dropped there, except what some rules accept.
fn closes_by_default(blocker: &Blocker<'_>) -> bool {
    blocker.share == Coverage::Whole || (blocker.rule.is_none() && blocker.share == Coverage::Part)
}

/// The host's ruleset.
///
/// # Errors
/// The reason why it cannot be listed.
pub(in crate::admin::check) fn list() -> Result<Ruleset, String> {
    let run = |args: &[&str]| spawn::run_to_end("nft", args, "", NFT_MAX);
    let nft = |args: &[&str]| {
        capabilities::with_ambient(&[Capability::NET_ADMIN], || run(args)).map_err(|error| error.to_string())
    };
    let json = nft(&["-j", "list", "ruleset"])?;
    // The texts are optional: without them, findings have less detail.
    let text = nft(&["-a", "list", "ruleset"]).unwrap_or_default();
    let listed = Ruleset::read(&json, &text).map_err(|error| format!("nft -j list ruleset: {error}"))?;
    Ok(listed.with_unlisted(iptables_save::read()))
}

/// The IP versions in which other hosts reach this one; both if it has no address yet.
pub(in crate::admin::check) fn versions() -> Vec<Version> {
    let mut versions = BTreeSet::new();
    for address in host::own_addresses() {
        match address {
            IpAddr::V4(ip) if !ip.is_loopback() => versions.insert(Version::V4),
            IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local() => {
                versions.insert(Version::V6)
            }
            _ => false,
        };
    }
    match versions.is_empty() {
        true => vec![Version::V4, Version::V6],
        false => versions.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(table: &str) -> Ruleset {
        let mut ruleset =
            Ruleset::read(include_str!("samples/cases.json"), include_str!("samples/cases.txt")).unwrap();
        ruleset.chains.retain(|chain| chain.table.name == table);
        ruleset
    }

    #[test]
    fn a_host_that_drops_by_default_gets_mode_mark_unless_its_rules_cannot_match_it() {
        let ssh: PortRange = "tcp/22".parse().unwrap();
        let both = [Version::V4, Version::V6];
        let mark = FirewallMode::Mark(PacketMark::default());
        for (table, mode) in [
            ("by_policy", mark),
            ("accepted_but_source", mark),
            ("rejected", mark),
            ("accepted", FirewallMode::Guard),
            ("floods", FirewallMode::Guard),
            ("firewalld", FirewallMode::Guard),
        ] {
            assert_eq!(mode_for(&[ssh], &case(table), &both), mode, "{table}");
        }
    }
}
