//! A build without the feature `legacy`: the error messages of the missing commands, and that no code of it is
//! included.
#![cfg(all(feature = "daemon", not(feature = "legacy"), target_os = "linux"))]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run programs and panic on failure")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

const DAEMON: &str = env!("CARGO_BIN_EXE_spa-knockd");
const CLIENT: &str = env!("CARGO_BIN_EXE_spa-knock");

/// Runs a program and returns its exit code and standard error.
fn run(program: &Path, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program).args(args).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn every_knockd_command_exits_with_2_and_reports_that_it_is_missing() {
    let scratch = tempfile::tempdir().unwrap();
    let link = |name: &str, program: &str| {
        symlink(program, scratch.path().join(name)).unwrap();
        scratch.path().join(name)
    };
    let (knock, knockd) = (link("knock", CLIENT), link("knockd", DAEMON));
    for (program, args) in [
        (Path::new(CLIENT), &["legacy", "server", "7000"][..]),
        (Path::new(CLIENT), &["legacy", "-v", "-d", "200", "server", "7000:udp"]),
        (&knock, &["server", "7000"]),
        (Path::new(DAEMON), &["knockd", "-c", "/etc/knockd.conf"]),
        (Path::new(DAEMON), &["migrate", "/etc/knockd.conf"]),
        (&knockd, &["-i", "eth0"]),
    ] {
        let (code, message) = run(program, args);
        assert_eq!(code, Some(2), "{args:?}: {message}");
        assert!(
            message.contains("built without legacy support") && message.contains("hint: "),
            "{args:?}: {message}"
        );
    }
}

#[cfg(not(feature = "fwknop"))]
#[test]
fn fwknops_commands_exit_with_2_and_report_that_they_are_missing() {
    for args in [
        &["fwknop", "-A", "tcp/22", "-R", "-D", "server", "--key-hmac", "sesame"][..],
        &["fwknop", "--key-gen"],
        &["import", "--fwknoprc", "/no/such/file", "--stanza", "office"],
    ] {
        let (code, message) = run(Path::new(CLIENT), args);
        assert_eq!(code, Some(2), "{args:?}: {message}");
        assert!(
            message.contains("built without fwknop support") && message.contains("hint: "),
            "{args:?}: {message}"
        );
        assert!(!message.contains("sesame"), "{message}");
    }
}

#[test]
fn a_config_with_a_legacy_section_is_rejected_with_a_hint() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("spa-knockd.toml");
    fs::write(&config, "[server]\nid = \"a\"\n[legacy]\nknockd = \"/etc/knockd.conf\"\n").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let output = Command::new(DAEMON).args(["check", "-c"]).arg(&config).output().unwrap();
    let message = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success());
    assert!(
        message.contains(":3:2: legacy: built without legacy support\nhint: remove [legacy]"),
        "{message}"
    );
}

#[test]
fn the_programs_contain_no_symbol_of_the_feature() {
    for program in [CLIENT, DAEMON, env!("CARGO_BIN_EXE_spa-knock-watcher")] {
        let text = fs::read(program).unwrap();
        for name in ["legacy6knockd", "legacy6daemon", "legacy8embedded", "KnockSequence"] {
            assert!(!text.windows(name.len()).any(|window| window == name.as_bytes()), "{program}: {name}");
        }
    }
}
