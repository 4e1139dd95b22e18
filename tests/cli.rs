//! The contract of the client's command line, as files: what is typed, what is said, which code it ends with.

#[test]
fn the_command_line_keeps_its_contract() {
    // An empty home, so that no key and no profile of whoever runs this counts.
    let home = tempfile::tempdir().unwrap();
    let folder = |name: &str| home.path().join(name).display().to_string();
    trycmd::TestCases::new()
        .env("HOME", folder(""))
        .env("XDG_CONFIG_HOME", folder("config"))
        .env("XDG_STATE_HOME", folder("state"))
        .env("SPA_KNOCK_KEY", "")
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .insert_var("[HOME]", home.path().display().to_string())
        .unwrap()
        .case("tests/cmd/spa-knock/*.trycmd")
        .case("tests/cmd/spa-knock/*.toml");
}
