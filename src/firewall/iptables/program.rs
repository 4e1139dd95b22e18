//! Runs iptables and ipset, and says in the firewall's words why they did not do it.

use std::time::Duration;

use super::family::IpVersion;
use super::installed::InstalledRules;
use crate::firewall::FirewallError;
use crate::os::host::Capability;
use crate::os::process::capabilities;
use crate::os::process::spawn::{self, RunError};

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long iptables waits for another one to let go of the tables, in seconds; less than `LIMIT`, and
/// what `FirewallError::Locked` says.
const LOCK_WAIT: &str = "5";

/// What is there of ours.
pub(super) fn present(family: IpVersion) -> Result<InstalledRules, FirewallError> {
    present_with(family.save())
}

/// The same, as this program shows it.
pub(super) fn present_with(save: &str) -> Result<InstalledRules, FirewallError> {
    run(save, &[], "").map(|text| InstalledRules::read(&text))
}

/// Changes tables, each in one transaction.
pub(super) fn restore(family: IpVersion, text: &str) -> Result<(), FirewallError> {
    restore_with(family.restore(), text)
}

/// The same with this program.
pub(super) fn restore_with(program: &str, text: &str) -> Result<(), FirewallError> {
    if text.is_empty() {
        return Ok(());
    }
    run(program, &["-w", LOCK_WAIT, "--noflush"], text).map(drop)
}

/// Lets the kernel load what these tables need. Whether that works is seen when they are used.
pub(super) fn prime(family: IpVersion, tables: &[&str]) {
    for table in tables {
        if let Err(error) = run(family.program(), &["-w", LOCK_WAIT, "-t", table, "-S"], "") {
            log::warn!("{error}");
        }
    }
}

/// Changes sets; what is there already, or not there, is no error.
pub(super) fn ipset_restore(text: &str) -> Result<(), FirewallError> {
    if text.is_empty() {
        return Ok(());
    }
    run("ipset", &["-exist", "restore"], text).map(drop)
}

/// ipset with these words.
pub(super) fn ipset(words: &[&str]) -> Result<String, FirewallError> {
    run("ipset", words, "")
}

fn run(program: &str, words: &[&str], input: &str) -> Result<String, FirewallError> {
    let run = || spawn::run_to_end(program, words, input, LIMIT);
    // The match `set` and the older iptables talk to the kernel over a raw socket.
    capabilities::with_ambient(&[Capability::NetAdmin, Capability::NetRaw], run)
        .map_err(|error| describe(program, error))
}

fn describe(program: &str, error: RunError) -> FirewallError {
    let said = match error {
        RunError::NotFound(_) => {
            let package = if program == "ipset" { "ipset" } else { "iptables" };
            return FirewallError::Other(format!("{program} not found\nhint: apt install {package}"));
        }
        other => other.to_string(),
    };
    if said.contains("Can't lock") || said.contains("xtables lock") {
        FirewallError::Locked
    } else if said.contains("Permission denied") || said.contains("Operation not permitted") {
        FirewallError::NotAllowed
    } else if said.contains("set is full") {
        FirewallError::Full
    } else {
        FirewallError::Other(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_said_is_told_in_our_words() {
        let io = |said: &str| RunError::Io("iptables-restore".to_owned(), said.to_owned());
        for (said, told) in [
            ("Can't lock /run/xtables.lock: Resource temporarily unavailable", "has held the lock"),
            ("Fatal: can't open lock file /run/xtables.lock: Permission denied", "not allowed"),
            ("Error in line 1: Hash is full, cannot add more elements: set is full", "set of grants is full"),
            ("line 3 failed", "line 3 failed"),
        ] {
            let text = describe("iptables-restore", io(said)).to_string();
            assert!(text.contains(told), "{said}: {text}");
        }
        let missing = describe("ip6tables-save", RunError::NotFound("ip6tables-save".to_owned()));
        assert_eq!(missing.to_string(), "firewall: ip6tables-save not found\nhint: apt install iptables");
    }
}
