//! Tests of a real state directory: locks, what the administrator's commands read and change there, and the copy of the
//! last valid config.
#![allow(clippy::disallowed_methods, reason = "tests use artificial times")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::config::setup::Setup;
use crate::config::{self, ServerConfig};
use crate::os::clock;
use crate::os::files::{self, FileMode};
use crate::state::disk::{Disk, Folder};
use crate::state::{self, Leftover, ReplayFolder, StateError, last_good};
use spa_knock_core::auth::{ReplayDomain, ReplayMemory, UseCounts};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{ClientName, Now, Timestamp};

const WINDOW: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);
const KEY: Fingerprint = Fingerprint::from_bytes([7; 8]);

/// A config and its state directory.
struct Host {
    scratch: TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { scratch: tempfile::tempdir().unwrap() };
        host.write_config("");
        host
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("spa-knockd.toml")
    }

    /// With more values of the server, or more tables.
    fn write_config(&self, more: &str) {
        let action = "[action]\no = { open = ['tcp/22'], for = '30s' }\n";
        let state = self.state();
        let server = format!("[server]\nid = 'a'\nstate_dir = '{}'\n", state.display());
        let text = if more.starts_with('[') { server + action + more } else { server + more + action };
        files::replace(&self.path(), FileMode::Private, text.as_bytes()).unwrap();
    }

    fn config(&self) -> ServerConfig {
        config::load(&self.path()).unwrap()
    }

    /// What the next daemon remembers.
    fn memory(&self) -> ReplayMemory {
        state::open(&self.config()).unwrap().1
    }

    /// Leaves the state of a daemon that ran while the clock was ahead by this much.
    fn run_ahead(&self, ahead: Duration) {
        state::create(&self.state()).unwrap();
        let now = Now { wall: clock::wall().plus(ahead), ..clock::now() };
        let (state, _) = open(&self.state(), now);
        state.close().unwrap();
    }
}

fn open(folder: &Path, now: Now) -> (ReplayFolder, ReplayMemory) {
    ReplayFolder::open(Folder::new(folder), state::boot_id().unwrap(), now, WINDOW).unwrap()
}

fn is_new(memory: &ReplayMemory, timestamp: Timestamp) -> bool {
    memory.check(KEY, ReplayDomain::Datagrams, timestamp, &[9; 12]).is_ok()
}

fn counts(uses: &[(&str, u64)]) -> UseCounts {
    let mut counts = UseCounts::default();
    uses.iter().for_each(|(name, count)| counts.set(name.parse().unwrap(), *count));
    counts
}

#[test]
fn only_one_daemon_uses_a_state_directory() {
    let host = Host::new();
    let folder = host.state();
    assert!(!state::is_locked(&folder), "there is no directory yet");
    let lock = state::lock(&folder).unwrap();
    assert!(state::is_locked(&folder));
    assert!(state::try_lock(&folder).unwrap().is_none());
    let error =
        format!("state directory {}: in use by another spa-knockd\nhint: stop it first", folder.display());
    assert_eq!(state::lock(&folder).unwrap_err().text(), error);
    assert_eq!(state::reset(&host.path(), false).unwrap_err().text(), error);
    assert_eq!(state::take_over(&host.config()).unwrap_err().text(), error);
    drop(lock);
    assert!(!state::is_locked(&folder));
    assert!(state::try_lock(&folder).unwrap().is_some());
}

#[test]
fn a_knock_is_remembered_by_the_next_daemon_and_by_every_command() {
    let host = Host::new();
    state::create(&host.state()).unwrap();
    assert!(!state::has_run(&host.state()));
    let (mut state, mut memory) = state::open(&host.config()).unwrap();
    let wall = clock::wall().plus(Duration::from_secs(1));
    let accepted = memory.accept(KEY, ReplayDomain::Datagrams, wall, [1; 12], WINDOW).unwrap();
    state.record(&accepted).unwrap();
    drop(state);
    assert!(state::has_run(&host.state()));
    let boot = files::read_text(Path::new("/proc/sys/kernel/random/boot_id")).unwrap();
    let lease = files::read_text(&host.state().join("replay.lease")).unwrap();
    assert!(lease.contains(&format!("\nboot {boot}")), "a power loss is recognized by the id of the kernel");
    assert!(host.memory().knows(KEY, ReplayDomain::Datagrams, &[1; 12]));

    // Another host has accepted knocks up to the end of the window.
    let before = clock::wall();
    let floor = state::take_over(&host.config()).unwrap();
    assert!(floor >= before.plus(WINDOW));
    let memory = host.memory();
    assert!(!is_new(&memory, floor) && is_new(&memory, floor.plus(Duration::from_millis(1))));
    assert!(
        memory.check(KEY, ReplayDomain::Datagrams, wall, &[1; 12]).is_err(),
        "what it knew is below the floor"
    );
}

#[test]
fn a_reset_repairs_a_damaged_state_and_deletes_floors_only_on_request() {
    let host = Host::new();
    host.run_ahead(HOUR);
    files::replace(&host.state().join("replay.journal"), FileMode::Private, b"damaged").unwrap();
    let error = state::open(&host.config()).err().unwrap().to_string();
    assert!(error.starts_with(&format!("replay state {}/replay.journal: damaged\n", host.state().display())));
    let ahead = clock::wall().plus(HOUR);
    for (forget, is_kept) in [(false, true), (true, false)] {
        let before = clock::wall();
        state::reset(&host.path(), forget).unwrap();
        let floor = host.memory().highest_floor();
        assert!(floor >= before.plus(WINDOW), "{forget}");
        assert_eq!(floor > ahead, is_kept, "{forget}: the lease has a floor that is ahead");
    }
    host.write_config("window = 'x'\n");
    assert!(state::reset(&host.path(), false).is_err(), "the window is unknown");
}

#[test]
fn uses_are_forgotten_for_one_client_and_never_under_a_running_daemon() {
    let host = Host::new();
    let (laptop, phone): (ClientName, ClientName) = ("laptop".parse().unwrap(), "phone".parse().unwrap());
    let folder = host.state();
    assert!(state::uses(&folder).unwrap() == UseCounts::default(), "there is no file yet");
    state::create(&folder).unwrap();
    state::forget_uses(&folder, &laptop).unwrap();
    assert!(!files::exists(&folder.join("uses")), "there was nothing to forget");
    state::uses::record(&Folder::new(&folder), &counts(&[("laptop", 3), ("phone", 4)])).unwrap();
    let lock = state::lock(&folder).unwrap();
    state::forget_uses(&folder, &laptop).unwrap();
    assert!(
        state::uses(&folder).unwrap() == counts(&[("laptop", 3), ("phone", 4)]),
        "the daemon does so itself"
    );
    drop(lock);
    state::forget_uses(&folder, &laptop).unwrap();
    assert!(state::uses(&folder).unwrap() == counts(&[("phone", 4)]));

    files::replace(&folder.join("uses"), FileMode::Private, b"spa-knock uses 1\n").unwrap();
    let error = format!("use counts {}/uses: damaged\n", folder.display());
    for damaged in [
        state::uses(&folder).map(drop),
        state::forget_uses(&folder, &phone),
        state::open(&host.config()).map(drop),
    ] {
        assert!(damaged.unwrap_err().to_string().starts_with(&error));
    }
}

#[test]
fn an_examination_reports_what_a_start_would_and_changes_nothing() {
    let host = Host::new();
    let folder = host.state();
    let examined = || state::examine(&folder, WINDOW);
    let findings = examined().unwrap();
    assert_eq!((findings.damaged, findings.ahead), (vec![], None));
    assert!(!files::exists(&folder), "not created");

    host.run_ahead(HOUR);
    let list = files::list(&folder).unwrap();
    let ahead = examined().unwrap().ahead.unwrap();
    assert!(ahead.starts_with("replay state: some knocks are refused until "), "{ahead}");
    assert!(ahead.contains("state reset --forget"), "{ahead}");
    assert_eq!(files::list(&folder).unwrap(), list);

    assert_eq!(state::open_undo_queue(&host.config()).unwrap().1, [], "no tasks of an earlier daemon");
    let task = folder.join("undo/1");
    files::create_new(&task, FileMode::Private, b"damaged").unwrap();
    assert_eq!(examined().unwrap().damaged, std::slice::from_ref(&task));
    assert_eq!(state::waiting_undo_tasks(&folder).unwrap(), [], "none that can be read");
    let (undo_queue, left) = state::open_undo_queue(&host.config()).unwrap();
    assert_eq!((undo_queue.waiting(), left), (0, vec![Leftover::Damaged(task)]));

    // A directory in the place of a file cannot be read, which is not damage.
    for name in ["uses", "replay.lease", "replay.journal"] {
        let file = folder.join(name);
        files::remove(&file).unwrap();
        files::create_folder(&file, FileMode::Private).unwrap();
        let error = examined().err().unwrap();
        assert!(matches!(error, StateError::File(_)), "{error}");
        assert_eq!(error.to_string(), format!("replay state: {}: not a regular file", file.display()));
    }
}

#[test]
fn a_file_of_the_state_directory_is_written_in_place_and_truncated_and_has_space_for_its_next_version() {
    let host = Host::new();
    state::create(&host.state()).unwrap();
    let disk = Folder::new(&host.state());
    let file = disk.replace("f", b"0123456789").unwrap();
    disk.write_at(&file, b"ab", 3).unwrap();
    disk.cut(&file, 8).unwrap();
    disk.sync(&file).unwrap();
    assert_eq!(disk.read("f").unwrap().unwrap(), b"012ab567");
    assert_eq!(disk.read("none").unwrap(), None);
    disk.reserve("f", 5_000).unwrap();
    assert!(files::read_bytes(&host.state().join("f.new")).unwrap().len() >= 5_000);
}

#[cfg(feature = "fwknop")]
#[test]
fn only_the_first_start_of_another_protocol_accepts_messages_of_the_last_window() {
    let host = Host::new();
    state::create(&host.state()).unwrap();
    let start = clock::wall();
    let (mut state, memory) = state::open_in(&host.state(), WINDOW, HOUR).unwrap();
    let old = |ms| start.minus(WINDOW).plus(Duration::from_millis(ms));
    assert!(is_new(&memory, old(1)) && !is_new(&memory, old(0).minus(Duration::from_secs(2))));
    assert!(state.reaches(clock::wall().plus(HOUR)), "the lease begins now");
    state.close().unwrap();
    let (state, memory) = state::open_in(&host.state(), WINDOW, HOUR).unwrap();
    assert!(is_new(&memory, old(1)), "the same memory");
    drop(state);

    let before = clock::wall();
    let floor = state::reset_in(&host.state(), WINDOW, true).unwrap();
    assert!(floor >= before.plus(WINDOW) && floor <= clock::wall().plus(WINDOW));
    assert!(!is_new(&state::open_in(&host.state(), WINDOW, HOUR).unwrap().1, floor));
    let kept = state::reset_in(&host.state(), WINDOW, false).unwrap();
    assert!(kept >= before.plus(HOUR), "the lease of the last start");
}

#[test]
fn the_config_that_is_in_effect_is_saved_without_its_clients_and_only_a_trustworthy_copy_is_used() {
    let host = Host::new();
    let folder = host.state();
    state::create(&folder).unwrap();
    assert!(last_good::read(&folder).is_none(), "there is no copy yet");
    let setup = Setup::without_clients(&host.path(), host.config());
    last_good::remember(&setup).unwrap();
    let window = |folder: &Path| last_good::read(folder).map(|config| config.window);
    assert_eq!(window(&folder), Some(WINDOW));
    let text = files::read_text(&last_good::path(&folder)).unwrap();
    assert!(text.contains(&format!("# {}, as loaded by the daemon at ", host.path().display())), "{text}");

    // The file has changed, or has errors: it is not what is in effect.
    for more in ["window = '60s'\n", "window = 'x'\n"] {
        host.write_config(more);
        last_good::remember(&setup).unwrap();
        assert_eq!(files::read_text(&last_good::path(&folder)).unwrap(), text, "{more}");
    }
    host.write_config("window = '60s'\n");
    last_good::remember(&Setup::without_clients(&host.path(), host.config())).unwrap();
    assert_eq!(window(&folder), Some(Duration::from_secs(60)));

    host.write_config("[client.laptop]\nkey = 'laptop.key'\nallow = ['o']\n");
    assert_eq!(host.config().clients.len(), 1);
    last_good::remember(&setup).unwrap();
    assert_eq!(window(&folder), Some(WINDOW), "it differs in clients only");
    files::remove(&host.path()).unwrap();
    assert!(last_good::remember(&setup).is_err(), "the copy is kept");
    assert_eq!(window(&folder), Some(WINDOW));

    let chmod = |path: &Path, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (path, usual) in [(last_good::path(&folder), 0o600), (folder.clone(), 0o700)] {
        chmod(&path, 0o777);
        assert_eq!(window(&folder), None, "another user could decide what root does");
        chmod(&path, usual);
        assert_eq!(window(&folder), Some(WINDOW));
    }
}
