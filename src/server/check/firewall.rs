//! The firewall around our table: what closes a port although we open it, what leads past our gate, and whether the knock
//! port stays silent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::packets::{Packets, Target, Version};
use super::report::Report;
use super::ruleset::{Base, Chain, Ruleset, TableName};
use super::walk::{Kind, Obstacle, Share, Wanted, obstacles};
use crate::config::{Backend, CaptureKind, ServerConfig};
use crate::gate::{Mode, Part};
use crate::knock::{Door, Ports, Protocol};
use crate::os::host;
use crate::os::runner;

/// A ruleset of a hundred thousand elements takes a second to list.
const NFT_MAX: Duration = Duration::from_secs(20);
/// As much of a rule, in characters, as finds it.
const TEXT_MAX: usize = 160;
/// From this priority on (dstnat - 10) prerouting chains see where a packet has been led to.
const LED: i64 = -110;
/// Our chains in `inet spa_knock`; others in it are the admin's.
const OURS: [&str; 4] = ["input", "outside", "inside", "early"];

impl Report {
    pub(super) fn firewall(&mut self, config: &ServerConfig) {
        let nftables = config.backend == Backend::Nftables;
        if !nftables && config.capture == CaptureKind::Udp {
            return self.silence(config, None, &versions());
        }
        if nftables && host::has_legacy_filter() {
            let message = "firewall: iptables-legacy has rules too, which have not been looked at".to_owned();
            let hint = "iptables-legacy -S; ip6tables-legacy -S: see that none drops what an action opens";
            self.warning(config, &["firewall"], message, hint);
        }
        match list() {
            Ok(ruleset) => self.judge(config, &ruleset, &versions()),
            // That it is missing has been told already.
            Err(_) if host::program("nft").is_none() => {}
            Err(error) => {
                let message = format!("firewall: its rules cannot be looked at: {error}");
                self.warning(config, &["firewall"], message, "run this as root");
            }
        }
    }

    /// All that can be said of this ruleset, on a host with these IP versions.
    pub(super) fn judge(&mut self, config: &ServerConfig, ruleset: &Ruleset, versions: &[Version]) {
        self.silence(config, Some(ruleset), versions);
        if config.backend != Backend::Nftables {
            return;
        }
        let before = self.count();
        for (name, action) in &config.actions {
            for part in &action.parts {
                let key = if matches!(part, Part::Forward { .. }) { "forward" } else { "open" };
                let place = ["action", name.as_str(), key];
                self.closed(config, &place, &Journey::of(part, config, versions), ruleset);
            }
        }
        self.led_past(config, ruleset, versions);
        if self.count() == before {
            self.ok("firewall: nothing is known to drop what an action opens".to_owned());
        }
    }

    /// What closes what an action opens.
    fn closed(&mut self, config: &ServerConfig, place: &[&str], journeys: &[Journey], ruleset: &Ruleset) {
        let mut findings: BTreeMap<Finding, Vec<(Ports, Version)>> = BTreeMap::new();
        let mut shut: BTreeMap<String, BTreeSet<Version>> = BTreeMap::new();
        for journey in journeys {
            for obstacle in journey.obstacles(ruleset) {
                let met = findings.entry(Finding::of(&obstacle)).or_default();
                met.push((journey.door, journey.last.version));
                if obstacle.share == Share::Whole {
                    shut.entry(journey.door.to_string()).or_default().insert(journey.last.version);
                }
            }
        }
        let all: BTreeSet<Version> = journeys.iter().map(|journey| journey.last.version).collect();
        for (finding, met) in findings {
            let (ports, over) = described(&met, &all);
            let certain = finding.share == Share::Whole;
            let verb = match (certain, finding.kind) {
                (true, Kind::Rejected) => "is rejected all the same",
                (true, _) => "is dropped all the same",
                (false, Kind::Rejected) => "may be rejected all the same",
                (false, _) => "may be dropped all the same",
            };
            let message = format!("{}: {ports} {verb}{over}: {}", place.join("."), finding.place);
            let hint = hint(config, &finding, journeys, &met, ruleset);
            let shut = met.iter().any(|(ports, _)| shut.get(&ports.to_string()) == Some(&all));
            if certain && shut {
                self.problem(config, place, message, &hint);
            } else {
                self.warning(config, place, message, &hint);
            }
        }
    }

    /// What leads a protected port elsewhere before our gate sees it.
    fn led_past(&mut self, config: &ServerConfig, ruleset: &Ruleset, versions: &[Version]) {
        let published = |ports: &Ports| config.published.iter().any(|published| published.contain(*ports));
        for ports in config.protect.iter().filter(|ports| !published(ports) && config.mode == Mode::Guard) {
            let mut seen = BTreeSet::new();
            for (version, base) in both(versions, ruleset) {
                if base.base.as_ref().is_none_or(|at| at.kind != "nat" || at.hook != "prerouting") {
                    continue;
                }
                let packets = Packets { version, ports: *ports, to: Target::Here };
                for obstacle in obstacles(ruleset, base, packets, Wanted::Leading) {
                    seen.insert(Finding::of(&obstacle));
                }
            }
            for finding in seen {
                let certain = finding.share == Share::Whole;
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
        let Some(door) = Door::new(Protocol::Udp, config.port) else { return };
        let bound = !host::programs_on_udp(config.port).is_empty();
        let place = ["server", "port"];
        let first = |version| ruleset.and_then(|ruleset| first_obstacle(ruleset, version, door.into()));
        let met: Vec<Option<Obstacle<'_>>> = versions.iter().map(|version| first(*version)).collect();
        let dropped = |obstacle: &Obstacle<'_>| obstacle.kind == Kind::Dropped;
        if config.capture == CaptureKind::Udp
            && let Some(obstacle) = met.iter().flatten().find(|obstacle| !is_ours(obstacle.base))
        {
            let message =
                format!("server.port: knocks to {door} do not arrive: {}", Finding::of(obstacle).place);
            let hint = "let them through there, or see them before the firewall: capture = \"pcap\"";
            return self.problem(config, &place, message, hint);
        }
        if bound || met.iter().all(|first| first.as_ref().is_some_and(dropped)) {
            return;
        }
        let message = format!("server.port: {door} answers strangers with ICMP port unreachable");
        let hint = match (config.capture, config.backend) {
            (CaptureKind::Udp, _) | (_, Backend::Nftables | Backend::Iptables) => {
                "nothing listens there or drops it: start the daemon, with its gate on"
            }
            (CaptureKind::Pcap, Backend::None) => "have your firewall drop it: knocks are seen before that",
        };
        self.warning(config, &place, message, hint);
    }
}

/// The way of packets that an action lets in: as they arrive, and as they go on.
#[derive(Debug)]
struct Journey {
    /// The port that is knocked for.
    door: Ports,
    first: Packets,
    last: Packets,
    /// The hook after prerouting.
    hook: &'static str,
}

impl Journey {
    fn of(part: &Part, config: &ServerConfig, versions: &[Version]) -> Vec<Self> {
        match part {
            Part::Open { ports, .. } | Part::OpenArgument { allowed: ports, .. } => {
                // Those that lead inside do not come to the input hook.
                let published = |ports: &&Ports| config.published.iter().any(|other| other.overlap(**ports));
                let here = ports.iter().filter(|ports| !published(ports));
                here.flat_map(|ports| versions.iter().map(|version| Self::here(*ports, *version))).collect()
            }
            Part::Forward { door, to } => {
                to.iter().filter_map(|to| Self::led(*door, *to, versions)).collect()
            }
            Part::Close(_) | Part::Run { .. } => Vec::new(),
        }
    }

    fn here(door: Ports, version: Version) -> Self {
        let packets = Packets { version, ports: door, to: Target::Here };
        Self { door, first: packets, last: packets, hook: "input" }
    }

    fn led(door: Door, to: SocketAddr, versions: &[Version]) -> Option<Self> {
        let version = if to.is_ipv4() { Version::V4 } else { Version::V6 };
        let arriving = Self::here(door.into(), version);
        let (target, hook) = match to.ip() {
            ip if !ip.is_unspecified() => (Target::Behind(ip), "forward"),
            _ if !versions.contains(&version) => return None,
            _ => (Target::LedHere, "input"),
        };
        let port: Ports = Door::new(door.protocol(), to.port())?.into();
        Some(Self { last: Packets { ports: port, to: target, ..arriving.first }, hook, ..arriving })
    }

    fn obstacles<'r>(&self, ruleset: &'r Ruleset) -> Vec<Obstacle<'r>> {
        let mut all = Vec::new();
        for (_, base) in both(&[self.last.version], ruleset) {
            let Some(at) = &base.base else { continue };
            let packets = match at.hook.as_str() {
                "prerouting" if at.priority < LED => self.first,
                hook if hook == "prerouting" || hook == self.hook => self.last,
                _ => continue,
            };
            if at.kind != "nat" {
                all.extend(obstacles(ruleset, base, packets, Wanted::Closing));
            }
        }
        all
    }
}

/// An obstacle as it is told.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    kind: Kind,
    share: Share,
    table: TableName,
    base: String,
    place: String,
}

impl Finding {
    fn of(obstacle: &Obstacle<'_>) -> Self {
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

/// Base chains that are not ours, with each IP version that they see.
fn both<'r>(versions: &[Version], ruleset: &'r Ruleset) -> Vec<(Version, &'r Chain)> {
    let others = || ruleset.chains.iter().filter(|chain| chain.base.is_some() && !is_ours(chain));
    let seen = |version: &Version| {
        let version = *version;
        others().filter(move |chain| chain.sees(version)).map(move |chain| (version, chain))
    };
    versions.iter().flat_map(seen).collect()
}

fn is_ours(chain: &Chain) -> bool {
    chain.table.family == "inet" && chain.table.name == "spa_knock" && OURS.contains(&chain.name.as_str())
}

/// What for certain ends the way of these packets to this host first, be it ours.
fn first_obstacle(ruleset: &Ruleset, version: Version, ports: Ports) -> Option<Obstacle<'_>> {
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
    let packets = Packets { version, ports, to: Target::Here };
    let found = bases.into_iter().flat_map(|(_, _, base)| obstacles(ruleset, base, packets, Wanted::Closing));
    found.into_iter().find(|obstacle| obstacle.share == Share::Whole)
}

/// The ports, and over which IP version if it is not all.
fn described(met: &[(Ports, Version)], all: &BTreeSet<Version>) -> (String, String) {
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
    finding: &Finding,
    journeys: &[Journey],
    met: &[(Ports, Version)],
    ruleset: &Ruleset,
) -> String {
    let TableName { family, name } = &finding.table;
    let base = &finding.base;
    if finding.share != Share::Whole {
        return format!("see that it lets in what a grant is for: nft list chain {family} {name} {base}");
    }
    let Some((ports, version)) = met.first() else { return String::new() };
    let last = journeys.iter().find(|journey| journey.door == *ports && journey.last.version == *version);
    let led = last.is_some_and(|journey| journey.last.to != Target::Here);
    let goal = last.map_or(*ports, |journey| journey.last.ports);
    let (protocol, numbers) = (goal.protocol().as_str(), goal.numbers('-'));
    let ufw =
        ruleset.chains.iter().any(|chain| chain.table == finding.table && chain.name.starts_with("ufw"));
    let rule = match (led, name.as_str()) {
        (true, _) => format!("nft insert rule {family} {name} {base} ct status dnat accept"),
        (false, "firewalld") => {
            format!("firewall-cmd --permanent --add-port={numbers}/{protocol} && firewall-cmd --reload")
        }
        (false, _) if ufw => format!("ufw allow {}/{protocol}", goal.numbers(':')),
        (false, _) => format!("nft insert rule {family} {name} {base} {protocol} dport {numbers} accept"),
    };
    let guarded =
        config.mode == Mode::Guard && config.protect.iter().any(|protected| protected.contain(goal));
    match led || guarded {
        true => format!("let it through there, our gate still keeps it closed without a grant: {rule}"),
        false => format!("first name it in firewall.protect, or it is open to everybody; then: {rule}"),
    }
}

fn list() -> Result<Ruleset, String> {
    let nft = |args: &[&str]| runner::run_to_end("nft", args, "", NFT_MAX).map_err(|error| error.to_string());
    let json = nft(&["-j", "list", "ruleset"])?;
    // Without the texts, only the findings say less.
    let text = nft(&["-a", "list", "ruleset"]).unwrap_or_default();
    Ruleset::read(&json, &text).map_err(|error| format!("nft -j list ruleset: {error}"))
}

/// The IP versions in which others reach this host; both when it has no address yet.
fn versions() -> Vec<Version> {
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
mod tests;
