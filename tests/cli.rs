//! The contract of the client's command line, as files: arguments, output and exit code.
#![cfg(all(feature = "legacy", feature = "fwknop"))]
#![allow(clippy::unwrap_used, reason = "a test")]

#[test]
fn the_command_line_keeps_its_contract() {
    // Separately, because other cases would find the keys that these cases import.
    run(&["[!i]*.trycmd", "[!i]*.toml"]);
    run(&["i*.trycmd", "i*.toml"]);
}

fn run(cases: &[&str]) {
    // An empty home folder, so that no key and no profile of the user who runs this is used.
    let home = tempfile::tempdir().unwrap();
    let folder = |name: &str| home.path().join(name).display().to_string();
    let tests = trycmd::TestCases::new();
    tests
        .env("HOME", folder(""))
        .env("XDG_CONFIG_HOME", folder("config"))
        .env("XDG_STATE_HOME", folder("state"))
        .env("SPA_KNOCK_KEY", "")
        .env("SSH_AUTH_SOCK", "")
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .insert_var("[HOME]", home.path().display().to_string())
        .unwrap();
    for case in cases {
        tests.case(format!("tests/cmd/spa-knock/{case}"));
    }
}
