//! Config, key and state files are refused if another user could have written them or if they are not regular files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::net::{CLIENT4, Daemon, Lab, Namespace, SERVER4, SOON, Site, limited, open_ssh, within};

/// The user `nobody`.
const NOBODY: u32 = 65_534;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a daemon that must fail to start, and returns its messages.
fn refused(namespace: &Namespace, site: &Site) -> String {
    let mut command = limited(Daemon::PROGRAM);
    let start = Instant::now();
    let output = namespace.output(command.args(Daemon::arguments(site)));
    assert!(!output.status.success());
    assert!(start.elapsed() < Duration::from_secs(8), "the daemon does not hang");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether our nftables table exists.
fn is_closed(namespace: &Namespace) -> bool {
    namespace.try_nft("list table inet spa_knock").is_some()
}

#[test]
fn a_state_folder_that_others_can_write_stops_the_start_with_the_gate_closed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    drop(Daemon::start(&lab.server, &site));
    lab.server.nft("delete table inet spa_knock");
    let state = site.path("state");
    let undo = state.join("undo");
    fs::create_dir_all(&undo).unwrap();
    let foreign = undo.join("7");
    fs::write(&foreign, "x").unwrap();
    for (path, mode, owner, message) in [
        (&state, 0o777, 0, "mode 0777 allows others to change it"),
        (&state, 0o700, NOBODY, "belongs to user 65534"),
        (&undo, 0o777, 0, "mode 0777 allows others to change it"),
        (&foreign, 0o600, NOBODY, "belongs to user 65534"),
        (&foreign, 0o666, 0, "mode 0666 allows others to change it"),
    ] {
        chmod(path, mode);
        chown(path, Some(owner), None).unwrap();
        let stderr = refused(&lab.server, &site);
        assert!(stderr.contains(message) && stderr.contains(path.to_str().unwrap()), "{message}: {stderr}");
        assert!(stderr.contains("\nhint: ch"), "{stderr}");
        assert!(is_closed(&lab.server), "{message}");
        lab.server.nft("delete table inet spa_knock");
        chmod(path, if path.is_dir() { 0o700 } else { 0o600 });
        chown(path, Some(0), None).unwrap();
    }
    // A file `gate` that belongs to another user does not turn the gate off.
    fs::remove_file(&foreign).unwrap();
    fs::write(state.join("gate"), "off\n").unwrap();
    chown(state.join("gate"), Some(NOBODY), None).unwrap();
    refused(&lab.server, &site);
    assert!(is_closed(&lab.server));
    fs::remove_file(state.join("gate")).unwrap();
    let _daemon = Daemon::start(&lab.server, &site);
}

#[test]
fn an_undo_file_cannot_run_a_command_that_is_not_in_the_config() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", "");
    let output_file = site.path("made");
    let rest = format!(
        "[firewall]\nbackend = \"none\"\n[action.lamp]\nrun = [\"/bin/true\"]\nfor = \"1h\"\n\
         undo = [\"/bin/sh\", \"-c\", \"echo $0 >>{}\", \"{{address}}\"]\n\
         [client.laptop]\nkey = \"laptop.key\"\nallow = [\"lamp\"]\n",
        output_file.display()
    );
    site.write_config("", &rest);
    let mut daemon = Daemon::start(&lab.server, &site);
    let output = lab.client.output(&mut site.knock(SERVER4, &["lamp"]));
    assert!(output.status.success(), "{output:?}");
    daemon.kill9();
    // As an attacker with access to the folder would write it: due now, with another command.
    let file = site.path("state/undo/1");
    let text = fs::read_to_string(&file).unwrap();
    let (_, json) = text.trim_end().split_once(' ').unwrap();
    let mut entry: Value = serde_json::from_str(json).unwrap();
    entry["due"] = 0.into();
    entry["due_wall"] = 0.into();
    let write = |entry: &Value| {
        let json = entry.to_string();
        let sum = spa_knock_core::crypto::checksum(&[json.as_bytes()]);
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(&file, format!("{sum} {json}\n")).unwrap();
    };
    let mut bad = entry.clone();
    bad["argv"][2] = format!("echo pwned >>{}", output_file.display()).into();
    write(&bad);
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(within(SOON, || site.audit_of("failed").len() == 1), "{:?}", site.audit());
    assert!(daemon.log().contains("not run: no action in this config generates it"), "{}", daemon.log());
    assert!(file.exists() && !output_file.exists(), "the undo file is kept, but not run");
    let check = site.admin(&["check"]).output().unwrap();
    assert!(String::from_utf8_lossy(&check.stdout).contains("not run: no action creates it"), "{check:?}");
    assert!(daemon.terminate().success());
    // A complete file under its temporary name, as after a power cut: its action may have begun.
    write(&entry);
    fs::rename(&file, file.with_extension("new")).unwrap();
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(
        within(SOON, || fs::read_to_string(&output_file).is_ok_and(|text| text == format!("{CLIENT4}\n")))
    );
    assert!(within(SOON, || fs::read_dir(site.path("state/undo")).unwrap().count() == 0));
}

#[test]
fn a_config_below_a_folder_of_another_user_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let outer = Site::new("", &open_ssh(5));
    // A folder of root below a folder of `nobody`.
    let [foreign, own] = ["foreign", "foreign/own"].map(|name| outer.path(name));
    fs::create_dir_all(&own).unwrap();
    fs::copy(outer.path("spa-knockd.toml"), own.join("spa-knockd.toml")).unwrap();
    chown(&foreign, Some(NOBODY), None).unwrap();
    let mut command = limited(Daemon::PROGRAM);
    command.arg("run").arg("-c").arg(own.join("spa-knockd.toml"));
    let output = lab.server.output(&mut command);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(stderr.contains("foreign: belongs to user 65534"), "{stderr}");
    // A key file in that folder.
    fs::copy(outer.key_path("laptop"), own.join("laptop.key")).unwrap();
    chmod(&own.join("laptop.key"), 0o600);
    let rest = open_ssh(5).replace("laptop.key", own.join("laptop.key").to_str().unwrap());
    outer.write_config("", &rest);
    let stderr = refused(&lab.server, &outer);
    assert!(stderr.contains("key file") && stderr.contains("belongs to user 65534"), "{stderr}");
}

#[test]
fn a_fifo_instead_of_a_file_is_refused_and_blocks_neither_a_start_nor_a_reload() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let clients = site.path("clients.d");
    fs::create_dir(&clients).unwrap();
    let doors = site.path("knockd.conf");
    let with_legacy = format!("{}\n[legacy]\nknockd = \"{}\"\n", open_ssh(5), doors.display());
    for (path, rest) in [
        (site.path("spa-knockd.toml"), open_ssh(5)),
        (clients.join("x.toml"), open_ssh(5)),
        (site.key_path("laptop"), open_ssh(5)),
        (doors.clone(), with_legacy),
    ] {
        site.write_config("", &rest);
        fs::write(&doors, "").unwrap();
        let daemon = (path != doors).then(|| Daemon::start(&lab.server, &site));
        let before = fs::read(&path).ok();
        let _ = fs::remove_file(&path);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        if let Some(mut daemon) = daemon {
            daemon.reload();
            assert!(within(SOON, || daemon.log().contains("not a regular file")), "{}", daemon.log());
            let output = lab.client.output(&mut knock(&site, &before, &path));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(daemon.terminate().success());
        }
        let stderr = refused(&lab.server, &site);
        assert!(stderr.contains("not a regular file"), "{stderr}");
        fs::remove_file(&path).unwrap();
        if let Some(before) = before {
            fs::write(&path, before).unwrap();
            chmod(&path, 0o600);
        }
    }
}

/// A knock; if the key file has been replaced, it uses a copy of the key.
fn knock(site: &Site, before: &Option<Vec<u8>>, path: &Path) -> Command {
    let key = if *path == site.key_path("laptop") {
        let copy = site.path("copy.key");
        fs::write(&copy, before.as_ref().unwrap()).unwrap();
        chmod(&copy, 0o600);
        copy
    } else {
        site.key_path("laptop")
    };
    let mut command = site.client();
    command.arg("--key").arg(key).arg(SERVER4.to_string()).arg("open-ssh");
    command
}

/// Makes `nobody` the owner of a whole folder.
fn give_to_nobody(folder: &Path) {
    chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => give_to_nobody(&entry.path()),
            false => chown(entry.path(), Some(NOBODY), Some(NOBODY)).unwrap(),
        }
    }
}

#[test]
fn root_can_administer_the_daemon_of_another_user_and_leaves_files_that_it_can_read() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    fs::create_dir(site.path("clients.d")).unwrap();
    chmod(&site.path("clients.d"), 0o700);
    give_to_nobody(site.folder());
    let run = |args: &[&str]| lab.server.output(&mut site.admin(args));
    let check = run(&["check"]);
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(!text.contains("not to user"), "{text}");
    assert!(text.contains("warning") && text.contains("a daemon that runs as root refuses it"), "{text}");
    // A hard link to a file of root does not change its owner.
    let (roots, lock) = (site.path("roots"), site.path("state/lock"));
    fs::write(&roots, "").unwrap();
    fs::hard_link(&roots, &lock).unwrap();
    assert!(run(&["gate", "on"]).status.success());
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&roots).unwrap()), 0);
    fs::remove_file(&lock).unwrap();
    let key = site.path("u7.key");
    for args in [
        vec!["client", "add", "u7", "--allow", "open-ssh", "-o", key.to_str().unwrap()],
        vec!["gate", "on"],
        vec!["gate", "off"],
    ] {
        let output = run(&args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let owner = |name: &str| {
        let metadata = fs::symlink_metadata(site.path(name)).unwrap();
        std::os::unix::fs::MetadataExt::uid(&metadata)
    };
    for name in ["clients.d/u7.toml", "keys/u7.key", "state/gate", "state/lock"] {
        assert_eq!(owner(name), NOBODY, "{name}");
    }
    // A daemon that runs as root refuses the config of another user.
    assert!(refused(&lab.server, &site).contains("belongs to user 65534"));
}
