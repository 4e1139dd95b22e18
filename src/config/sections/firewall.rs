//! Reads `[firewall]`: the backend, the mode, the protected ports, and the failsafe.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::capture::CaptureKind;
use crate::config::BackendKind;
use crate::config::document::TomlValue;
use crate::firewall::{Failsafe, FirewallMode, PacketMark};
use spa_knock_core::knock::{PortRange, PortSpec, Prefix, Protocol};

/// The allowed failsafe delays. The daemon renews its liveness mark every 10 s, and a restart takes additional time.
const FAILSAFES: RangeInclusive<Duration> = Duration::from_secs(30)..=Duration::from_secs(7 * 86_400);

pub(super) fn read_backend(value: &TomlValue<'_>) -> Option<BackendKind> {
    value.choice(&[
        ("nftables", BackendKind::Nftables),
        ("iptables", BackendKind::Iptables),
        ("none", BackendKind::None),
    ])
}

/// Reads `mode`. Mode `set` is refused with iptables: the administrator's rules cannot refer to its grants.
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
            "backend \"iptables\" does not support this mode",
            Some("use mode = \"guard\" or \"mark\", or backend = \"nftables\""),
        );
        return None;
    }
    Some(mode)
}

/// Reads whether hints are filtered: if possible, unless it is turned off.
pub(super) fn read_hint_filter(
    value: Option<TomlValue<'_>>,
    capture: CaptureKind,
    backend: BackendKind,
) -> bool {
    let is_possible = capture == CaptureKind::Udp && backend == BackendKind::Nftables;
    let Some(value) = value else { return is_possible };
    let is_wanted = value.flag().unwrap_or(is_possible);
    if is_wanted && !is_possible {
        value.problem(
            "only possible with capture = \"udp\" and backend = \"nftables\"",
            Some(match capture {
                CaptureKind::Pcap => {
                    "remove it; with capture = \"pcap\", libpcap sees datagrams before any rule of the firewall"
                }
                CaptureKind::Udp => "remove it, or use backend = \"nftables\"",
            }),
        );
    }
    is_wanted
}

/// Reads `published`. Refused in mode `mark`: a container engine accepts packets to published ports with or without a
/// mark.
pub(super) fn read_published(value: &TomlValue<'_>, mode: FirewallMode) -> Option<Vec<PortRange>> {
    if matches!(mode, FirewallMode::Mark(_)) {
        value.problem(
            "mode \"mark\" closes nothing, and a container engine's own rules accept these ports",
            Some("use mode = \"guard\", or publish the ports on 127.0.0.1 and use an action with `forward`"),
        );
        return None;
    }
    read_ports(value)
}

/// The knock port, if the gate must not close it, because a socket receives the knocks. libpcap sees them before the gate.
pub(super) fn open_knock_port(capture: CaptureKind, mode: FirewallMode, port: u16) -> Option<PortSpec> {
    if capture == CaptureKind::Udp && mode == FirewallMode::Guard {
        return PortSpec::new(Protocol::Udp, port);
    }
    None
}

/// The ports of `value`, unless [`open_knock_port`] is one of them.
pub(super) fn without_knock_port(
    value: &TomlValue<'_>,
    ports: Option<Vec<PortRange>>,
    knock_port: Option<PortSpec>,
) -> Option<Vec<PortRange>> {
    let ports = ports?;
    let Some(knock_port) = knock_port else { return Some(ports) };
    let Some(closed) = ports.iter().find(|ports| ports.contain(knock_port.into())) else {
        return Some(ports);
    };
    value.problem(
        format_args!(
            "{closed} would drop every knock: {knock_port} is the knock port, and capture is \"udp\""
        ),
        Some("leave the knock port out; split a range around it"),
    );
    None
}

/// Reads a list of ports; removes duplicates and keeps the order.
pub(in crate::config) fn read_ports(value: &TomlValue<'_>) -> Option<Vec<PortRange>> {
    let mut all: Vec<PortRange> = Vec::new();
    for ports in value.parsed_list::<PortRange>()? {
        if let Some(other) = all.iter().find(|&&other| other != ports && other.overlap(ports)) {
            value.problem(format_args!("{other} and {ports} overlap"), Some("combine them into one range"));
            return None;
        }
        if !all.contains(&ports) {
            all.push(ports);
        }
    }
    Some(all)
}

/// Reads `"closed"`, or `{ after = "10m", allow = ["203.0.113.0/24"] }`.
#[allow(clippy::option_option, reason = "an invalid value, no failsafe, or a failsafe")]
pub(super) fn read_failsafe(value: &TomlValue<'_>) -> Option<Option<Failsafe>> {
    if !value.is_table() {
        return value.choice(&[("closed", ())]).map(|()| None);
    }
    let mut table = value.table()?;
    let after = table.require("after", "add after = \"10m\" (how long the daemon must have been dead)");
    let allow = table.require(
        "allow",
        "add allow = [\"203.0.113.0/24\"] (the addresses admitted then; \"any\" admits everyone)",
    );
    let after = after.and_then(|value| value.duration(FAILSAFES));
    let allow = allow.and_then(|value| read_admitted(&value));
    table.finish();
    Some(Some(Failsafe { after: after?, allow: allow? }))
}

fn read_admitted(value: &TomlValue<'_>) -> Option<Vec<Prefix>> {
    let items = value.list()?;
    if let [only] = items.as_slice()
        && only.is("any")
    {
        let all = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        return Some(all.map(|address| Prefix::of(address, 0)).to_vec());
    }
    read_prefixes(value)
}

/// Reads a list of prefixes without overlaps.
pub(super) fn read_prefixes(value: &TomlValue<'_>) -> Option<Vec<Prefix>> {
    let mut admitted: Vec<Prefix> = Vec::new();
    for prefix in value.parsed_list::<Prefix>()? {
        // Intervals of an nftables set must not overlap.
        if admitted.iter().any(|known| known.contains(prefix.first()) || prefix.contains(known.first())) {
            value.problem(format_args!("{prefix} overlaps another prefix"), Some("keep only the larger one"));
            return None;
        }
        admitted.push(prefix);
    }
    Some(admitted)
}
