//! Runs nft, and reports in the firewall's words why it has failed.

use std::time::Duration;

use crate::firewall::{FirewallError, GateSpec};
use crate::os::host::Capability;
use crate::os::process::capabilities;
use crate::os::process::spawn::{self, RunError};

/// How long loading may take before it counts as failed.
const NFT_MAX: Duration = Duration::from_secs(10);

/// Loads the gate, without its early drop if that is what the kernel does not take.
pub(super) fn load(gate: &GateSpec, text: impl Fn(&GateSpec) -> String) -> Result<(), FirewallError> {
    let Err(error) = submit(&text(gate)) else { return Ok(()) };
    if gate.early.is_empty() || !matches!(error, FirewallError::Other(_)) {
        return Err(error);
    }
    // Kernels before 5.10 and some devices have no such hook, and an interface may be missing. It only saves work:
    // the input chain drops too.
    let late = GateSpec { early: Vec::new(), ..gate.clone() };
    submit(&text(&late)).map_err(|_| error.clone())?;
    log::warn!("no early drop on {}: {error}", gate.early.join(", "));
    Ok(())
}

pub(super) fn submit(text: &str) -> Result<(), FirewallError> {
    match nft(&["-f", "-"], text) {
        Ok(_) => Ok(()),
        Err(RunError::NotFound(_)) => Err(FirewallError::NoProgram),
        Err(RunError::Failed { said, .. }) if said.contains("Operation not permitted") => {
            Err(FirewallError::NotAllowed)
        }
        Err(error) => Err(FirewallError::Other(error.to_string())),
    }
}

pub(super) fn nft(args: &[&str], input: &str) -> Result<String, RunError> {
    capabilities::with_ambient(&[Capability::NetAdmin], || spawn::run_to_end("nft", args, input, NFT_MAX))
}
