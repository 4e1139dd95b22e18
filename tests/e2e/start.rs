//! A daemon that cannot start prints a helpful reason and exits with the code documented in the manual.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Output;

use crate::net::{Daemon, KNOCK_PORT, Lab, Namespace, SERVER4, Site, limited, open_ssh};

const FAILED: i32 = 1;
const BAD_CONFIG: i32 = 5;

/// Runs the daemon, which is expected to exit immediately, with `before` in front of its command line.
fn outcome(namespace: &Namespace, site: &Site, before: &[&str]) -> Output {
    let daemon = Daemon::command(site);
    let mut command = limited("env");
    command.args(before).arg(daemon.get_program()).args(daemon.get_args());
    namespace.output(&mut command)
}

/// Asserts that a daemon has exited with this code, and that its messages contain these texts.
fn assert_fails(output: &Output, code: i32, expected: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for text in expected {
        assert!(stderr.contains(text), "'{text}' is missing in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("interfaces = [\"lan0\", \"lan7\"]", &open_ssh(5));
    lab.server.echo(22);
    assert_fails(&outcome(&lab.server, &site, &[]), FAILED, &["lan7"]);
    assert!(lab.client.reaches(SERVER4, 22), "a failed start closes nothing");
}

#[test]
fn a_first_start_that_fails_leaves_ports_open_and_a_later_one_leaves_them_closed() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let site = Site::new("interfaces = [\"eth99\"]\n", &open_ssh(2));
    assert_fails(&outcome(&lab.server, &site, &[]), 1, &["eth99"]);
    assert!(lab.client.reaches(SERVER4, 22), "a config that never worked locks no one out");

    site.write_config("interfaces = [\"lan0\"]\n", &open_ssh(2));
    drop(Daemon::start(&lab.server, &site));
    lab.server.nft("flush ruleset");
    fs::write(
        site.path("spa-knockd.toml"),
        format!("[server]\nstate_dir = {:?}\nnonsense", site.path("state")),
    )
    .unwrap();
    assert_fails(
        &outcome(&lab.server, &site, &[]),
        BAD_CONFIG,
        &["spa-knockd.toml:3:9", "gate: tcp/22 closed"],
    );
    assert!(!lab.client.reaches(SERVER4, 22), "with an invalid config, the last gate is closed");
    site.write_config("interfaces = [\"lan0\"]\n", &open_ssh(2));
    lab.server.nft("flush ruleset");
    fs::write(site.path("state/replay.journal"), "damaged").unwrap();
    assert_fails(&outcome(&lab.server, &site, &[]), 1, &["replay.journal"]);
    assert!(!lab.client.reaches(SERVER4, 22), "the gate is closed before anything else that can fail");
}

#[test]
fn a_read_only_state_folder_closes_the_gate_before_the_start_fails() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let site = Site::new("", &open_ssh(2));
    drop(Daemon::start(&lab.server, &site));
    lab.server.nft("flush ruleset");
    assert!(lab.client.reaches(SERVER4, 22), "as after a boot");
    let state = site.path("state");
    let read_only =
        format!("mount --bind {0} {0} && mount -o remount,bind,ro {0} && exec \"$@\"", state.display());
    let before = ["unshare", "--mount", "sh", "-c", &read_only, "-"];
    let output = outcome(&lab.server, &site, &before);
    assert_fails(&output, FAILED, &["read-only", "hint: check with mount and df"]);
    assert!(!lab.client.reaches(SERVER4, 22), "closed before the failure");

    let mut command = limited("unshare");
    command.args(&before[1..]).arg(Daemon::PROGRAM).args(["check", "-c"]).arg(site.path("spa-knockd.toml"));
    let output = lab.server.output(&mut command);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(
        stdout.contains("cannot be written") && stdout.contains(&state.display().to_string()),
        "{stdout}"
    );
}

#[test]
fn in_a_user_namespace_with_one_id_the_daemon_prints_what_it_needs() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    // The network namespace must belong to the user namespace.
    let output = outcome(&lab.server, &site, &["unshare", "--map-root-user", "--net"]);
    assert_fails(&output, FAILED, &["this user namespace has no user", "hint: map more ids"]);
}

#[test]
fn a_watcher_that_must_run_as_nobody_causes_a_warning() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let config = site.path("spa-knockd.toml");
    let text = fs::read_to_string(&config).unwrap();
    let daemon = Daemon::start(&lab.server, &site);
    assert!(!daemon.log().contains("runs as nobody"), "{}", daemon.log());
    drop(daemon);
    fs::write(&config, text.replace("user = \"nobody\"", "user = \"no-such-user\"")).unwrap();
    let daemon = Daemon::start(&lab.server, &site);
    assert!(
        daemon.log().contains("user no-such-user does not exist: the watcher runs as nobody"),
        "{}",
        daemon.log()
    );
}

#[test]
fn a_user_without_capabilities_gets_a_message_with_the_needed_ones() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    // Other users may not be able to read the build folder.
    let daemon = site.path("spa-knockd");
    fs::copy(env!("CARGO_BIN_EXE_spa-knockd"), &daemon).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_spa-knock-watcher"), site.path("spa-knock-watcher")).unwrap();
    give_to_nobody(site.folder());
    let config = site.path("spa-knockd.toml");
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut command = limited("setpriv");
    command.args(user).arg(daemon).arg("run").arg("-c").arg(config);
    assert_fails(&lab.server.output(&mut command), FAILED, &["CAP_NET_"]);
}

fn give_to_nobody(path: &Path) {
    chown(path, Some(65534), Some(65534)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_to_nobody(&entry.unwrap().path());
        }
    }
}

#[test]
fn a_missing_nft_is_named() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    // For this process only, the folder of nft is empty, and PATH contains no other folder with programs.
    let hide = format!(
        "mount -t tmpfs none \"$(dirname \"$(command -v nft)\")\" && PATH={} exec \"$@\"",
        site.path("state").display()
    );
    let output = outcome(&lab.server, &site, &["unshare", "--mount", "sh", "-c", &hide, "-"]);
    assert_fails(&output, FAILED, &["nft"]);
}

#[test]
fn a_knock_port_in_use_is_named() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("capture = \"udp\"", &open_ssh(5));
    let _holders = lab.server.enter(|| {
        // For IPv4 and IPv6, so that the first one that the daemon tries is in use.
        std::net::UdpSocket::bind(("::", KNOCK_PORT)).unwrap()
    });
    assert_fails(&outcome(&lab.server, &site, &[]), FAILED, &[&KNOCK_PORT.to_string()]);
}

#[test]
fn each_error_in_a_config_is_reported_with_its_line() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("windw = \"30s\"", &open_ssh(5).replace("\"open-ssh\"]", "\"open-shh\"]"));
    let output = outcome(&lab.server, &site, &[]);
    assert_fails(&output, BAD_CONFIG, &["spa-knockd.toml:", "windw", "open-shh"]);
}

#[test]
fn a_key_that_others_can_read_is_refused_with_a_hint() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let key = site.key_path("laptop");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let secret = fs::read_to_string(&key).unwrap();
    let secret = secret.lines().find_map(|line| line.strip_prefix("secret: ")).unwrap();
    let output = outcome(&lab.server, &site, &[]);
    assert_fails(&output, BAD_CONFIG, &["laptop.key", "0644", "chmod 600"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains(secret));
}

#[test]
fn a_second_daemon_with_the_same_state_folder_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _first = Daemon::start(&lab.server, &site);
    let output = outcome(&lab.server, &site, &[]);
    assert_fails(&output, FAILED, &["state"]);
}
