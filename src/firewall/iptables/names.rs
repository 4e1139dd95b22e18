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
/// All our chains.
pub(super) const CHAINS: [&str; 6] = [ENTRY, GATE, GRANTS, ESTABLISHED, ONCE, MARKED];

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

    /// The rule that jumps to our chains, without its command, as `iptables-save` prints it.
    pub(super) fn jump(self) -> String {
        let chain = match self {
            Self::Filter => "INPUT",
            Self::Mangle | Self::Nat => "PREROUTING",
        };
        format!("{chain} -m comment --comment spa-knock -j {ENTRY}")
    }
}
