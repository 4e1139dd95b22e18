//! The firewall around our table: what closes a port although we open it, what leads past our gate, and whether the knock
//! port stays silent.

use std::collections::{BTreeMap, BTreeSet};

use super::iptables_save;
use super::journey::{PacketPath, both, granted, is_ours};
use super::listing::{Base, Chain, Ruleset, TableName, Version};
use super::mark::Mark;
use super::packet_class::{PacketClass, PacketDestination};
use super::path::{BlockKind, Blocker, Coverage, PacketGoal, obstacles};
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

/// As much of a rule, in characters, as finds it.
const TEXT_MAX: usize = 160;

impl CheckReport {
    pub(in crate::admin::check) fn firewall(&mut self, config: &ServerConfig) {
        let nftables = config.backend == BackendKind::Nftables;
        if config.backend == BackendKind::None && config.capture == CaptureKind::Udp {
            return self.silence(config, None, &versions());
        }
        for rule in needed_in_saved(config) {
            let message = format!(
                "firewall: the chain INPUT of {} drops what it does not accept, also with a grant",
                rule.firewall
            );
            self.problem(config, &["firewall"], message, &rule.command);
        }
        let legacy = host::has_legacy_filter();
        if legacy && (nftables || granted(config) != Mark::None) {
            let message =
                "firewall: iptables-legacy has rules too; only the policy of INPUT is checked".to_owned();
            let hint = "iptables-legacy -S; ip6tables-legacy -S: see that none drops what an action opens";
            self.warning(config, &["firewall"], message, hint);
        }
        match list() {
            // nft does not list the rules of iptables-legacy, ours among them.
            Ok(ruleset) if legacy && !nftables => self.silence(config, Some(&ruleset), &versions()),
            Ok(ruleset) => self.judge(config, &ruleset, &versions()),
            // That it is missing has been told already.
            Err(_) if host::program("nft").is_none() => {
                let ruleset = Ruleset::default().with_unlisted(iptables_save::read());
                self.open_without_grant(config, &ruleset, &versions());
            }
            Err(error) => {
                let message = format!("firewall: its rules cannot be looked at: {error}");
                self.warning(config, &["firewall"], message, "run this as root");
            }
        }
    }

    /// All that can be said of this ruleset, on a host with these IP versions.
    pub(in crate::admin::check) fn judge(
        &mut self,
        config: &ServerConfig,
        ruleset: &Ruleset,
        versions: &[Version],
    ) {
        self.silence(config, Some(ruleset), versions);
        if config.backend == BackendKind::None {
            return;
        }
        let before = self.remarks();
        for (name, action) in &config.actions {
            for part in &action.parts {
                let key = if matches!(part, ActionPart::Forward { .. }) { "forward" } else { "open" };
                let place = ["action", name.as_str(), key];
                self.closed(config, &place, &PacketPath::of(part, config, versions), ruleset);
            }
        }
        self.led_past(config, ruleset, versions);
        self.open_without_grant(config, ruleset, versions);
        self.untracked(config, ruleset, versions);
        if self.remarks() == before {
            self.ok(match granted(config) {
                Mark::Set(mark) => {
                    format!("firewall: the rules here accept the mark {mark}, and nothing else opens")
                }
                Mark::Clear(_) | Mark::None => {
                    "firewall: nothing is known to drop what an action opens".to_owned()
                }
            });
        }
    }

    /// What closes what an action opens.
    fn closed(&mut self, config: &ServerConfig, place: &[&str], journeys: &[PacketPath], ruleset: &Ruleset) {
        let mut findings: BTreeMap<RulesetFinding, Vec<(PortRange, Version)>> = BTreeMap::new();
        let mut shut: BTreeMap<String, BTreeSet<Version>> = BTreeMap::new();
        for journey in journeys {
            for obstacle in journey.obstacles(ruleset) {
                let met = findings.entry(RulesetFinding::of(&obstacle)).or_default();
                met.push((journey.door, journey.last.version));
                if obstacle.share == Coverage::Whole {
                    shut.entry(journey.door.to_string()).or_default().insert(journey.last.version);
                }
            }
        }
        let all: BTreeSet<Version> = journeys.iter().map(|journey| journey.last.version).collect();
        for (finding, met) in findings {
            let (ports, over) = described(&met, &all);
            let certain = finding.share == Coverage::Whole;
            let verb = match (certain, finding.kind) {
                (true, BlockKind::Rejected) => "is rejected all the same",
                (true, _) => "is dropped all the same",
                (false, BlockKind::Rejected) => "may be rejected all the same",
                (false, _) => "may be dropped all the same",
            };
            let message = format!("{}: {ports} {verb}{over}: {}", place.join("."), finding.place);
            let hint = hint(config, &finding, journeys, &met, ruleset);
            // Over IPv4 alone is enough: that is how most clients come.
            let shut = met.iter().any(|(ports, version)| {
                *version == Version::V4 || shut.get(&ports.to_string()) == Some(&all)
            });
            if certain && shut {
                self.problem(config, place, message, &hint);
            } else {
                self.warning(config, place, message, &hint);
            }
        }
    }

    /// What leads a protected port elsewhere before our gate sees it.
    fn led_past(&mut self, config: &ServerConfig, ruleset: &Ruleset, versions: &[Version]) {
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
                for obstacle in obstacles(ruleset, base, packets, PacketGoal::Leading) {
                    seen.insert(RulesetFinding::of(&obstacle));
                }
            }
            for finding in seen {
                let certain = finding.share == Coverage::Whole;
                let verb = if certain { "is" } else { "may be" };
                let message = format!(
                    "firewall.protect: {ports} {verb} led elsewhere before the gate: {}",
                    finding.place
                );
                let hint = format!("published = [\"{ports}\"] in [firewall], in place of protect, closes it");
                if certain {
                    self.problem(config, &["firewall", "protect"], message, &hint);
                } else {
                    self.warning(config, &["firewall", "protect"], message, &hint);
                }
            }
        }
    }

    /// Nobody is to learn from the knock port's answers that there is something else than a closed port.
    fn silence(&mut self, config: &ServerConfig, ruleset: Option<&Ruleset>, versions: &[Version]) {
        let Some(door) = PortSpec::new(Protocol::Udp, config.port) else { return };
        let bound = !host::programs_on_udp(config.port).is_empty();
        let place = ["server", "port"];
        let first = |version| ruleset.and_then(|ruleset| first_obstacle(ruleset, version, door.into()));
        let met: Vec<Option<Blocker<'_>>> = versions.iter().map(|version| first(*version)).collect();
        let dropped = |obstacle: &Blocker<'_>| obstacle.kind == BlockKind::Dropped;
        if config.capture == CaptureKind::Udp
            && let Some(obstacle) = met.iter().flatten().find(|obstacle| !is_ours(obstacle.base))
        {
            let message = format!(
                "server.port: knocks to {door} do not arrive: {}",
                RulesetFinding::of(obstacle).place
            );
            let hint = "let them through there, or see them before the firewall: capture = \"pcap\"";
            return self.problem(config, &place, message, hint);
        }
        // Before the first start nothing of ours can drop it.
        let never = matches!(GateState::read(&config.state_dir), Ok(GateState::NeverClosed));
        if bound || never || met.iter().all(|first| first.as_ref().is_some_and(dropped)) {
            return;
        }
        let message = format!("server.port: {door} answers strangers with ICMP port unreachable");
        let hint = match (config.capture, config.backend) {
            (CaptureKind::Udp, _) | (_, BackendKind::Nftables | BackendKind::Iptables) => {
                "nothing listens there or drops it: start the daemon, with its gate on"
            }
            (CaptureKind::Pcap, BackendKind::None) => {
                "have your firewall drop it: knocks are seen before that"
            }
        };
        self.warning(config, &place, message, hint);
    }
}

/// An obstacle as it is told.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::check) struct RulesetFinding {
    kind: BlockKind,
    pub(in crate::admin::check) share: Coverage,
    table: TableName,
    base: String,
    pub(in crate::admin::check) place: String,
}

impl RulesetFinding {
    pub(in crate::admin::check) fn of(obstacle: &Blocker<'_>) -> Self {
        let way = match obstacle.base.name == obstacle.chain.name {
            true => obstacle.base.to_string(),
            false => format!("{}, from there chain {}", obstacle.base, obstacle.chain.name),
        };
        let place = match obstacle.rule {
            None => format!("{way}: policy drop"),
            Some(rule) if rule.text.is_empty() => format!("{way}: rule with handle {}", rule.handle),
            Some(rule) => format!("{way}: rule with handle {}: {}", rule.handle, shortened(&rule.text)),
        };
        let (table, base) = (obstacle.base.table.clone(), obstacle.base.name.clone());
        Self { kind: obstacle.kind, share: obstacle.share, table, base, place }
    }
}

/// A rule may name a thousand addresses.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// What for certain ends the way of these packets to this host first, be it ours.
fn first_obstacle(ruleset: &Ruleset, version: Version, ports: PortRange) -> Option<Blocker<'_>> {
    let mut bases: Vec<(bool, i64, &Chain)> = Vec::new();
    for chain in ruleset.chains.iter().filter(|chain| chain.sees(version)) {
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
    let packets = PacketClass { version, ports, to: PacketDestination::Here, mark: Mark::None };
    let found =
        bases.into_iter().flat_map(|(_, _, base)| obstacles(ruleset, base, packets, PacketGoal::AnyClosing));
    found.into_iter().find(|obstacle| obstacle.share == Coverage::Whole)
}

/// The ports, and over which IP version if it is not all.
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

/// What to do about it. What lets through in another table does not open: our gate still decides.
fn hint(
    config: &ServerConfig,
    finding: &RulesetFinding,
    journeys: &[PacketPath],
    met: &[(PortRange, Version)],
    ruleset: &Ruleset,
) -> String {
    let base = &finding.base;
    let Some((ports, version)) = met.first() else { return String::new() };
    let last = journeys.iter().find(|journey| journey.door == *ports && journey.last.version == *version);
    let led = last.is_some_and(|journey| journey.last.to != PacketDestination::Here);
    let goal = last.map_or(*ports, |journey| journey.last.ports);
    let (table, maker) = (&finding.table, Maker::of(&finding.table, ruleset));
    // Where only some packets are dropped, those without the mark may be meant.
    if let FirewallMode::Mark(mark) = config.mode {
        return match remedy::accept_mark(maker, table, base, mark) {
            Some(command) => format!("have it accept the mark of packets with a grant: {command}"),
            None => format!(
                "its rules cannot match a mark: mode = \"guard\", and {}",
                remedy::accept_ports(maker, table, base, goal)
            ),
        };
    }
    if finding.share != Coverage::Whole {
        let TableName { family, name } = table;
        return format!("see that it lets in what a grant is for: nft list chain {family} {name} {base}");
    }
    let rule = match led {
        true => remedy::accept_led(maker, table, base),
        false => remedy::accept_ports(maker, table, base, goal),
    };
    let guarded =
        config.mode == FirewallMode::Guard && config.protect.iter().any(|protected| protected.contain(goal));
    let choice = match maker {
        Maker::Firewalld => "",
        _ => {
            "mode = \"mark\" leaves it closed there and needs one rule (see firewall.mode in spa-knockd.toml(5)); or "
        }
    };
    match led || guarded {
        true => {
            format!("{choice}let it through there, our gate still keeps it closed without a grant: {rule}")
        }
        false => {
            format!("{choice}first name it in firewall.protect, or it is open to everybody; then: {rule}")
        }
    }
}

#[cfg(test)]
mod tests;
