//! Addresses that a grant has confirmed, kept from knock to knock: under which the server sees us while our own
//! outgoing address is this. A lost file costs one more knock, no more; so nothing here is an error.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::os::files::{self, FileError, FileMode};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::canonical;

/// What was learnt with one key at one server.
pub(in crate::client) struct NatCache {
    path: Option<PathBuf>,
}

impl NatCache {
    /// The record of the key `fingerprint` in `folder`; without a folder nothing is kept.
    pub(in crate::client) fn new(folder: Option<&Path>, fingerprint: Fingerprint) -> Self {
        Self { path: folder.map(|folder| folder.join(format!("{fingerprint}.addresses"))) }
    }

    /// The address that the server saw last, if the own one was `own` then.
    pub(in crate::client) fn lookup(&self, own: IpAddr) -> Option<IpAddr> {
        self.pairs().into_iter().find(|&(then, _)| then == own).map(|(_, seen)| seen)
    }

    /// Keeps what a grant has confirmed, in place of the last one of the own address' family.
    pub(in crate::client) fn store(&self, own: IpAddr, seen: IpAddr) -> Result<(), FileError> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut text = String::from("# own address, address that the server saw\n");
        let others = self.pairs().into_iter().filter(|(then, _)| then.is_ipv4() != own.is_ipv4()).take(1);
        for (own, seen) in others.chain([(own, seen)]) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{own} {seen}");
        }
        if let Some(folder) = path.parent() {
            files::create_folder(folder, FileMode::Private)?;
        }
        files::replace(path, FileMode::Private, text.as_bytes())
    }

    /// Why the record is not used: others could have written into it an address that they knock from.
    pub(in crate::client) fn problem(&self) -> Option<FileError> {
        let error = files::read_own_text(self.path.as_ref()?).err()?;
        (!error.missing).then_some(error)
    }

    fn pairs(&self) -> Vec<(IpAddr, IpAddr)> {
        let text = self.path.as_ref().and_then(|path| files::read_own_text(path).ok()).unwrap_or_default();
        text.lines().filter_map(pair).collect()
    }
}

fn pair(line: &str) -> Option<(IpAddr, IpAddr)> {
    let (own, seen) = line.split_once(' ')?;
    let (own, seen): (IpAddr, IpAddr) = (own.parse().ok()?, seen.parse().ok()?);
    (!seen.is_unspecified()).then_some((canonical(own), canonical(seen)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_good_while_the_own_one_is_unchanged() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("state");
        let learnt = NatCache::new(Some(&folder), Fingerprint::from_bytes([1; 8]));
        assert_eq!(learnt.lookup(ip("10.0.0.5")), None);
        learnt.store(ip("10.0.0.5"), ip("203.0.113.9")).unwrap();
        learnt.store(ip("fd00::5"), ip("2001:db8::9")).unwrap();
        assert_eq!(learnt.lookup(ip("10.0.0.5")), Some(ip("203.0.113.9")));
        assert_eq!(learnt.lookup(ip("fd00::5")), Some(ip("2001:db8::9")));
        assert_eq!(learnt.lookup(ip("10.0.0.6")), None);

        learnt.store(ip("10.0.0.6"), ip("203.0.113.10")).unwrap();
        assert_eq!(learnt.lookup(ip("10.0.0.5")), None, "only the last one is kept");
        assert_eq!(learnt.lookup(ip("fd00::5")), Some(ip("2001:db8::9")));
        let other = NatCache::new(Some(&folder), Fingerprint::from_bytes([2; 8]));
        assert_eq!(other.lookup(ip("10.0.0.6")), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_record_that_others_can_change_is_not_used_and_is_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let learnt = NatCache::new(Some(scratch.path()), Fingerprint::from_bytes([1; 8]));
        learnt.store(ip("10.0.0.5"), ip("203.0.113.9")).unwrap();
        assert!(learnt.problem().is_none());
        let path = learnt.path.clone().unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test")]
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o622)).unwrap();
        assert_eq!(learnt.lookup(ip("10.0.0.5")), None);
        assert_eq!(learnt.problem().unwrap().reason, "mode 0622 lets others change it");
        learnt.store(ip("10.0.0.5"), ip("203.0.113.10")).unwrap();
        assert_eq!(learnt.lookup(ip("10.0.0.5")), Some(ip("203.0.113.10")));
    }

    #[test]
    fn a_damaged_record_and_no_folder_are_as_if_nothing_were_learnt() {
        let scratch = tempfile::tempdir().unwrap();
        let fingerprint = Fingerprint::from_bytes([1; 8]);
        let path = scratch.path().join(format!("{fingerprint}.addresses"));
        files::create_new(&path, FileMode::Private, b"10.0.0.5\n10.0.0.5 x\n10.0.0.5 0.0.0.0\n\xff").unwrap();
        assert_eq!(NatCache::new(Some(scratch.path()), fingerprint).lookup(ip("10.0.0.5")), None);
        let nowhere = NatCache::new(None, fingerprint);
        assert!(nowhere.store(ip("10.0.0.5"), ip("203.0.113.9")).is_ok());
        assert_eq!(nowhere.lookup(ip("10.0.0.5")), None);
    }
}
