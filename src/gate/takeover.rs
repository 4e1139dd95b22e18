//! A gate that another backend loaded, or that should not be there: whoever changes `backend` finds one gate afterwards.

use crate::config::BackendKind;
use crate::firewall::{GateKind, LoadedGates};

/// The kind of gate that a backend loads.
pub(crate) const fn kind_of(backend: BackendKind) -> Option<GateKind> {
    match backend {
        BackendKind::Nftables => Some(GateKind::Nftables),
        BackendKind::Iptables => Some(GateKind::Iptables),
        BackendKind::None => None,
    }
}

/// The gates in the kernel that `backend` does not look after.
pub(crate) fn other_gates(backend: BackendKind) -> Vec<GateKind> {
    let own = kind_of(backend);
    LoadedGates::find().kinds.into_iter().filter(|kind| Some(*kind) != own).collect()
}

/// The same for a gate that is off, which must not be there at all.
pub(crate) fn remove_all_gates() -> Vec<String> {
    let report = |kind: GateKind| match kind.remove() {
        Ok(()) => format!("firewall: the gate is off; removed what was left of it: {kind}"),
        Err(error) => format!("firewall: the gate is off, but this keeps ports closed: {kind}: {error}"),
    };
    LoadedGates::find().kinds.into_iter().map(report).collect()
}

/// Removes them, once the gate of `backend` is loaded; returns what there is to report. Backend "none" leaves them: it
/// would open ports that nothing closes again.
pub(crate) fn remove_other_gates(backend: BackendKind) -> Vec<String> {
    let report = |kind: GateKind| {
        if backend == BackendKind::None {
            return format!(
                "firewall: backend \"none\" opens no port, but the gate of an earlier one keeps some closed: {kind}\n\
                 hint: spa-knockd gate off removes it"
            );
        }
        match kind.remove() {
            Ok(()) => format!("firewall: removed the gate of the other backend: {kind}"),
            Err(error) => format!(
                "firewall: the gate of the other backend keeps ports closed and cannot be removed: {kind}: {error}\n\
                 hint: {}",
                kind.remedy()
            ),
        }
    };
    other_gates(backend).into_iter().map(report).collect()
}
