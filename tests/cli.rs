//! The contract of the client's command line, as files: what is typed, what is said, which code it ends with.
#![cfg(feature = "legacy")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[test]
fn the_command_line_keeps_its_contract() {
    // Keys that are imported in one case would be found in another.
    run(&["[!i]*.trycmd", "[!i]*.toml"]);
    run(&["i*.trycmd", "i*.toml"]);
}

fn run(cases: &[&str]) {
    // An empty home, so that no key and no profile of whoever runs this counts.
    let home = tempfile::tempdir().unwrap();
    let folder = |name: &str| home.path().join(name).display().to_string();
    let tests = trycmd::TestCases::new();
    tests
        .env("HOME", folder(""))
        .env("XDG_CONFIG_HOME", folder("config"))
        .env("XDG_STATE_HOME", folder("state"))
        .env("SPA_KNOCK_KEY", "")
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .insert_var("[HOME]", home.path().display().to_string())
        .unwrap();
    for case in cases {
        tests.case(format!("tests/cmd/spa-knock/{case}"));
    }
}
