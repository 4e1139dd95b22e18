//! The names of our chains, and the tables of iptables that they are in.

/// Where packets come from to us.
pub(super) const ENTRY: &str = "SPA_KNOCK";
/// What only a grant passes.
pub(super) const GATE: &str = "SPA_KNOCK_GATE";
/// Its grants, where they are rules; the gate ends here.
pub(super) const GRANTS: &str = "SPA_KNOCK_GRANTS";
/// Connections that are older than the gate.
pub(super) const ESTABLISHED: &str = "SPA_KNOCK_ESTABLISHED";
/// Uses a grant for one connection up.
pub(super) const ONCE: &str = "SPA_KNOCK_ONCE";
/// Sets the mark, in mode `mark`.
pub(super) const MARKED: &str = "SPA_KNOCK_MARKED";
/// All of ours.
pub(super) const CHAINS: [&str; 6] = [ENTRY, GATE, GRANTS, ESTABLISHED, ONCE, MARKED];

/// The tables that we have something in, and from which of their chains we are led to.
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

    /// The rule that leads to us, without what is done with it; as `iptables-save` writes it.
    pub(super) fn jump(self) -> String {
        let chain = match self {
            Self::Filter => "INPUT",
            Self::Mangle | Self::Nat => "PREROUTING",
        };
        format!("{chain} -m comment --comment spa-knock -j {ENTRY}")
    }
}
