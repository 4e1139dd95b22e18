//! The names of our chains and of the iptables tables that contain them.

/// The chain that packets enter first.
pub(super) const ENTRY: &str = "SPA_KNOCK";
/// The gate, which packets pass only with a grant.
pub(super) const GATE: &str = "SPA_KNOCK_GATE";
/// The grants, where they are rules; the gate ends here.
pub(super) const GRANTS: &str = "SPA_KNOCK_GRANTS";
/// Connections that are older than the gate.
pub(super) const ESTABLISHED: &str = "SPA_KNOCK_ESTABLISHED";
/// Consumes a grant for one connection.
pub(super) const ONCE: &str = "SPA_KNOCK_ONCE";
/// Sets the mark, in mode `mark`.
pub(super) const MARKED: &str = "SPA_KNOCK_MARKED";
/// Marks packets that this host routes, in mode `mark`.
pub(super) const ROUTES: &str = "SPA_KNOCK_ROUTES";
/// Translates source addresses, in the table nat.
pub(super) const SOURCE: &str = "SPA_KNOCK_SOURCE";
/// All our chains.
pub(super) const CHAINS: [&str; 8] = [ENTRY, GATE, GRANTS, ESTABLISHED, ONCE, MARKED, ROUTES, SOURCE];

/// The tables that contain our chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IptablesTable {
    Filter,
    /// For published ports.
    Mangle,
    /// For forwards.
    Nat,
}

impl IptablesTable {
    pub(super) const ALL: [Self; 3] = [Self::Filter, Self::Mangle, Self::Nat];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
        }
    }

    /// The rules that jump to our chains, without their commands, as `iptables-save` prints them.
    pub(super) fn jumps(self) -> Vec<String> {
        let jumps: &[(&str, &str)] = match self {
            Self::Filter => &[("INPUT", ENTRY)],
            Self::Mangle => &[("PREROUTING", ENTRY)],
            Self::Nat => &[("PREROUTING", ENTRY), ("POSTROUTING", SOURCE)],
        };
        let rule = |(from, to): &(&str, &str)| format!("{from} -m comment --comment spa-knock -j {to}");
        jumps.iter().map(rule).collect()
    }
}
