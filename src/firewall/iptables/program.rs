//! Runs iptables and ipset, and turns their failures into firewall errors.

use std::time::Duration;

use super::family::IpVersion;
use super::installed::InstalledRules;
use crate::firewall::FirewallError;
use crate::os::process::capabilities::{self, Capability};
use crate::os::process::spawn::{self, RunError};

/// How long a program may run before it is killed.
const LIMIT: Duration = Duration::from_secs(10);
/// How long iptables waits for another program to release the lock, in seconds. Less than `LIMIT`, and stated by
/// `FirewallError::Locked`.
const LOCK_WAIT: &str = "5";

/// Our installed chains and rules.
pub(super) fn present(family: IpVersion) -> Result<InstalledRules, FirewallError> {
    present_with(family.save())
}

/// The same, as printed by this program.
pub(super) fn present_with(save: &str) -> Result<InstalledRules, FirewallError> {
    run(save, &[], "").map(|text| InstalledRules::read(&text))
}

/// Changes tables, each in one transaction.
pub(super) fn restore(family: IpVersion, text: &str) -> Result<(), FirewallError> {
    restore_with(family.restore(), text)
}

/// The same, with this program.
pub(super) fn restore_with(program: &str, text: &str) -> Result<(), FirewallError> {
    if text.is_empty() {
        return Ok(());
    }
    run(program, &["-w", LOCK_WAIT, "--noflush"], text).map(drop)
}

/// Makes the kernel load its modules for these tables. A failure is logged; it shows again when the tables are used.
pub(super) fn prime(family: IpVersion, tables: &[&str]) {
    for table in tables {
        if let Err(error) = run(family.program(), &["-w", LOCK_WAIT, "-t", table, "-S"], "") {
            log::warn!("{error}");
        }
    }
}

/// Changes sets. Adding an existing entry or removing a missing one is not an error.
pub(super) fn ipset_restore(text: &str) -> Result<(), FirewallError> {
    if text.is_empty() {
        return Ok(());
    }
    run("ipset", &["-exist", "restore"], text).map(drop)
}

/// Runs ipset with these arguments.
pub(super) fn ipset(args: &[&str]) -> Result<String, FirewallError> {
    run("ipset", args, "")
}

fn run(program: &str, args: &[&str], input: &str) -> Result<String, FirewallError> {
    let run = || spawn::run_to_end(program, args, input, LIMIT);
    // The match `set` and the legacy iptables use a raw socket.
    capabilities::with_ambient(&[Capability::NET_ADMIN, Capability::NET_RAW], run)
        .map_err(|error| describe(program, error))
}

fn describe(program: &str, error: RunError) -> FirewallError {
    let output = match error {
        RunError::NotFound(_) => {
            let package = if program == "ipset" { "ipset" } else { "iptables" };
            return FirewallError::Other(format!("{program} not found\nhint: apt install {package}"));
        }
        other => other.to_string(),
    };
    if output.contains("Can't lock") || output.contains("xtables lock") {
        FirewallError::Locked
    } else if output.contains("Permission denied") || output.contains("Operation not permitted") {
        FirewallError::NotAllowed
    } else if output.contains("set is full") {
        FirewallError::Full
    } else {
        FirewallError::Other(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_programs_become_firewall_errors() {
        let io = |output: &str| RunError::Io("iptables-restore".to_owned(), output.to_owned());
        for (output, expected) in [
            ("Can't lock /run/xtables.lock: Resource temporarily unavailable", "has held the lock"),
            ("Fatal: can't open lock file /run/xtables.lock: Permission denied", "not allowed"),
            ("Error in line 1: Hash is full, cannot add more elements: set is full", "grant set is full"),
            ("line 3 failed", "line 3 failed"),
        ] {
            let text = describe("iptables-restore", io(output)).to_string();
            assert!(text.contains(expected), "{output}: {text}");
        }
        let missing = describe("ip6tables-save", RunError::NotFound("ip6tables-save".to_owned()));
        assert_eq!(missing.to_string(), "firewall: ip6tables-save not found\nhint: apt install iptables");
    }
}
