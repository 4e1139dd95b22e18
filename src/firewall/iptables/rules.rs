//! The input for `iptables-restore --noflush`: our chains, and the one rule in each built-in chain that jumps to them.
//!
//! Admitted packets leave our chains with RETURN and meet the rules of other programs as before; our rules only
//! restrict. In mode `mark` nothing is dropped: admitted packets get the mark, in the table mangle, and the other rules
//! decide.

use super::entry::{EntryKind, SetEntry};
use super::family::IpVersion;
use super::installed::InstalledRules;
use super::names::{CHAINS, ENTRY, ESTABLISHED, GATE, GRANTS, IptablesTable, MARKED, ONCE, ROUTES, SOURCE};
use super::sets;
use crate::firewall::text::Text;
use crate::firewall::{Enforcement, EstablishedSessions, FirewallMode, GateSpec, PacketMark};
use spa_knock_core::knock::PortRange;

/// Matches every TCP packet except the first one of a connection.
const NOT_SYN: &str = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN";

/// Who removes an expired grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unload {
    /// The kernel: grants are entries of sets.
    Sets,
    /// The daemon: grants are rules.
    Rules,
}

/// The ends of rules: the verdict on admitted packets and on the others.
#[derive(Clone, Copy)]
struct Verdicts {
    pass: &'static str,
    end: &'static str,
}

impl Verdicts {
    const fn of(gate: &GateSpec) -> Self {
        match gate.mode {
            FirewallMode::Mark(_) => Self { pass: "-g SPA_KNOCK_MARKED", end: "-j RETURN" },
            FirewallMode::Guard | FirewallMode::Set => Self { pass: "-j RETURN", end: "-j DROP" },
        }
    }
}

/// The mark for packets with a grant, in mode `mark`.
const fn mark_of(gate: &GateSpec) -> Option<PacketMark> {
    match gate.mode {
        FirewallMode::Mark(mark) => Some(mark),
        FirewallMode::Guard | FirewallMode::Set => None,
    }
}

/// The tables that contain the gate.
fn gated(gate: &GateSpec) -> &'static [IptablesTable] {
    match (gate.mode, gate.published.is_empty()) {
        (FirewallMode::Mark(_), _) => &[IptablesTable::Mangle],
        (_, true) => &[IptablesTable::Filter],
        (_, false) => &[IptablesTable::Filter, IptablesTable::Mangle],
    }
}

/// Everything of ours, one transaction for each table.
pub(super) fn load(
    family: IpVersion,
    gate: &GateSpec,
    closing: Unload,
    live: &[SetEntry],
    present: &InstalledRules,
) -> String {
    let mut text = Text::default();
    let gated = gated(gate);
    for table in [IptablesTable::Filter, IptablesTable::Mangle] {
        if gated.contains(&table) {
            text.gate(table, family, gate, closing, live, present);
        } else {
            text.remove(table, present);
        }
    }
    if !gated.contains(&IptablesTable::Filter) {
        text.drop_alone(family, gate);
    }
    text.forwards(family, closing, live, present);
    text.0
}

/// The part that changes with the grants.
pub(super) fn change(
    family: IpVersion,
    gate: &GateSpec,
    closing: Unload,
    live: &[SetEntry],
    present: &InstalledRules,
) -> String {
    let mut text = Text::default();
    if closing == Unload::Rules {
        for table in gated(gate) {
            text.start(*table);
            text.grants(family, gate, live);
            if mark_of(gate).is_some() {
                text.routes(family, closing, live);
            }
            text.end();
        }
    }
    text.forwards(family, closing, live, present);
    text.0
}

/// Removes everything of ours.
pub(super) fn remove(present: &InstalledRules) -> String {
    let mut text = Text::default();
    for table in IptablesTable::ALL {
        text.remove(table, present);
    }
    text.0
}

impl Text {
    pub(super) fn start(&mut self, table: IptablesTable) {
        self.line(format_args!("*{}", table.name()));
    }

    pub(super) fn end(&mut self) {
        self.line(format_args!("COMMIT"));
    }

    /// Adds exactly one of each jump rule, at the head of its chain, wherever it was before. In mode `mark` it is the last
    /// rule, because rules that restore a connection's mark replace the whole mark.
    pub(super) fn jump_rule(
        &mut self,
        table: IptablesTable,
        mark: Option<PacketMark>,
        present: &InstalledRules,
    ) {
        for jump in present.jump_rules(table) {
            self.line(format_args!("-D {jump}"));
        }
        for jump in table.jumps() {
            let (chain, rest) = jump.split_once(' ').unwrap_or_default();
            match mark {
                Some(_) => self.line(format_args!("-A {chain} {rest}")),
                None => self.line(format_args!("-I {chain} 1 {rest}")),
            }
        }
    }

    fn gate(
        &mut self,
        table: IptablesTable,
        family: IpVersion,
        gate: &GateSpec,
        closing: Unload,
        live: &[SetEntry],
        present: &InstalledRules,
    ) {
        let (verdicts, mark) = (Verdicts::of(gate), mark_of(gate));
        self.start(table);
        let needed = |chain: &&&str| match **chain {
            MARKED | ROUTES => mark.is_some(),
            chain => chain != SOURCE,
        };
        for chain in CHAINS.iter().filter(needed) {
            // Created, or emptied if it exists.
            self.line(format_args!(":{chain} - [0:0]"));
        }
        self.jump_rule(table, mark, present);
        if let Some(mark) = mark {
            // Clears a mark that another rule may have set.
            self.line(format_args!("-A {ENTRY} -j MARK --set-xmark 0x0/{mark}"));
            self.line(format_args!("-A {MARKED} -j MARK --set-xmark {mark}/{mark}"));
        }
        if table == IptablesTable::Filter {
            self.drop_datagrams(gate);
        }
        self.line(format_args!("-A {ENTRY} -i lo -j RETURN"));
        if table == IptablesTable::Filter {
            self.health_port(family, gate);
        }
        if mark.is_some() {
            self.line(format_args!("-A {ENTRY} -j {ROUTES}"));
            self.routes(family, closing, live);
        }
        let (protected, only) = match table {
            IptablesTable::Filter => (&gate.protect, ""),
            IptablesTable::Mangle if mark.is_some() => (&gate.protect, " -m addrtype --dst-type LOCAL"),
            IptablesTable::Mangle | IptablesTable::Nat => (&gate.published, " -m addrtype --dst-type LOCAL"),
        };
        for ports in protected {
            self.line(format_args!("-A {ENTRY} {}{only} -j {GATE}", to(*ports)));
        }
        self.passes(family, gate, closing);
        self.line(format_args!("-A {GATE} -g {GRANTS}"));
        self.grants(family, gate, if closing == Unload::Rules { live } else { &[] });
        for connection in gate.established.iter().filter(|c| IpVersion::of(c.remote.ip().into()) == family) {
            self.line(format_args!(
                "-A {ESTABLISHED} -s {} -p tcp -m tcp --sport {} --dport {} {}",
                connection.remote.ip(),
                connection.remote.port(),
                connection.local.port(),
                verdicts.pass
            ));
        }
        self.line(format_args!("-A {ESTABLISHED} {}", verdicts.end));
        self.end();
    }

    /// Rules for what passes the gate, except grants that are rules.
    fn passes(&mut self, family: IpVersion, gate: &GateSpec, closing: Unload) {
        let Verdicts { pass, .. } = Verdicts::of(gate);
        let marking = mark_of(gate).is_some();
        if gate.sessions == EstablishedSessions::Pass {
            self.line(format_args!("-A {GATE} -m conntrack --ctstate ESTABLISHED {pass}"));
        }
        if closing == Unload::Rules {
            return;
        }
        let name = |set| sets::name(set, family);
        // In mode `mark`, a trial ends only with our chains, after which the administrator's rules alone decide.
        if matches!(gate.enforcement, Enforcement::Trial(_)) && !marking {
            self.line(format_args!("-A {GATE} -m set ! --match-set {} src -j RETURN", name("trial")));
        }
        let sets = ["single", "span", "forward"];
        for set in sets.iter().filter(|set| marking || **set != "forward") {
            self.line(format_args!("-A {GATE} -m set --match-set {} src,dst {pass}", name(set)));
        }
        let once = name("once");
        self.line(format_args!(
            "-A {GATE} -m conntrack --ctstate NEW -m set --match-set {once} src,dst -g {ONCE}"
        ));
        self.line(format_args!("-A {ONCE} -j SET --del-set {once} src,dst"));
        if marking {
            self.line(format_args!("-A {ONCE} {pass}"));
        }
        if gate.failsafe.is_some() {
            let (heartbeat, failsafe) = (name("heartbeat"), name("failsafe"));
            self.line(format_args!(
                "-A {GATE} -m set ! --match-set {heartbeat} src -m set --match-set {failsafe} src {pass}"
            ));
        }
    }

    /// The chain of grants, rewritten completely.
    fn grants(&mut self, family: IpVersion, gate: &GateSpec, live: &[SetEntry]) {
        let Verdicts { pass, end } = Verdicts::of(gate);
        let marking = mark_of(gate).is_some();
        // Fails if the chain no longer exists.
        self.line(format_args!("-F {GRANTS}"));
        // A forwarded packet needs the mark too.
        let opens = |kind| match kind {
            EntryKind::Single | EntryKind::Span => true,
            EntryKind::Forward(_) => marking,
            EntryKind::Once | EntryKind::Divert(_) | EntryKind::Route(..) | EntryKind::Transit(_) => false,
        };
        let open = |entry: &&SetEntry| entry.family() == family && opens(entry.kind);
        for entry in live.iter().filter(open) {
            let (packets, comment) = (matched(entry), &entry.comment);
            self.line(format_args!("-A {GRANTS} {packets} -m comment --comment \"{comment}\" {pass}"));
        }
        self.line(format_args!("-A {GRANTS} {NOT_SYN} -g {ESTABLISHED}"));
        self.line(format_args!("-A {GRANTS} {end}"));
    }

    /// The chain that marks packets which are routed or diverted, rewritten completely.
    fn routes(&mut self, family: IpVersion, closing: Unload, live: &[SetEntry]) {
        const ROUTED: &str = "-m addrtype ! --dst-type LOCAL";
        // In the state DNAT, the destination has been replaced.
        const DIVERTED: &str = "-m conntrack --ctstate NEW,DNAT";
        self.line(format_args!("-F {ROUTES}"));
        if closing == Unload::Sets {
            for (packets, set, fields) in
                [(ROUTED, "route", "src,dst,dst"), (ROUTED, "transit", "src"), (DIVERTED, "divert", "src")]
            {
                let set = sets::name(set, family);
                self.line(format_args!(
                    "-A {ROUTES} {packets} -m set --match-set {set} {fields} -g {MARKED}"
                ));
            }
            return;
        }
        for entry in live.iter().filter(|entry| entry.family() == family) {
            let packets = match entry.kind {
                EntryKind::Route(..) | EntryKind::Transit(_) => ROUTED,
                EntryKind::Divert(_) => DIVERTED,
                EntryKind::Single | EntryKind::Span | EntryKind::Once | EntryKind::Forward(_) => continue,
            };
            self.line(format_args!(
                "-A {ROUTES} {} {packets} -m comment --comment \"{}\" -g {MARKED}",
                matched(entry),
                entry.comment
            ));
        }
    }

    pub(super) fn remove(&mut self, table: IptablesTable, present: &InstalledRules) {
        let (jumps, chains) = (present.jump_rules(table), present.chains(table));
        if jumps.is_empty() && chains.is_empty() {
            return;
        }
        self.start(table);
        for jump in jumps {
            self.line(format_args!("-D {jump}"));
        }
        for (command, chain) in ["-F", "-X"].iter().flat_map(|c| chains.iter().map(move |chain| (c, chain))) {
            self.line(format_args!("{command} {chain}"));
        }
        self.end();
    }
}

fn to(ports: PortRange) -> String {
    let protocol = ports.protocol().as_str();
    format!("-p {protocol} -m {protocol} --dport {}", ports.numbers(':'))
}

/// The packets of an entry.
pub(super) fn matched(entry: &SetEntry) -> String {
    let host = match entry.kind {
        EntryKind::Route(host, _) => format!(" -d {host}"),
        _ => String::new(),
    };
    let ports = entry.ports.map(|ports| format!(" {}", to(ports))).unwrap_or_default();
    format!("-s {}{host}{ports}", entry.from)
}
