//! What is loaded of ours with any of the programs that a host may have for it, and its removal.

use super::installed::InstalledRules;
use super::{program, rules};
use crate::firewall::FirewallError;
use crate::os::host;

/// What shows all tables, and what changes them. Both implementations of iptables may have rules at the same time.
const PROGRAMS: [(&str, &str); 6] = [
    ("iptables-save", "iptables-restore"),
    ("ip6tables-save", "ip6tables-restore"),
    ("iptables-nft-save", "iptables-nft-restore"),
    ("ip6tables-nft-save", "ip6tables-nft-restore"),
    ("iptables-legacy-save", "iptables-legacy-restore"),
    ("ip6tables-legacy-save", "ip6tables-legacy-restore"),
];
/// The beginning of the names of our sets.
pub(super) const SETS: &str = "spa_knock_";

/// Whether any chain of ours, or a rule that leads to one, is there.
pub(super) fn is_loaded() -> Result<bool, FirewallError> {
    for (save, _) in programs() {
        if !present(save)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A host that is set up for the other implementation may have this one's programs without what they need.
pub(super) fn present(save: &str) -> Result<InstalledRules, FirewallError> {
    match program::present_with(save) {
        Err(FirewallError::Other(_)) if save.contains("-nft-") => Ok(InstalledRules::default()),
        shown => shown,
    }
}

/// Removes them all, and the sets that they used.
pub(super) fn remove_all() -> Result<(), FirewallError> {
    for (save, restore) in programs() {
        let present = present(save)?;
        program::restore_with(restore, &rules::remove(&present))?;
    }
    if host::program("ipset").is_none() {
        return Ok(());
    }
    // Without chains they close nothing: one that another rule uses is left.
    let names = program::ipset(&["list", "-n"]).unwrap_or_default();
    for name in names.lines().filter(|name| name.starts_with(SETS)) {
        if let Err(error) = program::ipset(&["destroy", name]) {
            log::warn!("{error}");
        }
    }
    Ok(())
}

/// Those that this host has. The legacy ones would load kernel modules where no rule can be.
pub(super) fn programs() -> impl Iterator<Item = (&'static str, &'static str)> {
    let legacy = host::has_legacy_tables();
    let wanted = move |save: &str| legacy || !save.contains("legacy");
    PROGRAMS.into_iter().filter(move |(save, _)| wanted(save) && host::program(save).is_some())
}
