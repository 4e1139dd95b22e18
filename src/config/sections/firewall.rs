//! `[firewall]`: the backend, what is closed and for which ports, and who is let in when the daemon is dead.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::BackendKind;
use crate::config::document::TomlValue;
use crate::firewall::{Failsafe, FirewallMode, PacketMark};
use spa_knock_core::knock::{PortRange, Prefix};

/// A daemon gives a sign of life every ten seconds, and a restart takes some.
const FAILSAFES: RangeInclusive<Duration> = Duration::from_secs(30)..=Duration::from_secs(7 * 86_400);

pub(super) fn read_backend(value: &TomlValue<'_>) -> Option<BackendKind> {
    value.choice(&[
        ("nftables", BackendKind::Nftables),
        ("iptables", BackendKind::Iptables),
        ("none", BackendKind::None),
    ])
}

/// Rules of others cannot name what iptables' grants stand in.
pub(super) fn read_mode(
    value: &TomlValue<'_>,
    backend: BackendKind,
    mark: PacketMark,
) -> Option<FirewallMode> {
    let modes =
        [("guard", FirewallMode::Guard), ("mark", FirewallMode::Mark(mark)), ("set", FirewallMode::Set)];
    let mode = value.choice(&modes)?;
    if mode == FirewallMode::Set && backend == BackendKind::Iptables {
        value.problem(
            "backend \"iptables\" has no such mode",
            Some("mode = \"guard\" or \"mark\", or backend = \"nftables\""),
        );
        return None;
    }
    Some(mode)
}

/// A container engine accepts what it publishes, with and without a mark.
pub(super) fn read_published(value: &TomlValue<'_>, mode: FirewallMode) -> Option<Vec<PortRange>> {
    if matches!(mode, FirewallMode::Mark(_)) {
        value.problem(
            "mode \"mark\" closes nothing, and a container engine's own rules accept these ports",
            Some("mode = \"guard\", or publish the ports on 127.0.0.1 and use an action with `forward`"),
        );
        return None;
    }
    read_ports(value)
}

/// Ports, each once, in the order they are written.
pub(in crate::config) fn read_ports(value: &TomlValue<'_>) -> Option<Vec<PortRange>> {
    let mut all: Vec<PortRange> = Vec::new();
    for ports in value.parsed_list::<PortRange>()? {
        if let Some(other) = all.iter().find(|&&other| other != ports && other.overlap(ports)) {
            value.problem(
                format_args!("{other} and {ports} have ports in common"),
                Some("make one range of both"),
            );
            return None;
        }
        if !all.contains(&ports) {
            all.push(ports);
        }
    }
    Some(all)
}

/// `"closed"`, or `{ after = "10m", allow = ["203.0.113.0/24"] }`.
#[allow(clippy::option_option, reason = "a bad value, no failsafe, or one")]
pub(super) fn read_failsafe(value: &TomlValue<'_>) -> Option<Option<Failsafe>> {
    if !value.is_table() {
        return value.choice(&[("closed", ())]).map(|()| None);
    }
    let mut table = value.table()?;
    let after = table.require("after", "after = \"10m\": how long the daemon may be dead");
    let allow =
        table.require("allow", "allow = [\"203.0.113.0/24\"]: who is let in then; \"any\" is everybody");
    let after = after.and_then(|value| value.duration(FAILSAFES));
    let allow = allow.and_then(|value| read_spared(&value));
    table.finish();
    Some(Some(Failsafe { after: after?, allow: allow? }))
}

fn read_spared(value: &TomlValue<'_>) -> Option<Vec<Prefix>> {
    let items = value.list()?;
    if let [only] = items.as_slice()
        && only.is("any")
    {
        let everybody = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        return Some(everybody.map(|address| Prefix::of(address, 0)).to_vec());
    }
    let mut spared: Vec<Prefix> = Vec::new();
    for prefix in value.parsed_list::<Prefix>()? {
        // Ranges of one set must not overlap.
        if spared.iter().any(|known| known.contains(prefix.first()) || prefix.contains(known.first())) {
            value.problem(format_args!("{prefix} overlaps another one"), Some("name the larger one alone"));
            return None;
        }
        spared.push(prefix);
    }
    Some(spared)
}
