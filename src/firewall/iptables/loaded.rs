//! Finds and removes our chains and sets, with any of the iptables programs that a host may have.

use super::installed::InstalledRules;
use super::{program, rules};
use crate::firewall::FirewallError;
use crate::os::host;

/// Programs that print all tables, and those that change them. Both implementations of iptables may have rules at the
/// same time.
const PROGRAMS: [(&str, &str); 6] = [
    ("iptables-save", "iptables-restore"),
    ("ip6tables-save", "ip6tables-restore"),
    ("iptables-nft-save", "iptables-nft-restore"),
    ("ip6tables-nft-save", "ip6tables-nft-restore"),
    ("iptables-legacy-save", "iptables-legacy-restore"),
    ("ip6tables-legacy-save", "ip6tables-legacy-restore"),
];
/// Prefix of the names of our sets.
pub(super) const SETS: &str = "spa_knock_";

/// Whether any chain of ours, or a rule that jumps to one, exists.
pub(super) fn is_loaded() -> Result<bool, FirewallError> {
    for (save, _) in programs() {
        if !present(save)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Our installed rules. A host that uses the other implementation may have the nft programs without what they need.
pub(super) fn present(save: &str) -> Result<InstalledRules, FirewallError> {
    match program::present_with(save) {
        Err(FirewallError::Other(_)) if save.contains("-nft-") => Ok(InstalledRules::default()),
        shown => shown,
    }
}

/// Removes all our chains and the sets that they used.
pub(super) fn remove_all() -> Result<(), FirewallError> {
    for (save, restore) in programs() {
        let present = present(save)?;
        program::restore_with(restore, &rules::remove(&present))?;
    }
    if host::program("ipset").is_none() {
        return Ok(());
    }
    // A set that another program's rule uses is kept; without our chains it closes nothing.
    let names = program::ipset(&["list", "-n"]).unwrap_or_default();
    for name in names.lines().filter(|name| name.starts_with(SETS)) {
        if let Err(error) = program::ipset(&["destroy", name]) {
            log::warn!("{error}");
        }
    }
    Ok(())
}

/// The programs that this host has, without legacy ones if their tables are unused, because running those would load
/// kernel modules.
pub(super) fn programs() -> impl Iterator<Item = (&'static str, &'static str)> {
    let legacy = host::has_legacy_tables();
    let wanted = move |save: &str| legacy || !save.contains("legacy");
    PROGRAMS.into_iter().filter(move |(save, _)| wanted(save) && host::program(save).is_some())
}
