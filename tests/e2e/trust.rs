//! Files that another user could have written, or that are no files, are refused: config, keys, state.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::net::{CLIENT4, Daemon, Lab, Namespace, SERVER4, Site, limited, open_ssh, within};

const SOON: Duration = Duration::from_secs(5);
/// The user `nobody`.
const NOBODY: u32 = 65_534;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// How a daemon that does not start ends, and what it says.
fn refused(namespace: &Namespace, site: &Site) -> String {
    let mut command = limited(Daemon::PROGRAM);
    let begun = Instant::now();
    let output = namespace.output(command.args(Daemon::words(site)));
    assert!(!output.status.success());
    assert!(begun.elapsed() < Duration::from_secs(8), "it hangs");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `nft` knows of our table.
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
    for (path, mode, owner, says) in [
        (&state, 0o777, 0, "mode 0777 lets others change it"),
        (&state, 0o700, NOBODY, "belongs to user 65534"),
        (&undo, 0o777, 0, "mode 0777 lets others change it"),
        (&foreign, 0o600, NOBODY, "belongs to user 65534"),
        (&foreign, 0o666, 0, "mode 0666 lets others change it"),
    ] {
        chmod(path, mode);
        chown(path, Some(owner), None).unwrap();
        let said = refused(&lab.server, &site);
        assert!(said.contains(says) && said.contains(path.to_str().unwrap()), "{says}: {said}");
        assert!(said.contains("\nhint: ch"), "{said}");
        assert!(is_closed(&lab.server), "{says}");
        lab.server.nft("delete table inet spa_knock");
        chmod(path, if path.is_dir() { 0o700 } else { 0o600 });
        chown(path, Some(0), None).unwrap();
    }
    // A gate that another user has turned off stays closed.
    fs::remove_file(&foreign).unwrap();
    fs::write(state.join("gate"), "off\n").unwrap();
    chown(state.join("gate"), Some(NOBODY), None).unwrap();
    refused(&lab.server, &site);
    assert!(is_closed(&lab.server));
    fs::remove_file(state.join("gate")).unwrap();
    let _daemon = Daemon::start(&lab.server, &site);
}

#[test]
fn a_file_that_tells_what_to_undo_runs_nothing_that_the_config_does_not_make() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", "");
    let made = site.path("made");
    let rest = format!(
        "[firewall]\nbackend = \"none\"\n[action.lamp]\nrun = [\"/bin/true\"]\nfor = \"1h\"\n\
         undo = [\"/bin/sh\", \"-c\", \"echo $0 >>{}\", \"{{address}}\"]\n\
         [client.laptop]\nkey = \"laptop.key\"\nallow = [\"lamp\"]\n",
        made.display()
    );
    site.write_config("", &rest);
    let mut daemon = Daemon::start(&lab.server, &site);
    let output = lab.client.output(&mut site.knock(SERVER4, &["lamp"]));
    assert!(output.status.success(), "{output:?}");
    daemon.kill9();
    // As whoever gets at the folder would write it: due now, with another command.
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
    bad["argv"][2] = format!("echo pwned >>{}", made.display()).into();
    write(&bad);
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(within(SOON, || site.audit_of("failed").len() == 1), "{:?}", site.audit());
    assert!(daemon.log().contains("not run: no action of this config makes it"), "{}", daemon.log());
    assert!(file.exists() && !made.exists(), "kept, and not run");
    let check = site.admin(&["check"]).output().unwrap();
    assert!(String::from_utf8_lossy(&check.stdout).contains("not run: no action makes it"), "{check:?}");
    assert!(daemon.terminate().success());
    // A whole file whose name a power cut has taken back, as its action may have begun.
    write(&entry);
    fs::rename(&file, file.with_extension("new")).unwrap();
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(within(SOON, || fs::read_to_string(&made).is_ok_and(|text| text == format!("{CLIENT4}\n"))));
    assert!(within(SOON, || fs::read_dir(site.path("state/undo")).unwrap().count() == 0));
}

#[test]
fn a_config_below_a_folder_of_another_user_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let outer = Site::new("", &open_ssh(5));
    // Two folders deeper, of root, below one of nobody.
    let [foreign, own] = ["foreign", "foreign/own"].map(|name| outer.path(name));
    fs::create_dir_all(&own).unwrap();
    fs::copy(outer.path("spa-knockd.toml"), own.join("spa-knockd.toml")).unwrap();
    chown(&foreign, Some(NOBODY), None).unwrap();
    let mut command = limited(Daemon::PROGRAM);
    command.arg("run").arg("-c").arg(own.join("spa-knockd.toml"));
    let output = lab.server.output(&mut command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("foreign: belongs to user 65534"), "{said}");
    // A key there.
    fs::copy(outer.key_path("laptop"), own.join("laptop.key")).unwrap();
    chmod(&own.join("laptop.key"), 0o600);
    let rest = open_ssh(5).replace("laptop.key", own.join("laptop.key").to_str().unwrap());
    outer.write_config("", &rest);
    let said = refused(&lab.server, &outer);
    assert!(said.contains("key file") && said.contains("belongs to user 65534"), "{said}");
}

#[test]
fn a_fifo_in_place_of_a_file_is_refused_and_stops_neither_a_start_nor_a_reload() {
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
        let said = refused(&lab.server, &site);
        assert!(said.contains("not a regular file"), "{said}");
        fs::remove_file(&path).unwrap();
        if let Some(before) = before {
            fs::write(&path, before).unwrap();
            chmod(&path, 0o600);
        }
    }
}

/// A knock, also where the key's file is none any more.
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

/// All of a site belongs to the user that its daemon would run as.
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
    let run = |words: &[&str]| lab.server.output(&mut site.admin(words));
    let check = run(&["check"]);
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(!text.contains("neither to user"), "{text}");
    assert!(text.contains("warning") && text.contains("a daemon of root's refuses it"), "{text}");
    // Another name of a file of root's does not make it that user's.
    let (roots, lock) = (site.path("roots"), site.path("state/lock"));
    fs::write(&roots, "").unwrap();
    fs::hard_link(&roots, &lock).unwrap();
    assert!(run(&["gate", "on"]).status.success());
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&roots).unwrap()), 0);
    fs::remove_file(&lock).unwrap();
    let key = site.path("u7.key");
    for words in [
        vec!["client", "add", "u7", "--allow", "open-ssh", "-o", key.to_str().unwrap()],
        vec!["gate", "on"],
        vec!["gate", "off"],
    ] {
        let output = run(&words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let owner = |name: &str| {
        let metadata = fs::symlink_metadata(site.path(name)).unwrap();
        std::os::unix::fs::MetadataExt::uid(&metadata)
    };
    for name in ["clients.d/u7.toml", "keys/u7.key", "state/gate", "state/lock"] {
        assert_eq!(owner(name), NOBODY, "{name}");
    }
    // A daemon of root's obeys no config of another user's.
    assert!(refused(&lab.server, &site).contains("belongs to user 65534"));
}
