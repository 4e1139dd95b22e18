//! Runs nft, and turns its failures into firewall errors.

use std::time::Duration;

use crate::firewall::{EarlyDrop, FirewallError, GateSpec};
use crate::os::process::capabilities::{self, Capability};
use crate::os::process::spawn::{self, RunError};

/// How long nft may run before it is killed.
const NFT_MAX: Duration = Duration::from_secs(10);

/// Loads the gate; without its early drop or its filter for hints if the kernel or nft refuses only that. Returns whether
/// hints are filtered.
pub(super) fn load(gate: &GateSpec, text: impl Fn(&GateSpec) -> String) -> Result<bool, FirewallError> {
    let filters = gate.hinted_port.is_some();
    let Err(error) = submit(&text(gate)) else { return Ok(filters) };
    if !matches!(error, FirewallError::Other(_)) {
        return Err(error);
    }
    // Kernels before 5.10 and some devices have no such hook, and an interface may be missing.
    if let EarlyDrop::Ingress(interfaces) = &gate.early
        && submit(&text(&GateSpec { early: EarlyDrop::Prerouting, ..gate.clone() })).is_ok()
    {
        log::warn!("no early drop on {}: {error}", interfaces.join(", "));
        return Ok(filters);
    }
    if !filters {
        return Err(error);
    }
    // An old nft has no sets of such values. Without the filter, the watcher drops what the kernel would.
    let open = GateSpec { hinted_port: None, early: EarlyDrop::None, ..gate.clone() };
    submit(&text(&open)).map_err(|_| error.clone())?;
    log::warn!("no hint filter: {error}; all datagrams to the knock port reach the watcher");
    Ok(false)
}

pub(super) fn submit(text: &str) -> Result<(), FirewallError> {
    match nft(&["-f", "-"], text) {
        Ok(_) => Ok(()),
        Err(RunError::NotFound(_)) => Err(FirewallError::NoProgram),
        Err(RunError::Failed { output, .. }) if output.contains("Operation not permitted") => {
            Err(FirewallError::NotAllowed)
        }
        Err(error) => Err(FirewallError::Other(error.to_string())),
    }
}

pub(super) fn nft(args: &[&str], input: &str) -> Result<String, RunError> {
    capabilities::with_ambient(&[Capability::NET_ADMIN], || spawn::run_to_end("nft", args, input, NFT_MAX))
}
