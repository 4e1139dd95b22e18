//! Rules around our table that drop health checks of load balancers. Ours leave these packets to them.

use std::collections::BTreeSet;

use super::findings::RulesetFinding;
use super::journey::{PacketPath, unmarked};
use super::listing::{Ruleset, Version};
use super::path::Coverage;
use super::remedy::{self, Maker};
use crate::admin::check::report::CheckReport;
use crate::config::ServerConfig;

impl CheckReport {
    /// Reports rules and policies that certainly drop or reject health checks. Rules may accept them by their source, which
    /// is not certain to be dropped.
    pub(super) fn health_checks(&mut self, config: &ServerConfig, ruleset: &Ruleset, versions: &[Version]) {
        let Some(health) = &config.health else { return };
        let Some(port) = health.tcp() else { return };
        let is_used = |version: &&Version| {
            health.from.iter().any(|prefix| prefix.first().is_ipv4() == (**version == Version::V4))
        };
        let paths: Vec<PacketPath> = versions
            .iter()
            .filter(is_used)
            .map(|version| PacketPath::here(port, *version, unmarked(config)))
            .collect();
        let mut reported = BTreeSet::new();
        for blocker in paths.iter().flat_map(|path| path.blockers(ruleset)) {
            let finding = RulesetFinding::of(&blocker);
            if blocker.share != Coverage::Whole || !reported.insert(finding.place.clone()) {
                continue;
            }
            let (table, base) = (&blocker.base.table, &blocker.base.name);
            let accept = remedy::accept_ports(Maker::of(table, ruleset), table, base, port);
            let message = format!("server.health: {port} is closed to load balancers: {}", finding.place);
            let hint =
                format!("accept it there; spa-knockd's rules still drop it for everyone else: {accept}");
            self.warning(config, &["server", "health"], message, &hint);
        }
    }
}
