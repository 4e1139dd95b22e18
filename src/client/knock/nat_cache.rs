//! Cache of addresses behind NAT, confirmed by grants: the address that the server sees, for a local outgoing address.
//! If the file is lost, only one more knock is necessary, so no failure here is an error.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::plan::Learning;
use super::request::KnockRequest;
use crate::os::files::{self, FileError, FileMode};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::canonical;

/// Held while a file is replaced: threads that knock at several addresses use the same file if they use the same key.
static STORING: Mutex<()> = Mutex::new(());

/// The addresses learned with one key at one server.
pub(in crate::client) struct NatCache {
    path: Option<PathBuf>,
}

impl NatCache {
    /// The cache for a request with the key `fingerprint`. Addresses that the user has confirmed, for signed knocks, are
    /// apart from those that were learned from replies alone.
    pub(in crate::client) fn of(request: &KnockRequest, fingerprint: Fingerprint) -> Self {
        let kind = match request.learning {
            Learning::FromReply => "addresses",
            Learning::WithConsent | Learning::Never => "confirmed",
        };
        Self::new(request.state.as_deref(), fingerprint, kind)
    }

    /// The cache of this kind for the key `fingerprint` in `folder`; without a folder nothing is saved.
    fn new(folder: Option<&Path>, fingerprint: Fingerprint, kind: &str) -> Self {
        Self { path: folder.map(|folder| folder.join(format!("{fingerprint}.{kind}"))) }
    }

    /// The address that the server saw last, if the local address was `own` then.
    pub(in crate::client) fn lookup(&self, own: IpAddr) -> Option<IpAddr> {
        self.pairs().into_iter().find(|&(then, _)| then == own).map(|(_, seen)| seen)
    }

    /// Saves an address that a grant has confirmed; replaces the last one of the same family as `own`.
    pub(in crate::client) fn store(&self, own: IpAddr, seen: IpAddr) -> Result<(), FileError> {
        let Some(path) = &self.path else { return Ok(()) };
        let _storing = STORING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from("# local address, address that the server saw\n");
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

    /// Why the cache is not used, if others can write to it: they could enter an address that they knock from.
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
    fn a_learned_address_is_used_while_the_local_one_is_unchanged() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("state");
        let learned = NatCache::new(Some(&folder), Fingerprint::from_bytes([1; 8]), "addresses");
        assert_eq!(learned.lookup(ip("10.0.0.5")), None);
        learned.store(ip("10.0.0.5"), ip("203.0.113.9")).unwrap();
        learned.store(ip("fd00::5"), ip("2001:db8::9")).unwrap();
        assert_eq!(learned.lookup(ip("10.0.0.5")), Some(ip("203.0.113.9")));
        assert_eq!(learned.lookup(ip("fd00::5")), Some(ip("2001:db8::9")));
        assert_eq!(learned.lookup(ip("10.0.0.6")), None);

        learned.store(ip("10.0.0.6"), ip("203.0.113.10")).unwrap();
        assert_eq!(learned.lookup(ip("10.0.0.5")), None, "only the last one is kept");
        assert_eq!(learned.lookup(ip("fd00::5")), Some(ip("2001:db8::9")));
        let other = NatCache::new(Some(&folder), Fingerprint::from_bytes([2; 8]), "addresses");
        assert_eq!(other.lookup(ip("10.0.0.6")), None);
    }

    #[test]
    fn threads_that_store_simultaneously_lose_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let learned = NatCache::new(Some(scratch.path()), Fingerprint::from_bytes([1; 8]), "addresses");
        for _ in 0..50 {
            std::thread::scope(|scope| {
                for (own, seen) in [("10.0.0.5", "203.0.113.9"), ("fd00::5", "2001:db8::9")] {
                    let learned = &learned;
                    scope.spawn(move || learned.store(ip(own), ip(seen)).unwrap());
                }
            });
            assert_eq!(learned.lookup(ip("10.0.0.5")), Some(ip("203.0.113.9")));
            assert_eq!(learned.lookup(ip("fd00::5")), Some(ip("2001:db8::9")));
            files::remove(learned.path.as_ref().unwrap()).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_cache_that_others_can_change_is_not_used_and_is_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let learned = NatCache::new(Some(scratch.path()), Fingerprint::from_bytes([1; 8]), "addresses");
        learned.store(ip("10.0.0.5"), ip("203.0.113.9")).unwrap();
        assert!(learned.problem().is_none());
        let path = learned.path.clone().unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test")]
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o622)).unwrap();
        assert_eq!(learned.lookup(ip("10.0.0.5")), None);
        assert_eq!(learned.problem().unwrap().reason, "mode 0622 allows others to change it");
        learned.store(ip("10.0.0.5"), ip("203.0.113.10")).unwrap();
        assert_eq!(learned.lookup(ip("10.0.0.5")), Some(ip("203.0.113.10")));
    }

    #[test]
    fn a_damaged_or_missing_cache_is_empty() {
        let scratch = tempfile::tempdir().unwrap();
        let fingerprint = Fingerprint::from_bytes([1; 8]);
        let path = scratch.path().join(format!("{fingerprint}.addresses"));
        files::create_new(&path, FileMode::Private, b"10.0.0.5\n10.0.0.5 x\n10.0.0.5 0.0.0.0\n\xff").unwrap();
        assert_eq!(
            NatCache::new(Some(scratch.path()), fingerprint, "addresses").lookup(ip("10.0.0.5")),
            None
        );
        let nowhere = NatCache::new(None, fingerprint, "addresses");
        assert!(nowhere.store(ip("10.0.0.5"), ip("203.0.113.9")).is_ok());
        assert_eq!(nowhere.lookup(ip("10.0.0.5")), None);
    }
}
