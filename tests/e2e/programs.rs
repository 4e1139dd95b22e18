//! The watcher programs: where the daemon finds them, which ones it refuses to run, and what happens when the files are
//! upgraded while the daemon runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::net::{CLIENT4, Daemon, Lab, SERVER4, SOON, Site, ask, ask_patiently, limited, open_ssh, within};

/// The programs in the layout of a package, in a temporary folder.
struct Installation(TempDir);

impl Installation {
    fn new() -> Self {
        let new = Self(tempfile::tempdir().unwrap());
        let built = Path::new(Daemon::PROGRAM).parent().unwrap();
        fs::create_dir_all(new.0.path().join("sbin")).unwrap();
        fs::create_dir_all(new.0.path().join("libexec/spa-knock")).unwrap();
        fs::copy(Daemon::PROGRAM, new.daemon()).unwrap();
        fs::copy(built.join("spa-knock-watcher"), new.watcher()).unwrap();
        new
    }

    fn daemon(&self) -> PathBuf {
        self.0.path().join("sbin/spa-knockd")
    }

    fn watcher(&self) -> PathBuf {
        self.0.path().join("libexec/spa-knock/spa-knock-watcher")
    }

    fn command(&self, site: &Site) -> Command {
        let mut command = Command::new(self.daemon());
        command.args(Daemon::arguments(site));
        command
    }

    /// The content of the watcher program, changed into another version.
    fn of_another_version(&self) -> Vec<u8> {
        let mut bytes = fs::read(self.watcher()).unwrap();
        let (ours, theirs) = (b", messages 1", b", messages 9");
        let places: Vec<usize> = bytes
            .windows(ours.len())
            .enumerate()
            .filter_map(|(at, window)| (window == ours).then_some(at))
            .collect();
        assert!(!places.is_empty(), "the program contains the version");
        for at in places {
            bytes[at..at + theirs.len()].copy_from_slice(theirs);
        }
        bytes
    }
}

#[test]
fn an_upgrade_of_the_files_while_the_daemon_runs_does_not_mix_versions() {
    let Some(lab) = Lab::new() else { return };
    let (site, installation) = (Site::new("", &open_ssh(30)), Installation::new());
    lab.server.echo(22);
    let daemon = Daemon::start_command(&lab.server, installation.command(&site));
    let first = daemon.watcher().expect("the daemon has a watcher");
    // As dpkg does, replace the file by renaming a new one.
    let new = installation.watcher().with_extension("new");
    fs::write(&new, installation.of_another_version()).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, installation.watcher()).unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.log().contains("watching again")), "{}", daemon.log());
    assert!(!daemon.log().contains("has version"), "{}", daemon.log());
    let second = daemon.watcher().expect("another watcher");
    let program = fs::read_link(format!("/proc/{second}/exe")).unwrap();
    assert!(
        program.to_string_lossy().ends_with(" (deleted)"),
        "the watcher runs the old program: {}",
        program.display()
    );
    assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22));
    drop(daemon);
    // A daemon of the old version refuses the new watcher with a hint.
    let mut daemon = Daemon::launch(&lab.server, installation.command(&site));
    assert!(within(SOON, || daemon.has_exited()), "{}", daemon.log());
    let log = daemon.log();
    assert!(
        log.contains("messages 9, but this daemon has version") && log.contains("hint: install all"),
        "{log}"
    );
}

#[test]
fn a_watcher_program_that_is_missing_or_writable_by_others_is_refused_with_a_hint() {
    let Some(lab) = Lab::new() else { return };
    let (site, installation) = (Site::new("", &open_ssh(2)), Installation::new());
    let refused = |reason: &str, hint: &str| {
        let mut daemon = Daemon::launch(&lab.server, installation.command(&site));
        assert!(within(SOON, || daemon.has_exited()), "{}", daemon.log());
        let log = daemon.log();
        assert!(!daemon.exit_status().unwrap().success());
        assert!(log.contains(reason) && log.contains(hint), "{log}");
        let check = Command::new(installation.daemon())
            .arg("check")
            .args(&Daemon::arguments(&site)[1..])
            .output()
            .unwrap();
        let found = String::from_utf8(check.stdout).unwrap();
        assert!(!check.status.success() && found.contains(reason) && found.contains(hint), "{found}");
    };
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let folder = installation.watcher().parent().unwrap().to_owned();
    mode(&installation.watcher(), 0o775);
    refused("spa-knock-watcher: mode 0775 allows others to change it", "hint: chmod go-w ");
    mode(&installation.watcher(), 0o755);
    mode(&folder, 0o777);
    refused("libexec/spa-knock: mode 0777 allows others to change it", "hint: chmod go-w ");
    mode(&folder, 0o755);
    fs::rename(installation.watcher(), folder.join("elsewhere")).unwrap();
    refused("spa-knock-watcher: neither in ", "hint: install it together with spa-knockd");
    fs::rename(folder.join("elsewhere"), installation.watcher()).unwrap();
    let daemon = Daemon::start_command(&lab.server, installation.command(&site));
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some(), "{}", daemon.log());
}

#[test]
fn programs_in_a_folder_of_another_user_are_found_by_a_daemon_that_drops_privileges() {
    let Some(lab) = Lab::new() else { return };
    let (site, installation) = (Site::new("", &open_ssh(2)), Installation::new());
    // As `cargo install` creates them with the umask 002, in a home folder that no other user can read.
    let folder = installation.0.path().join("sbin");
    fs::rename(installation.watcher(), folder.join("spa-knock-watcher")).unwrap();
    let own =
        Command::new("chown").args(["-R", "nobody:nogroup"]).arg(installation.0.path()).status().unwrap();
    assert!(own.success());
    for (path, mode) in
        [(installation.daemon(), 0o775), (folder.join("spa-knock-watcher"), 0o775), (folder, 0o700)]
    {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let daemon = Daemon::start_command(&lab.server, installation.command(&site));
    kill(daemon.watcher().unwrap(), Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.log().contains("watching again")), "{}", daemon.log());
    assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
}

#[test]
fn a_watcher_that_is_run_by_hand_prints_which_program_starts_it() {
    for name in ["spa-knock-watcher", "spa-knock-legacy-watcher", "spa-knock-fwknop-watcher"] {
        let program = Path::new(Daemon::PROGRAM).with_file_name(name);
        for args in [&["--help"][..], &[]] {
            let output = limited(program.to_str().unwrap()).args(args).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains("must be started by spa-knockd"), "{text}");
        }
    }
}
