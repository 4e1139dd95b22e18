//! The path of packets that an action lets in through the chains of other firewalls.

use std::net::SocketAddr;

use super::listing::{Chain, Ruleset, Version};
use super::mark::Mark;
use super::packet_class::{PacketClass, PacketDestination};
use super::path::{Blocker, PacketGoal, blockers};
use crate::config::ServerConfig;
use crate::firewall::{FirewallMode, PacketMark};
use spa_knock_core::auth::ActionPart;
use spa_knock_core::knock::{PortRange, PortSpec};

/// From this priority on (dstnat - 10), prerouting chains see the redirected destination of a packet.
const REDIRECTED: i64 = -110;
/// Our chains in `inet spa_knock`; other chains in it are the administrator's.
const OURS: [&str; 6] = ["input", "published", "translate", "ingress", "marks", "knock_port"];

/// The path of packets that an action lets in: as they arrive, and after redirection.
#[derive(Debug)]
pub(in crate::admin::check) struct PacketPath {
    /// The port that the client connects to.
    pub(in crate::admin::check) port: PortRange,
    first: PacketClass,
    pub(in crate::admin::check) last: PacketClass,
    /// The hook after prerouting.
    hook: &'static str,
}

impl PacketPath {
    /// The paths of an effect's packets, for each IP version.
    pub(in crate::admin::check) fn of(
        part: &ActionPart,
        config: &ServerConfig,
        versions: &[Version],
    ) -> Vec<Self> {
        match part {
            ActionPart::Open { ports, .. } | ActionPart::OpenArgument { allowed: ports, .. } => {
                // Packets to published ports do not reach the input hook.
                let published =
                    |ports: &&PortRange| config.published.iter().any(|other| other.overlap(**ports));
                let here = ports.iter().filter(|ports| !published(ports));
                here.flat_map(|ports| {
                    versions.iter().map(|version| Self::here(*ports, *version, granted(config)))
                })
                .collect()
            }
            ActionPart::Forward { port, to } => {
                to.iter().filter_map(|to| Self::forwarded(*port, *to, versions, granted(config))).collect()
            }
            ActionPart::Close(_) | ActionPart::Run { .. } => Vec::new(),
        }
    }

    /// The path of packets to a port of this host.
    pub(in crate::admin::check) fn here(port: PortRange, version: Version, mark: Mark) -> Self {
        let last = PacketClass { version, ports: port, to: PacketDestination::Here, mark };
        // Chains before our gate see no mark.
        let first = PacketClass { mark: mark.cleared(), ..last };
        Self { port, first, last, hook: "input" }
    }

    fn forwarded(port: PortSpec, to: SocketAddr, versions: &[Version], mark: Mark) -> Option<Self> {
        let version = if to.is_ipv4() { Version::V4 } else { Version::V6 };
        let arriving = Self::here(port.into(), version, mark);
        let (target, hook) = match to.ip() {
            ip if !ip.is_unspecified() => (PacketDestination::Behind(ip), "forward"),
            _ if !versions.contains(&version) => return None,
            _ => (PacketDestination::RedirectedHere, "input"),
        };
        let ports: PortRange = PortSpec::new(port.protocol(), to.port())?.into();
        Some(Self { last: PacketClass { ports, to: target, ..arriving.last }, hook, ..arriving })
    }

    /// The rules and policies that drop or reject the packets.
    pub(in crate::admin::check) fn blockers<'r>(&self, ruleset: &'r Ruleset) -> Vec<Blocker<'r>> {
        let mut all = Vec::new();
        for (_, base) in both(&[self.last.version], ruleset) {
            let Some(at) = &base.base else { continue };
            let packets = match at.hook.as_str() {
                "prerouting" if at.priority < REDIRECTED => self.first,
                "prerouting" => PacketClass { mark: self.first.mark, ..self.last },
                hook if hook == self.hook => self.last,
                _ => continue,
            };
            if at.kind != "nat" {
                all.extend(blockers(ruleset, base, packets, PacketGoal::Closing));
            }
        }
        all
    }
}

/// Base chains that are not ours, once for each IP version that they see.
pub(in crate::admin::check) fn both<'r>(
    versions: &[Version],
    ruleset: &'r Ruleset,
) -> Vec<(Version, &'r Chain)> {
    let others = || ruleset.chains.iter().filter(|chain| chain.base.is_some() && !is_ours(chain));
    let seen = |version: &Version| {
        let version = *version;
        others().filter(move |chain| chain.sees(version)).map(move |chain| (version, chain))
    };
    versions.iter().flat_map(seen).collect()
}

pub(in crate::admin::check) fn is_ours(chain: &Chain) -> bool {
    chain.table.family == "inet" && chain.table.name == "spa_knock" && OURS.contains(&chain.name.as_str())
}

/// Whether our rules drop datagrams to the knock port that have no live hint.
pub(in crate::admin::check) fn filters_hints(ruleset: &Ruleset) -> bool {
    let ours = ruleset.chains.iter().filter(|chain| is_ours(chain) && chain.name == "input");
    let mut statements = ours.flat_map(|chain| &chain.rules).flat_map(|rule| &rule.statements);
    statements.any(|statement| statement.pointer("/match/right").is_some_and(|right| right == "@hints"))
}

/// The mark of packets that a grant lets in.
pub(in crate::admin::check) const fn granted(config: &ServerConfig) -> Mark {
    match config.mode {
        FirewallMode::Mark(mark) => Mark::Set(mark),
        FirewallMode::Guard | FirewallMode::Set => Mark::None,
    }
}

/// The mark of packets that no grant lets in. Also in other modes, a rule for the mark may be left, for example that of
/// `spa-knockd fwknopd`.
pub(in crate::admin::check) fn unmarked(config: &ServerConfig) -> Mark {
    match config.mode {
        FirewallMode::Mark(mark) => Mark::Clear(mark),
        FirewallMode::Guard | FirewallMode::Set => Mark::Clear(PacketMark::default()),
    }
}
