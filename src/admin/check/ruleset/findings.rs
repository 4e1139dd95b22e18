//! Findings about the firewall around our table: rules that drop packets despite a grant, redirections before our gate,
//! and ICMP replies from the knock port.

use std::collections::{BTreeMap, BTreeSet};

use super::iptables_save;
use super::journey::{PacketPath, both, filters_hints, granted, is_ours, unmarked};
use super::listing::{Base, Chain, Ruleset, TableName, Version};
use super::mark::Mark;
use super::packet_class::{PacketClass, PacketDestination};
use super::path::{BlockKind, Blocker, Coverage, PacketGoal, blockers};
use super::remedy::{self, Maker};
use super::survey::{list, needed_in_saved, versions};
use crate::admin::check::report::CheckReport;
use crate::capture::CaptureKind;
use crate::config::{BackendKind, ServerConfig};
use crate::firewall::FirewallMode;
use crate::gate::state::GateState;
use crate::os::host;
use spa_knock_core::auth::ActionPart;
use spa_knock_core::knock::{PortRange, PortSpec, Protocol};

/// The number of characters of a rule that are printed: enough to find it.
const TEXT_MAX: usize = 160;

impl CheckReport {
    pub(in crate::admin::check) fn firewall(&mut self, config: &ServerConfig) {
        let nftables = config.backend == BackendKind::Nftables;
        let before = self.remarks();
        if config.backend == BackendKind::None && config.capture == CaptureKind::Udp {
            return self.silence(config, None, &versions());
        }
        for rule in needed_in_saved(config) {
            let message = format!(
                "firewall: the chain INPUT of {} drops packets by default, even with a grant",
                rule.firewall
            );
            self.problem(config, &["firewall"], message, &rule.command);
        }
        let legacy = host::has_legacy_filter();
        if legacy && (nftables || granted(config) != Mark::None) {
            let message =
                "firewall: iptables-legacy also has rules, of which only the policy of INPUT is checked"
                    .to_owned();
            let hint = "make sure that none of them drops what an action opens: iptables-legacy -S; ip6tables-legacy -S";
            self.warning(config, &["firewall"], message, hint);
        }
        match list() {
            // nft does not list the rules of iptables-legacy, which include ours.
            Ok(ruleset) if legacy && !nftables => self.silence(config, Some(&ruleset), &versions()),
            Ok(ruleset) => self.judge(config, &ruleset, &versions(), before),
            // The missing program is already reported.
            Err(_) if host::program("nft").is_none() => {
                let ruleset = Ruleset::default().with_unlisted(iptables_save::read());
                self.open_without_grant(config, &ruleset, &versions());
            }
            Err(error) => {
                let message = format!("firewall: its rules cannot be listed: {error}");
                self.warning(config, &["firewall"], message, "run this as root");
            }
        }
    }

    /// Reports everything about this ruleset, on a host with these IP versions. `before` is the number of remarks
    /// before the firewall was checked: the check is passed only if no rule raised a remark.
    pub(in crate::admin::check) fn judge(
        &mut self,
        config: &ServerConfig,
        ruleset: &Ruleset,
        versions: &[Version],
        before: usize,
    ) {
        let is_clean = self.remarks() == before;
        self.silence(config, Some(ruleset), versions);
        if config.backend == BackendKind::None {
            return;
        }
        let silent = self.remarks();
        for (name, action) in &config.actions {
            for part in &action.parts {
                let key = if matches!(part, ActionPart::Forward { .. }) { "forward" } else { "open" };
                let place = ["action", name.as_str(), key];
                let (name, paths) = (place.join("."), PacketPath::of(part, config, versions));
                self.closed(config, &place, &name, &paths, ruleset);
            }
        }
        for (name, parts) in self.legacy_forwards.clone() {
            let paths: Vec<_> =
                parts.iter().flat_map(|part| PacketPath::of(part, config, versions)).collect();
            self.closed(config, &["legacy", "fwknop"], &name, &paths, ruleset);
        }
        self.health_checks(config, ruleset, versions);
        self.redirected(config, ruleset, versions);
        self.open_without_grant(config, ruleset, versions);
        self.untracked(config, ruleset, versions);
        if is_clean && self.remarks() == silent {
            self.ok(match granted(config) {
                Mark::Set(mark) => {
                    format!(
                        "firewall: this host's rules accept the mark {mark}, and only that mark opens the ports"
                    )
                }
                Mark::Clear(_) | Mark::None => {
                    "firewall: no rule is known to drop what an action opens".to_owned()
                }
            });
        }
    }

    /// Reports rules that drop or reject packets despite a grant.
    fn closed(
        &mut self,
        config: &ServerConfig,
        place: &[&str],
        name: &str,
        paths: &[PacketPath],
        ruleset: &Ruleset,
    ) {
        let mut findings: BTreeMap<RulesetFinding, Vec<(PortRange, Version)>> = BTreeMap::new();
        let mut closed: BTreeMap<String, BTreeSet<Version>> = BTreeMap::new();
        for path in paths {
            for blocker in path.blockers(ruleset) {
                let met = findings.entry(RulesetFinding::of(&blocker)).or_default();
                met.push((path.port, path.last.version));
                if blocker.share == Coverage::Whole {
                    closed.entry(path.port.to_string()).or_default().insert(path.last.version);
                }
            }
        }
        let all: BTreeSet<Version> = paths.iter().map(|path| path.last.version).collect();
        for (finding, met) in findings {
            let (ports, over) = described(&met, &all);
            let certain = finding.share == Coverage::Whole;
            let verb = match (certain, finding.kind) {
                (true, BlockKind::Rejected) => "is rejected",
                (true, _) => "is dropped",
                (false, BlockKind::Rejected) => "may be rejected",
                (false, _) => "may be dropped",
            };
            let message = format!("{name}: {ports} {verb}{over} despite a grant: {}", finding.place);
            let hint = hint(config, &finding, paths, &met, ruleset);
            // IPv4 alone is enough for a problem: most clients use it.
            let is_closed = met.iter().any(|(ports, version)| {
                *version == Version::V4 || closed.get(&ports.to_string()) == Some(&all)
            });
            if certain && is_closed {
                self.problem(config, place, message, &hint);
            } else {
                self.warning(config, place, message, &hint);
            }
        }
    }

    /// Reports redirections of protected ports before our gate sees the packets.
    fn redirected(&mut self, config: &ServerConfig, ruleset: &Ruleset, versions: &[Version]) {
        let published =
            |ports: &PortRange| config.published.iter().any(|published| published.contain(*ports));
        for ports in
            config.protect.iter().filter(|ports| !published(ports) && config.mode == FirewallMode::Guard)
        {
            let mut seen = BTreeSet::new();
            for (version, base) in both(versions, ruleset) {
                if base.base.as_ref().is_none_or(|at| at.kind != "nat" || at.hook != "prerouting") {
                    continue;
                }
                let packets =
                    PacketClass { version, ports: *ports, to: PacketDestination::Here, mark: Mark::None };
                for blocker in blockers(ruleset, base, packets, PacketGoal::Redirecting) {
                    seen.insert(RulesetFinding::of(&blocker));
                }
            }
            for finding in seen {
                let certain = finding.share == Coverage::Whole;
                let verb = if certain { "is" } else { "may be" };
                let message =
                    format!("firewall.protect: {ports} {verb} redirected before the gate: {}", finding.place);
                let hint =
                    format!("set published = [\"{ports}\"] in [firewall] instead of protect, to close it");
                if certain {
                    self.problem(config, &["firewall", "protect"], message, &hint);
                } else {
                    self.warning(config, &["firewall", "protect"], message, &hint);
                }
            }
        }
    }

    /// Warns if the knock port answers with ICMP, which reveals that no firewall drops its packets.
    fn silence(&mut self, config: &ServerConfig, ruleset: Option<&Ruleset>, versions: &[Version]) {
        let Some(knock_port) = PortSpec::new(Protocol::Udp, config.port) else { return };
        let bound = !host::programs_on_udp(config.port).is_empty();
        let place = ["server", "port"];
        let (ports, to, mark) = (knock_port.into(), PacketDestination::Here, unmarked(config));
        let packets = |version| PacketClass { version, ports, to, mark };
        let first = |version| ruleset.and_then(|ruleset| first_blocker(ruleset, packets(version)));
        let met: Vec<Option<Blocker<'_>>> = versions.iter().map(|version| first(*version)).collect();
        let dropped = |blocker: &Blocker<'_>| blocker.kind == BlockKind::Dropped;
        if config.capture == CaptureKind::Udp
            && let Some(blocker) = met.iter().flatten().find(|blocker| !is_ours(blocker.base))
        {
            let message = format!(
                "server.port: knocks to {knock_port} do not arrive: {}",
                RulesetFinding::of(blocker).place
            );
            let hint = "accept them there, or capture them before the firewall: capture = \"pcap\"";
            return self.problem(config, &place, message, hint);
        }
        // Before the first start, none of our rules can drop it.
        let never = matches!(GateState::read(&config.state_dir), Ok(GateState::NeverClosed));
        let filtered = ruleset.is_some_and(filters_hints);
        if bound || never || filtered || met.iter().all(|first| first.as_ref().is_some_and(dropped)) {
            return;
        }
        let message = format!("server.port: {knock_port} answers every sender with ICMP port unreachable");
        let hint = match (config.capture, config.backend) {
            (CaptureKind::Udp, _) | (_, BackendKind::Nftables | BackendKind::Iptables) => {
                "start the daemon, with the gate on: until then, no program listens on the port and no rule drops its packets"
            }
            (CaptureKind::Pcap, BackendKind::None) => {
                "make your firewall drop its packets: knocks are captured before that"
            }
        };
        self.warning(config, &place, message, hint);
    }
}

/// A blocker in the form in which it is reported.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::check) struct RulesetFinding {
    kind: BlockKind,
    pub(in crate::admin::check) share: Coverage,
    table: TableName,
    base: String,
    pub(in crate::admin::check) place: String,
}

impl RulesetFinding {
    pub(in crate::admin::check) fn of(blocker: &Blocker<'_>) -> Self {
        let location = match blocker.base.name == blocker.chain.name {
            true => blocker.base.to_string(),
            false => format!("{}, jump to chain {}", blocker.base, blocker.chain.name),
        };
        let place = match blocker.rule {
            None => format!("{location}: policy drop"),
            Some(rule) if rule.text.is_empty() => format!("{location}: rule with handle {}", rule.handle),
            Some(rule) => format!("{location}: rule with handle {}: {}", rule.handle, shortened(&rule.text)),
        };
        let (table, base) = (blocker.base.table.clone(), blocker.base.name.clone());
        Self { kind: blocker.kind, share: blocker.share, table, base, place }
    }
}

/// The beginning of a rule: a rule may name a thousand addresses.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The first rule or policy that certainly drops or rejects these packets to this host, including ours.
fn first_blocker(ruleset: &Ruleset, packets: PacketClass) -> Option<Blocker<'_>> {
    let mut bases: Vec<(bool, i64, &Chain)> = Vec::new();
    for chain in ruleset.chains.iter().filter(|chain| chain.sees(packets.version)) {
        match &chain.base {
            Some(Base { kind, hook, priority, .. })
                if kind != "nat" && (hook == "prerouting" || hook == "input") =>
            {
                bases.push((hook == "input", *priority, chain));
            }
            _ => {}
        }
    }
    bases.sort_by_key(|(input, priority, _)| (*input, *priority));
    let found =
        bases.into_iter().flat_map(|(_, _, base)| blockers(ruleset, base, packets, PacketGoal::AnyClosing));
    found.into_iter().find(|blocker| blocker.share == Coverage::Whole)
}

/// The ports, and the IP version if not all versions are affected.
fn described(met: &[(PortRange, Version)], all: &BTreeSet<Version>) -> (String, String) {
    let mut ports: Vec<String> = met.iter().map(|(ports, _)| ports.to_string()).collect();
    ports.dedup();
    let versions: BTreeSet<Version> = met.iter().map(|(_, version)| *version).collect();
    let over = match versions.first() {
        Some(version) if versions != *all => format!(" over {}", version.as_str()),
        _ => String::new(),
    };
    (ports.join(", "), over)
}

/// The hint for a finding. An accept rule in another table does not open the port: our gate still decides.
fn hint(
    config: &ServerConfig,
    finding: &RulesetFinding,
    paths: &[PacketPath],
    met: &[(PortRange, Version)],
    ruleset: &Ruleset,
) -> String {
    let base = &finding.base;
    let Some((ports, version)) = met.first() else { return String::new() };
    let last = paths.iter().find(|path| path.port == *ports && path.last.version == *version);
    let is_forwarded = last.is_some_and(|path| path.last.to != PacketDestination::Here);
    let goal = last.map_or(*ports, |path| path.last.ports);
    let (table, maker) = (&finding.table, Maker::of(&finding.table, ruleset));
    // If only some packets are dropped, these may be the packets without the mark.
    if let FirewallMode::Mark(mark) = config.mode {
        return match remedy::accept_mark(maker, table, base, mark) {
            Some(command) => format!("make it accept the mark of packets with a grant: {command}"),
            None => format!(
                "its rules cannot match a mark; set mode = \"guard\", then: {}",
                remedy::accept_ports(maker, table, base, goal)
            ),
        };
    }
    if finding.share != Coverage::Whole {
        let TableName { family, name } = table;
        return format!(
            "make sure that it accepts packets with a grant: nft list chain {family} {name} {base}"
        );
    }
    let rule = match is_forwarded {
        true => remedy::accept_forwarded(maker, table, base),
        false => remedy::accept_ports(maker, table, base, goal),
    };
    let guarded =
        config.mode == FirewallMode::Guard && config.protect.iter().any(|protected| protected.contain(goal));
    let choice = match maker {
        Maker::Firewalld => "",
        _ => {
            "mode = \"mark\" keeps it closed there and needs one rule (see firewall.mode in spa-knockd.toml(5)); or "
        }
    };
    match is_forwarded || guarded {
        true => {
            format!(
                "{choice}accept it there; spa-knockd's gate still keeps it closed without a grant: {rule}"
            )
        }
        false => {
            format!(
                "{choice}first add it to firewall.protect, otherwise it is open to everyone; then: {rule}"
            )
        }
    }
}

#[cfg(test)]
mod tests;
