//! Notices that the config or a key has changed. The process cannot read them again: it has dropped root by then.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::config::setup::Setup;
use crate::config::{CLIENTS_FOLDER, revoked_keys};
use crate::os::clock;
use spa_knock_core::knock::Steady;

/// One command changes several files; it is reported once.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Watches the files that were read at the start.
pub(super) struct ConfigChanges {
    inotify: Inotify,
    folders: Vec<(WatchDescriptor, PathBuf)>,
    files: BTreeSet<PathBuf>,
    /// Each `.toml` in it defines a client.
    clients: PathBuf,
    reported: Option<Steady>,
}

impl ConfigChanges {
    /// Watches the files of this setup. `None` if the kernel allows no more watches.
    pub(super) fn watch(setup: &Setup) -> Option<Self> {
        let config = &setup.config;
        let mut files = BTreeSet::from([setup.path.clone(), revoked_keys::path(&config.state_dir)]);
        for entry in config.clients.values() {
            files.insert(entry.key.clone());
            files.extend(entry.previous.as_ref().map(|previous| previous.key.clone()));
        }
        if let Some(access) = config.legacy.as_ref().and_then(|legacy| legacy.fwknop.as_ref()) {
            files.extend([access.clone(), access.with_file_name("fwknopd.conf")]);
        }
        let clients = setup.path.with_file_name(CLIENTS_FOLDER);
        // The first client creates the directory.
        files.insert(clients.clone());
        Self::of(files, clients)
    }

    fn of(files: BTreeSet<PathBuf>, clients: PathBuf) -> Option<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        let parents = files.iter().filter_map(|file| file.parent());
        let parents: BTreeSet<&Path> = parents.chain([clients.as_path()]).collect();
        // A directory that does not exist, such as the state directory before the first start, is not watched.
        let watch = |folder: &Path| {
            let opened = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            Some((inotify.add_watch(opened, changes).ok()?, folder.to_owned()))
        };
        let folders = parents.into_iter().filter_map(watch).collect();
        Some(Self { inotify, folders, files, clients, reported: None })
    }

    /// Whether a file has changed, unless a change was reported a moment ago.
    pub(super) fn is_report_due(&mut self) -> bool {
        let mut is_changed = false;
        while let Ok(events) = self.inotify.read_events() {
            is_changed |= events.iter().any(|event| self.is_about_config(event));
        }
        let now = clock::steady();
        let is_due = is_changed && self.reported.is_none_or(|last| now.since(last) >= REPORT_EVERY);
        if is_due {
            self.reported = Some(now);
        }
        is_due
    }

    fn is_about_config(&self, event: &InotifyEvent) -> bool {
        // Some events were lost.
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return true;
        }
        let folder = self.folders.iter().find(|(watch, _)| *watch == event.wd);
        let (Some((_, folder)), Some(name)) = (folder, &event.name) else { return false };
        let file = folder.join(name);
        let is_client = *folder == self.clients && file.extension().is_some_and(|end| end == "toml");
        is_client || self.files.contains(&file)
    }
}

impl AsFd for ConfigChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_of_a_config_file_is_reported_and_other_files_are_ignored() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let (config, clients) = (at("spa-knockd.toml"), at("clients.d"));
        fs::create_dir(&clients).unwrap();
        fs::write(&config, "a").unwrap();
        let files = BTreeSet::from([config.clone(), at("a.key"), at("state/revoked")]);
        let mut changes = ConfigChanges::of(files, clients.clone()).unwrap();
        let mut is_reported = || {
            changes.reported = None;
            changes.is_report_due()
        };
        assert!(!is_reported());
        fs::write(at("audit.jsonl"), "x").unwrap();
        fs::write(clients.join("phone.toml.tmp"), "x").unwrap();
        assert!(!is_reported(), "files that are not part of the config");
        fs::rename(clients.join("phone.toml.tmp"), clients.join("phone.toml")).unwrap();
        assert!(is_reported(), "a new client");
        assert!(!is_reported(), "each change is reported once");
        fs::write(&config, "b").unwrap();
        assert!(is_reported(), "the config");
        fs::write(at("a.key"), "b").unwrap();
        assert!(is_reported(), "a key");
        fs::remove_file(clients.join("phone.toml")).unwrap();
        assert!(is_reported(), "a removed client");
    }

    #[test]
    fn the_files_that_one_command_changes_are_reported_once() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("spa-knockd.toml");
        let mut changes = ConfigChanges::of([file.clone()].into(), scratch.path().join("clients.d")).unwrap();
        fs::write(&file, "a").unwrap();
        assert!(changes.is_report_due());
        fs::write(&file, "b").unwrap();
        assert!(!changes.is_report_due());
    }
}
