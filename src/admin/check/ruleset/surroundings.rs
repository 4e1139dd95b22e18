//! Conditions outside our gate: in mode `mark`, other rules must close the ports; and connections to them must be
//! tracked.

use std::collections::BTreeSet;

use super::findings::RulesetFinding;
use super::journey::{PacketPath, both, granted};
use super::listing::{Base, Ruleset, Version};
use super::mark::Mark;
use super::packet_class::{PacketClass, PacketDestination};
use super::path::{Coverage, PacketGoal, blockers};
use crate::admin::check::report::CheckReport;
use crate::config::ServerConfig;
use spa_knock_core::auth::ActionPart;
use spa_knock_core::knock::PortRange;

/// The kernel tracks connections from this priority on (NF_IP_PRI_CONNTRACK).
const TRACKED: i64 = -200;

impl CheckReport {
    /// In mode `mark`: reports ports that are open to everyone because no rule closes them.
    pub(in crate::admin::check) fn open_without_grant(
        &mut self,
        config: &ServerConfig,
        ruleset: &Ruleset,
        versions: &[Version],
    ) {
        let mark = granted(config).cleared();
        if mark == Mark::None {
            return;
        }
        let is_forwarded = |ports: &PortRange| {
            let stanzas = self.legacy_forwards.iter().flat_map(|(_, parts)| parts);
            let parts = config.actions.values().flat_map(|action| &action.parts).chain(stanzas);
            parts.into_iter().any(
                |part| matches!(part, ActionPart::Forward { port, .. } if PortRange::from(*port) == *ports),
            )
        };
        let gated = config.gated().into_iter().filter(|ports| !is_forwarded(ports));
        for ports in gated.collect::<Vec<_>>() {
            let open = |version: &&Version| {
                let met = PacketPath::here(ports, **version, mark).blockers(ruleset);
                let unlisted =
                    || ruleset.unlisted.iter().any(|table| table.sees(**version) && table.drops(ports));
                met.iter().all(|blocker| blocker.share < Coverage::Part) && !unlisted()
            };
            let open: Vec<Version> = versions.iter().filter(open).copied().collect();
            let Some(first) = open.first() else { continue };
            let over = if open.len() == versions.len() {
                String::new()
            } else {
                format!(" over {}", first.as_str())
            };
            let message = format!(
                "firewall.mode: {ports} is open to everyone{over}: mode \"mark\" closes no port, and no other rule closes this one"
            );
            let hint = "remove the rule that accepts it, and drop by default; or set mode = \"guard\", which closes it";
            self.problem(config, &["firewall", "mode"], message, hint);
        }
    }

    /// Warns of rules that keep the kernel from tracking connections to the ports.
    pub(in crate::admin::check) fn untracked(
        &mut self,
        config: &ServerConfig,
        ruleset: &Ruleset,
        versions: &[Version],
    ) {
        for ports in config.gated() {
            let mut seen = BTreeSet::new();
            for (version, base) in both(versions, ruleset) {
                let early =
                    |at: &Base| at.hook == "prerouting" && at.priority < TRACKED && at.kind == "filter";
                if !base.base.as_ref().is_some_and(early) {
                    continue;
                }
                let packets = PacketClass {
                    version,
                    ports,
                    to: PacketDestination::Here,
                    mark: granted(config).cleared(),
                };
                let found = blockers(ruleset, base, packets, PacketGoal::Untracking);
                seen.extend(found.iter().filter(|met| met.share >= Coverage::Part).map(RulesetFinding::of));
            }
            for finding in seen {
                let verb = if finding.share == Coverage::Whole { "is not" } else { "may not be" };
                let message =
                    format!("firewall.protect: {ports} {verb} tracked as connections: {}", finding.place);
                let hint = "a connection then ends with its grant; exempt the port from notrack";
                self.warning(config, &["firewall", "protect"], message, hint);
            }
        }
    }
}
