//! The text for `iptables-restore --noflush`: our chains, and the one rule elsewhere that leads to them.
//!
//! What may come in leaves our chains with RETURN and meets the rules of others as before; we only take away.

use std::net::SocketAddr;

use super::entry::{Entry, Kind};
use super::family::Family;
use super::present::Present;
use super::sets;
use crate::firewall::text::Text;
use crate::firewall::{Enforcing, Gate};
use crate::knock::Ports;

/// Where packets come from to us.
pub(super) const ENTRY: &str = "SPA_KNOCK";
/// What only a grant passes.
pub(super) const GATE: &str = "SPA_KNOCK_GATE";
/// Its grants, where they are rules; the gate ends here.
pub(super) const GRANTS: &str = "SPA_KNOCK_GRANTS";
/// Connections that are older than the gate.
pub(super) const OLDER: &str = "SPA_KNOCK_OLDER";
/// Uses a grant for one connection up.
pub(super) const ONCE: &str = "SPA_KNOCK_ONCE";
/// All of ours.
pub(super) const CHAINS: [&str; 5] = [ENTRY, GATE, GRANTS, OLDER, ONCE];

/// Anything but the opening of a connection.
const NOT_SYN: &str = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN";

/// Who takes a grant away when its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// The kernel: grants are entries of sets.
    Sets,
    /// The daemon: grants are rules.
    Rules,
}

/// The tables that we have something in, and from which of their chains we are led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Filter,
    /// For published ports.
    Mangle,
    /// For forwards.
    Nat,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Filter, Self::Mangle, Self::Nat];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
        }
    }

    /// The rule that leads to us, without what is done with it; as `iptables-save` writes it.
    pub(super) fn jump(self) -> String {
        let chain = match self {
            Self::Filter => "INPUT",
            Self::Mangle | Self::Nat => "PREROUTING",
        };
        format!("{chain} -m comment --comment spa-knock -j {ENTRY}")
    }
}

/// All that is ours, one table after the other, each a transaction.
pub(super) fn load(
    family: Family,
    gate: &Gate,
    closing: Closing,
    live: &[Entry],
    present: &Present,
) -> String {
    let mut text = Text::default();
    text.gate(Table::Filter, family, gate, closing, live, present);
    if gate.published.is_empty() {
        text.remove(Table::Mangle, present);
    } else {
        text.gate(Table::Mangle, family, gate, closing, live, present);
    }
    text.forwards(family, closing, live, present);
    text.0
}

/// What changes of it with the grants.
pub(super) fn change(
    family: Family,
    gate: &Gate,
    closing: Closing,
    live: &[Entry],
    present: &Present,
) -> String {
    let mut text = Text::default();
    if closing == Closing::Rules {
        text.start(Table::Filter);
        text.grants(family, live);
        text.end();
        if !gate.published.is_empty() {
            text.start(Table::Mangle);
            text.grants(family, live);
            text.end();
        }
    }
    text.forwards(family, closing, live, present);
    text.0
}

/// Takes all of it away.
pub(super) fn remove(present: &Present) -> String {
    let mut text = Text::default();
    for table in Table::ALL {
        text.remove(table, present);
    }
    text.0
}

impl Text {
    fn start(&mut self, table: Table) {
        self.line(format_args!("*{}", table.name()));
    }

    fn end(&mut self) {
        self.line(format_args!("COMMIT"));
    }

    /// At the head, and once, wherever it stood before.
    fn lead_here(&mut self, table: Table, present: &Present) {
        let jump = table.jump();
        for _ in 0..present.jumps(table) {
            self.line(format_args!("-D {jump}"));
        }
        let (chain, rest) = jump.split_once(' ').unwrap_or_default();
        self.line(format_args!("-I {chain} 1 {rest}"));
    }

    fn gate(
        &mut self,
        table: Table,
        family: Family,
        gate: &Gate,
        closing: Closing,
        live: &[Entry],
        present: &Present,
    ) {
        self.start(table);
        for chain in CHAINS {
            // Made if it is not there, emptied if it is.
            self.line(format_args!(":{chain} - [0:0]"));
        }
        self.lead_here(table, present);
        if let (Some(port), Table::Filter) = (gate.silent_port, table) {
            // Before the loopback rule: our own host gets silence too.
            self.line(format_args!("-A {ENTRY} -p udp -m udp --dport {port} -j DROP"));
        }
        self.line(format_args!("-A {ENTRY} -i lo -j RETURN"));
        let (guarded, only) = match table {
            Table::Filter => (&gate.protect, ""),
            Table::Mangle | Table::Nat => (&gate.published, " -m addrtype --dst-type LOCAL"),
        };
        for ports in guarded {
            self.line(format_args!("-A {ENTRY} {}{only} -j {GATE}", to(*ports)));
        }
        self.passes(family, gate, closing);
        self.line(format_args!("-A {GATE} -g {GRANTS}"));
        self.grants(family, if closing == Closing::Rules { live } else { &[] });
        for connection in gate.older.iter().filter(|c| Family::of(c.remote.ip().into()) == family) {
            self.line(format_args!(
                "-A {OLDER} -s {} -p tcp -m tcp --sport {} --dport {} -j RETURN",
                connection.remote.ip(),
                connection.remote.port(),
                connection.local.port()
            ));
        }
        self.line(format_args!("-A {OLDER} -j DROP"));
        self.end();
    }

    /// What passes the gate besides grants that are rules.
    fn passes(&mut self, family: Family, gate: &Gate, closing: Closing) {
        self.line(format_args!("-A {GATE} -m conntrack --ctstate ESTABLISHED -j RETURN"));
        if closing == Closing::Rules {
            return;
        }
        let name = |set| sets::name(set, family);
        if matches!(gate.enforcing, Enforcing::For(_)) {
            self.line(format_args!("-A {GATE} -m set ! --match-set {} src -j RETURN", name("trial")));
        }
        for set in ["single", "span"] {
            self.line(format_args!("-A {GATE} -m set --match-set {} src,dst -j RETURN", name(set)));
        }
        let once = name("once");
        self.line(format_args!(
            "-A {GATE} -m conntrack --ctstate NEW -m set --match-set {once} src,dst -g {ONCE}"
        ));
        self.line(format_args!("-A {ONCE} -j SET --del-set {once} src,dst"));
        if gate.failsafe.is_some() {
            let (alive, spared) = (name("alive"), name("spared"));
            self.line(format_args!(
                "-A {GATE} -m set ! --match-set {alive} src -m set --match-set {spared} src -j RETURN"
            ));
        }
    }

    /// The chain of grants, written anew as a whole.
    fn grants(&mut self, family: Family, live: &[Entry]) {
        // An error if it is not there any more.
        self.line(format_args!("-F {GRANTS}"));
        let open =
            |entry: &&Entry| entry.family() == family && matches!(entry.kind, Kind::Single | Kind::Span);
        for entry in live.iter().filter(open) {
            let (ports, comment) = (to(entry.ports), &entry.comment);
            self.line(format_args!(
                "-A {GRANTS} -s {} {ports} -m comment --comment \"{comment}\" -j RETURN",
                entry.from
            ));
        }
        self.line(format_args!("-A {GRANTS} {NOT_SYN} -g {OLDER}"));
        self.line(format_args!("-A {GRANTS} -j DROP"));
    }

    /// The table of forwards, written anew as a whole.
    fn forwards(&mut self, family: Family, closing: Closing, live: &[Entry], present: &Present) {
        let forward = |entry: &Entry| match entry.kind {
            Kind::Forward(to) if entry.family() == family => Some((entry.clone(), to)),
            _ => None,
        };
        // Of two for the same packets the one that ends last comes first.
        let all: Vec<_> = live.iter().rev().filter_map(forward).collect();
        if all.is_empty() {
            self.remove(Table::Nat, present);
            return;
        }
        self.start(Table::Nat);
        self.line(format_args!(":{ENTRY} - [0:0]"));
        self.lead_here(Table::Nat, present);
        let while_it_lasts = match closing {
            Closing::Sets => format!(" -m set --match-set {} src,dst", sets::name("forward", family)),
            Closing::Rules => String::new(),
        };
        for (entry, target) in all {
            self.line(format_args!(
                "-A {ENTRY} -s {} {} -m addrtype --dst-type LOCAL{while_it_lasts} -m comment --comment \"{}\" -j {}",
                entry.from,
                to(entry.ports),
                entry.comment,
                leading_to(target)
            ));
        }
        self.end();
    }

    fn remove(&mut self, table: Table, present: &Present) {
        let (jumps, chains) = (present.jumps(table), present.chains(table));
        if jumps == 0 && chains.is_empty() {
            return;
        }
        self.start(table);
        for _ in 0..jumps {
            self.line(format_args!("-D {}", table.jump()));
        }
        for (command, chain) in ["-F", "-X"].iter().flat_map(|c| chains.iter().map(move |chain| (c, chain))) {
            self.line(format_args!("{command} {chain}"));
        }
        self.end();
    }
}

fn to(ports: Ports) -> String {
    let protocol = ports.protocol().as_str();
    format!("-p {protocol} -m {protocol} --dport {}", ports.numbers(':'))
}

fn leading_to(target: SocketAddr) -> String {
    if target.ip().is_unspecified() {
        format!("REDIRECT --to-ports {}", target.port())
    } else {
        format!("DNAT --to-destination {target}")
    }
}
