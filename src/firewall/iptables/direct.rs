//! Reads the chains and sets in the kernel and changes them by name, for commands while no daemon is running.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::family::IpVersion;
use super::grant_file::GrantFile;
use super::names::GRANTS;
use super::{Iptables, loaded, program, sets};
use crate::firewall::{ActiveGrant, FirewallError};
use crate::os::clock;
use crate::os::files::FileError;
use spa_knock_core::auth::Grant;
use spa_knock_core::knock::{ClientName, PortRange};

impl Iptables {
    /// The ports that only a grant opens, read from the kernel's rules.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn closed_ports() -> Result<Vec<PortRange>, FirewallError> {
        let mut closed: Vec<PortRange> = Vec::new();
        for (save, _) in loaded::programs() {
            let present = loaded::present(save)?;
            for ports in present.guarded().filter_map(ports) {
                if !closed.contains(&ports) {
                    closed.push(ports);
                }
            }
        }
        Ok(closed)
    }

    /// Opens these ports for an address for a time, without a daemon.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn grant_unconfirmed(
        address: IpAddr,
        ports: &[PortRange],
        time: Duration,
        comment: &str,
    ) -> Result<(), FirewallError> {
        let family = IpVersion::of(address.into());
        let set = sets::name("single", family);
        let names = program::ipset(&["list", "-n"]).unwrap_or_default();
        if !names.lines().any(|name| name == set) {
            let rule = |ports: &PortRange| {
                let (program, protocol) = (family.program(), ports.protocol().as_str());
                let spec = format!("-s {address} -p {protocol} --dport {} -j RETURN", ports.numbers(':'));
                format!("{program} -I {GRANTS} 1 {spec}")
            };
            let rules: Vec<String> = ports.iter().map(rule).collect();
            return Err(FirewallError::Other(format!(
                "without ipset, nothing would close the ports again while no daemon is running\n\
                 hint: this command opens them, and with -D instead of -I and without the 1 closes them: {}",
                rules.join("; ")
            )));
        }
        let seconds = time.as_secs().max(1);
        let line = |ports: &PortRange| {
            let key = format!("{address},{}:{}", ports.protocol().as_str(), ports.numbers('-'));
            format!("add {set} {key} timeout {seconds} comment \"{comment}\"\n")
        };
        program::ipset_restore(&ports.iter().map(line).collect::<String>())
    }

    /// Closes the grants that carry this client's name in the kernel, and returns their number.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn close_client(client: &ClientName) -> Result<usize, FirewallError> {
        let names = program::ipset(&["list", "-n"]).unwrap_or_default();
        let has_sets = names.lines().any(|name| name.starts_with(loaded::SETS));
        let saved = if has_sets { program::ipset(&["save"])? } else { String::new() };
        let entries: Vec<(&str, &str)> = saved.lines().filter_map(|line| entry(line, client)).collect();
        // Entries that have expired since are skipped.
        program::ipset_restore(
            &entries.iter().map(|(set, key)| format!("del {set} {key}\n")).collect::<String>(),
        )?;
        let mut count = entries.len();
        for (save, restore) in loaded::programs() {
            let present = loaded::present(save)?;
            let rules = present.by_client(client);
            let text: String =
                rules.iter().map(|(table, rule)| format!("*{table}\n-D {rule}\nCOMMIT\n")).collect();
            program::restore_with(restore, &text)?;
            count = count.saturating_add(rules.len());
        }
        Ok(count)
    }

    /// Writes grants that were made without a daemon into the grant file, for the next daemon.
    ///
    /// # Errors
    /// When the grant file cannot be written.
    pub fn remember(state: &Path, grants: &[Grant]) -> Result<(), FileError> {
        let file = GrantFile::of(state);
        let mut table = file.read();
        table.note(grants, clock::boot());
        file.write(&table, clock::boot())
    }

    /// Removes this client's grants from the grant file, so that no later start restores them. Call it before
    /// [`Self::close_client`], while no daemon is running.
    ///
    /// # Errors
    /// When the grant file cannot be written.
    pub fn forget(state: &Path, client: &ClientName) -> Result<(), FileError> {
        let (file, now) = (GrantFile::of(state), clock::boot());
        let mut table = file.read();
        let is_its_own = |live: &ActiveGrant| live.client == *client;
        if !table.live(now).iter().any(is_its_own) {
            return Ok(());
        }
        table.remove(&is_its_own, now);
        file.write(&table, now)
    }
}

/// Parses the ports of `-A SPA_KNOCK -p tcp -m tcp --dport 22 …`, as `iptables-save` prints it.
fn ports(rule: &str) -> Option<PortRange> {
    let after = |option: &str| {
        let mut args = rule.split(' ').skip_while(move |arg| *arg != option);
        args.nth(1)
    };
    format!("{}/{}", after("-p")?, after("--dport")?.replace(':', "-")).parse().ok()
}

/// Parses set and key of `add SET KEY timeout 9 comment "CLIENT ACTION"`, as `ipset save` prints it, if it is this
/// client's.
fn entry<'l>(line: &'l str, client: &ClientName) -> Option<(&'l str, &'l str)> {
    let (set, rest) = line.strip_prefix("add ")?.split_once(' ')?;
    let (key, rest) = rest.split_once(' ')?;
    let is_ours = set.starts_with(loaded::SETS);
    (is_ours && rest.contains(&format!("comment \"{client} "))).then_some((set, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_of_a_client_are_found_by_their_comments() {
        let client: ClientName = "evil".parse().unwrap();
        for (line, found) in [
            (
                "add spa_knock_single4 10.0.0.1,tcp:22 timeout 25 comment \"evil open-ssh\"",
                Some(("spa_knock_single4", "10.0.0.1,tcp:22")),
            ),
            ("add spa_knock_single4 10.0.0.1,tcp:22 timeout 25 comment \"evil2 open-ssh\"", None),
            ("add other 10.0.0.1,tcp:22 timeout 25 comment \"evil open-ssh\"", None),
            ("create spa_knock_single4 hash:ip,port family inet timeout 0 comment", None),
        ] {
            assert_eq!(entry(line, &client), found, "{line}");
        }
    }

    #[test]
    fn the_ports_of_a_rule_are_parsed() {
        let read = |rule| ports(rule).map(|ports| ports.to_string());
        assert_eq!(read("SPA_KNOCK -p tcp -m tcp --dport 22 -j SPA_KNOCK_GATE").as_deref(), Some("tcp/22"));
        let range = "SPA_KNOCK -p udp -m udp --dport 80:90 -m addrtype --dst-type LOCAL -j SPA_KNOCK_GATE";
        assert_eq!(read(range).as_deref(), Some("udp/80-90"));
        assert_eq!(read("SPA_KNOCK -i lo -j RETURN"), None);
    }
}
