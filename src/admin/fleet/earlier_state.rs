//! What the state directory has of a fleet that this server was a member of before: what it saw of its store, the serials and
//! revoked keys of its clients, and their files. In another fleet it would make the member refuse everything. In the same
//! one, it recognizes what the store has forgotten.

use std::path::{Path, PathBuf};

use crate::config::{fleet_client_folders, fleet_folder};
use crate::console::{AdminError, counted, notice, print_error};
use crate::fleet::ipc;
use crate::fleet::mark_file;
use crate::os::files::{self, FileMode};
use spa_knock_core::crypto::{Secret, checksum};

/// Which fleet the directory is of.
const FILE: &str = "id";
/// Where the directory is until the command has succeeded.
const ASIDE: &str = "fleet.removed";

/// The fleet that a server becomes a member of.
pub(super) struct NewFleet<'a> {
    pub(super) secret: &'a Secret,
    pub(super) cluster: u64,
    /// Whether it can have been this server's fleet before.
    pub(super) is_joined: bool,
}

/// The directory of the new fleet, and that of the earlier one, if there was one. Unless it is made to persist, all is as it
/// was before.
pub(super) struct NewState {
    folder: PathBuf,
    aside: Option<PathBuf>,
    clients: usize,
    is_undone: bool,
}

impl NewState {
    /// Sets aside what is of another fleet, and creates the directory of the new one.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub(super) fn create(state_dir: &Path, fleet: &NewFleet<'_>) -> Result<Self, AdminError> {
        let folder = fleet_folder(state_dir);
        let id = format!("{}\n", id_of(fleet.secret));
        let mut state = Self { folder, aside: None, clients: 0, is_undone: false };
        if fleet.is_joined && is_same(state_dir, &state.folder.join(FILE), &id, fleet.cluster) {
            return Ok(state);
        }
        if files::exists(&state.folder) {
            let [definitions, _] = fleet_client_folders(state_dir);
            state.clients = files::list(&definitions).map_or(0, |found| found.len());
            let aside = state_dir.join(ASIDE);
            // Left by a command that was killed after it had succeeded, or before: then it is of a fleet before that.
            if files::exists(&aside) {
                files::remove_folder(&aside)?;
            }
            files::rename(&state.folder, &aside)?;
            state.aside = Some(aside);
        }
        state.is_undone = true;
        files::create_folder(&state.folder, FileMode::Private)?;
        files::replace(&state.folder.join(FILE), FileMode::Private, id.as_bytes())?;
        Ok(state)
    }

    /// Removes what was set aside, and reports it.
    pub(super) fn persist(mut self) {
        self.is_undone = false;
        let Some(aside) = self.aside.take() else { return };
        match files::remove_folder(&aside) {
            Ok(()) => notice(format_args!(
                "removed: {} of an earlier fleet, with {}",
                self.folder.display(),
                counted(self.clients, "client")
            )),
            Err(error) => notice(format_args!(
                "warning: {error}\nhint: it is of an earlier fleet and contains secrets: rm -r {}",
                aside.display()
            )),
        }
    }
}

impl Drop for NewState {
    fn drop(&mut self) {
        if !self.is_undone {
            return;
        }
        let removed = if files::exists(&self.folder) { files::remove_folder(&self.folder) } else { Ok(()) };
        let restored = removed.and_then(|()| match &self.aside {
            Some(aside) => files::rename(aside, &self.folder),
            None => Ok(()),
        });
        if let Err(error) = restored {
            let aside = self.aside.as_deref().unwrap_or(&self.folder);
            print_error(format_args!(
                "{error}\nhint: {} is in {}; move it back",
                self.folder.display(),
                aside.display()
            ));
        }
    }
}

/// Whether the directory is of this fleet, and of the store that it has now.
fn is_same(state_dir: &Path, file: &Path, id: &str, cluster: u64) -> bool {
    files::read_text(file).is_ok_and(|found| found == id)
        && mark_file::read(state_dir).is_ok_and(|mark| mark.is_some_and(|mark| mark.cluster_id() == cluster))
}

/// A new fleet of the same name has another key.
fn id_of(secret: &Secret) -> String {
    ipc::hex(&checksum(&[b"spa-knock/1 fleet id\0", secret.expose()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spa_knock_fleet::rollback::StoreMark;

    const CLUSTER: u64 = 0xab;

    fn secret(byte: u8) -> Secret {
        Secret::from_bytes(&[byte; 32])
    }

    fn create(state_dir: &Path, secret: &Secret, cluster: u64, is_joined: bool) -> NewState {
        NewState::create(state_dir, &NewFleet { secret, cluster, is_joined }).ok().unwrap()
    }

    /// The state directory of a member of the fleet with the key 1.
    fn member() -> (tempfile::TempDir, PathBuf) {
        let state = tempfile::tempdir().unwrap();
        create(state.path(), &secret(1), CLUSTER, true).persist();
        mark_file::write(state.path(), &StoreMark::of_cluster(CLUSTER)).unwrap();
        let serials = fleet_folder(state.path()).join("serials");
        files::replace(&serials, FileMode::Private, b"x").unwrap();
        (state, serials)
    }

    #[test]
    fn only_the_state_of_the_same_fleet_in_the_same_store_is_kept_and_only_by_join() {
        for (key, cluster, is_joined, is_kept) in [
            (1, CLUSTER, true, true),
            (2, CLUSTER, true, false),
            (1, 0xac, true, false),
            (1, CLUSTER, false, false),
        ] {
            let (state, serials) = member();
            create(state.path(), &secret(key), cluster, is_joined).persist();
            assert_eq!(files::exists(&serials), is_kept, "{key} {cluster} {is_joined}");
            assert!(!files::exists(&state.path().join(ASIDE)));
            let id = files::read_text(&fleet_folder(state.path()).join(FILE)).unwrap();
            assert_eq!(id.trim(), id_of(&secret(key)));
        }
    }

    #[test]
    fn a_command_that_fails_leaves_the_state_as_it_was() {
        let (state, serials) = member();
        let new = create(state.path(), &secret(2), CLUSTER, true);
        assert!(!files::exists(&serials));
        drop(new);
        assert!(files::exists(&serials) && !files::exists(&state.path().join(ASIDE)));
        create(state.path(), &secret(1), CLUSTER, true).persist();
        assert!(files::exists(&serials), "the fleet is still known");

        let empty = tempfile::tempdir().unwrap();
        drop(create(empty.path(), &secret(1), CLUSTER, false));
        assert_eq!(files::list(empty.path()).unwrap(), Vec::<PathBuf>::new());
    }
}
