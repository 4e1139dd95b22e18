//! The input for `ipset restore`: sets whose entries the kernel removes when they expire.

use std::time::Duration;

use super::entry::{EntryKind, SetEntry};
use super::family::IpVersion;
use crate::firewall::text::Text;
use crate::firewall::{Enforcement, GateSpec};
use spa_knock_core::knock::BootTime;

/// Capacity of a grant set, as in the nftables table.
const SIZE: u32 = 65_536;
/// The longest timeout of an entry, in seconds (`IPSET_MAX_TIMEOUT` of the kernel, which counts in ms).
const TIMEOUT_MAX: u64 = 2_147_483;

/// Our sets, and their types.
const SETS: [(&str, &str); 10] = [
    ("single", "hash:ip,port"),
    ("span", "hash:net,port"),
    ("once", "hash:ip,port"),
    ("forward", "hash:ip,port"),
    ("divert", "hash:ip"),
    ("route", "hash:ip,port,ip"),
    ("transit", "hash:ip"),
    ("trial", "hash:net"),
    ("heartbeat", "hash:net"),
    ("failsafe", "hash:net"),
];

/// The full name of a set.
pub(super) fn name(set: &str, family: IpVersion) -> String {
    format!("spa_knock_{set}{}", family.digit())
}

/// The full names of all sets.
pub(super) fn names(family: IpVersion) -> impl Iterator<Item = String> {
    SETS.iter().map(move |(set, _)| name(set, family))
}

/// Creates the sets, and replaces their entries by the grants that are active at `now`. `used` are entries of the set
/// `once` to remove. Its other entries stay as they are: they may have been used already, so none is added again.
pub(super) fn load(
    family: IpVersion,
    gate: &GateSpec,
    live: &[SetEntry],
    used: &[String],
    now: BootTime,
) -> String {
    let mut text = Text::default();
    for (set, kind) in SETS {
        text.create(&name(set, family), kind, family);
    }
    for (set, kind) in SETS {
        // Swapped in one step, so that no grant is interrupted.
        let new = name(&format!("{set}_new"), family);
        let lines: Vec<String> = match set {
            "failsafe" => {
                failsafe_prefixes(family, gate).map(|prefix| format!("add {new} {prefix}\n")).collect()
            }
            "single" | "span" | "forward" | "divert" | "route" | "transit" => {
                live.iter().filter(|e| set_of(e) == set).map(|entry| add(entry, &new, now)).collect()
            }
            _ => continue,
        };
        text.create(&new, kind, family);
        text.line(format_args!("flush {new}"));
        text.0.extend(lines);
        text.line(format_args!("swap {} {new}", name(set, family)));
        text.line(format_args!("destroy {new}"));
    }
    for key in used {
        text.line(format_args!("del {} {key}", name("once", family)));
    }
    if let Enforcement::Trial(time) = gate.enforcement {
        text.0.push_str(&all_addresses("trial", family, time));
    }
    if let Some(failsafe) = &gate.failsafe {
        text.0.push_str(&all_addresses("heartbeat", family, failsafe.after));
    }
    text.0
}

/// Adds all addresses to a set for a time.
pub(super) fn all_addresses(set: &str, family: IpVersion, time: Duration) -> String {
    let name = name(set, family);
    let line = |prefix| format!("add {name} {prefix} timeout {}\n", seconds(time));
    family.all_addresses().map(line).concat()
}

/// Removes the `ended` entries and adds the `live` ones. Of equal ones, the last wins.
pub(super) fn change(family: IpVersion, ended: &[SetEntry], live: &[&SetEntry], now: BootTime) -> String {
    let mut text = Text::default();
    for entry in ended.iter().filter(|entry| entry.family() == family) {
        text.line(format_args!("del {} {}", name(set_of(entry), family), key(entry)));
    }
    text.0.extend(live.iter().map(|entry| add(entry, &name(set_of(entry), family), now)));
    text.0
}

/// The set of an entry.
pub(super) const fn set_of(entry: &SetEntry) -> &'static str {
    match entry.kind {
        EntryKind::Single => "single",
        EntryKind::Span => "span",
        EntryKind::Once => "once",
        EntryKind::Forward(_) => "forward",
        EntryKind::Divert(_) => "divert",
        EntryKind::Route(..) => "route",
        EntryKind::Transit(_) => "transit",
    }
}

/// Addresses and ports in ipset's notation.
pub(super) fn key(entry: &SetEntry) -> String {
    let Some(ports) = entry.ports else { return entry.from.to_string() };
    let key = format!("{},{}:{}", entry.from, ports.protocol().as_str(), ports.numbers('-'));
    match entry.kind {
        EntryKind::Route(host, _) => format!("{key},{host}"),
        _ => key,
    }
}

fn add(entry: &SetEntry, set: &str, now: BootTime) -> String {
    let left = seconds(entry.end.map_or(Duration::ZERO, |end| end.since(now)));
    format!("add {set} {} timeout {left} comment \"{}\"\n", key(entry), entry.comment)
}

/// Whole seconds, rounded up, at least 1: a timeout of 0 would be unlimited.
fn seconds(time: Duration) -> u64 {
    let up = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(up).clamp(1, TIMEOUT_MAX)
}

fn failsafe_prefixes(family: IpVersion, gate: &GateSpec) -> impl Iterator<Item = String> {
    let all = gate.failsafe.iter().flat_map(|failsafe| &failsafe.allow);
    all.filter(move |prefix| IpVersion::of(**prefix) == family).flat_map(move |prefix| {
        if prefix.is_everything() {
            family.all_addresses().map(str::to_owned).to_vec()
        } else {
            vec![prefix.to_string()]
        }
    })
}

impl Text {
    fn create(&mut self, name: &str, kind: &str, family: IpVersion) {
        let inet = family.inet();
        self.line(format_args!("create {name} {kind} family {inet} maxelem {SIZE} timeout 0 comment"));
    }
}
