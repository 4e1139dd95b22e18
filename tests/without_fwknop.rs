//! A build without the feature `fwknop`: the error message of `migrate`, and that no code of it is included.
#![cfg(all(feature = "daemon", not(feature = "fwknop"), target_os = "linux"))]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run programs and panic on failure")]

use std::fs;
use std::process::Command;

const DAEMON: &str = env!("CARGO_BIN_EXE_spa-knockd");

#[test]
fn migrating_an_access_conf_exits_with_2_and_reports_that_fwknop_is_missing() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("access.conf");
    fs::write(&file, "SOURCE ANY\nOPEN_PORTS tcp/22\n").unwrap();
    let output = Command::new(DAEMON).args(["migrate", "--id", "a"]).arg(&file).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(message, "spa-knockd: built without fwknop support\nhint: cargo build --features fwknop\n");
}

#[test]
fn the_daemon_contains_no_symbol_of_the_feature() {
    let text = fs::read(DAEMON).unwrap();
    for name in ["spa_knock_fwknop", "fwknop7migrate"] {
        assert!(!text.windows(name.len()).any(|window| window == name.as_bytes()), "{name}");
    }
}
