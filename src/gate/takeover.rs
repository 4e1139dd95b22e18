//! Gates that another backend loaded, or that should not exist: after a change of `backend`, only one gate remains.

use crate::config::BackendKind;
use crate::console::own_command;
use crate::firewall::{GateKind, LoadedGates};

/// The kind of gate that a backend loads.
pub(crate) const fn kind_of(backend: BackendKind) -> Option<GateKind> {
    match backend {
        BackendKind::Nftables => Some(GateKind::Nftables),
        BackendKind::Iptables => Some(GateKind::Iptables),
        BackendKind::None => None,
    }
}

/// The gates in the kernel that do not belong to `backend`.
pub(crate) fn other_gates(backend: BackendKind) -> Vec<GateKind> {
    let own = kind_of(backend);
    LoadedGates::find().kinds.into_iter().filter(|kind| Some(*kind) != own).collect()
}

/// Removes all gates, because the gate is off; returns messages about it.
pub(crate) fn remove_all_gates() -> Vec<String> {
    let report = |kind: GateKind| match kind.remove() {
        Ok(()) => format!("firewall: the gate is off; removed the remaining {kind}"),
        Err(error) => format!("firewall: the gate is off, but the {kind} still keeps ports closed: {error}"),
    };
    LoadedGates::find().kinds.into_iter().map(report).collect()
}

/// Removes the gates of other backends, once the gate of `backend` is loaded; returns messages about it. Backend "none"
/// keeps them: removing them would open ports that nothing closes again.
pub(crate) fn remove_other_gates(backend: BackendKind) -> Vec<String> {
    let report = |kind: GateKind| {
        if backend == BackendKind::None {
            return format!(
                "firewall: backend \"none\" opens no ports, but the gate of an earlier backend keeps some closed: {kind}\n\
                 hint: to remove it: {}",
                own_command("gate off")
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
