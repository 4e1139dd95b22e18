//! The table nat: forwards and diverts of grants, and source addresses of routed packets.

use std::net::SocketAddr;

use super::entry::{EntryKind, SetEntry};
use super::family::IpVersion;
use super::installed::InstalledRules;
use super::names::{ENTRY, IptablesTable, SOURCE};
use super::rules::{Unload, matched};
use super::sets;
use crate::firewall::text::Text;
use spa_knock_core::auth::SourceTranslation;

impl Text {
    /// The table of address translation, rewritten completely.
    pub(super) fn forwards(
        &mut self,
        family: IpVersion,
        closing: Unload,
        live: &[SetEntry],
        present: &InstalledRules,
    ) {
        // Of two forwards for the same packets, the one that ends last comes first.
        let mut all: Vec<_> = live
            .iter()
            .rev()
            .filter(|entry| entry.family() == family)
            .filter_map(|entry| Some((entry, nat_rule(entry.kind)?)))
            .collect();
        // A port comes before all packets.
        all.sort_by_key(|(entry, _)| entry.ports.is_none());
        if all.is_empty() {
            self.remove(IptablesTable::Nat, present);
            return;
        }
        self.start(IptablesTable::Nat);
        for chain in [ENTRY, SOURCE] {
            self.line(format_args!(":{chain} - [0:0]"));
        }
        self.jump_rule(IptablesTable::Nat, None, present);
        self.opened_are_not_forwarded(family, closing, live);
        for (entry, NatRule { chain, only, fields, target }) in all {
            let while_active = match closing {
                Unload::Sets => {
                    format!(" -m set --match-set {} {fields}", sets::name(sets::set_of(entry), family))
                }
                Unload::Rules => String::new(),
            };
            self.line(format_args!(
                "-A {chain} {}{only}{while_active} -m comment --comment \"{}\" -j {target}",
                matched(entry),
                entry.comment,
            ));
        }
        self.end();
    }

    /// A port that is open for the address is not forwarded: otherwise, who can forward could lead another client's
    /// connections elsewhere.
    fn opened_are_not_forwarded(&mut self, family: IpVersion, closing: Unload, live: &[SetEntry]) {
        if closing == Unload::Sets {
            for set in ["single", "span"] {
                let set = sets::name(set, family);
                self.line(format_args!("-A {ENTRY} -m set --match-set {set} src,dst -j RETURN"));
            }
            return;
        }
        let opens = |entry: &&SetEntry| {
            entry.family() == family && matches!(entry.kind, EntryKind::Single | EntryKind::Span)
        };
        for entry in live.iter().filter(opens) {
            self.line(format_args!("-A {ENTRY} {} -j RETURN", matched(entry)));
        }
    }
}

/// The address translation of an entry.
struct NatRule {
    chain: &'static str,
    /// What else its packets have in common, after a space.
    only: &'static str,
    /// The fields of a packet that its set is searched for.
    fields: &'static str,
    target: String,
}

fn nat_rule(kind: EntryKind) -> Option<NatRule> {
    let source = |source| match source {
        SourceTranslation::Kept => None,
        SourceTranslation::Masquerade => Some("MASQUERADE".to_owned()),
        SourceTranslation::Address(address) => Some(format!("SNAT --to-source {address}")),
    };
    let (chain, only, fields, target) = match kind {
        EntryKind::Single | EntryKind::Span | EntryKind::Once => return None,
        EntryKind::Forward(to) => (ENTRY, " -m addrtype --dst-type LOCAL", "src,dst", forward_target(to)),
        EntryKind::Divert(to) => (ENTRY, "", "src", format!("DNAT --to-destination {to}")),
        EntryKind::Route(_, as_source) => (SOURCE, "", "src,dst,dst", source(as_source)?),
        EntryKind::Transit(as_source) => (SOURCE, "", "src", source(as_source)?),
    };
    Some(NatRule { chain, only, fields, target })
}

fn forward_target(target: SocketAddr) -> String {
    if target.ip().is_unspecified() {
        format!("REDIRECT --to-ports {}", target.port())
    } else {
        format!("DNAT --to-destination {target}")
    }
}
