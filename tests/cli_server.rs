//! The contract of `spa-knockd`'s command line: the cases in `tests/cmd/spa-knockd`, and file modes.
#![cfg(all(feature = "daemon", feature = "legacy"))]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run programs and write files")]

#[path = "source/mod.rs"]
mod source;

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::{fs, thread};

use source::{before_tests, name_of, project, rust_files};

const SPA_KNOCKD: &str = env!("CARGO_BIN_EXE_spa-knockd");

#[test]
fn the_command_line_follows_its_contract() {
    trycmd::TestCases::new()
        .register_bin("spa-knockd", Path::new(SPA_KNOCKD))
        .case("tests/cmd/spa-knockd/*.trycmd")
        .run();
}

/// Writes a config that does not depend on the host, and creates its directories.
fn scratch(server: &str, actions: &str) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().display().to_string();
    for folder in ["keys", "state"] {
        fs::create_dir(scratch.path().join(folder)).unwrap();
        chmod(&scratch.path().join(folder), 0o700);
    }
    let config = scratch.path().join("spa-knockd.toml");
    let text = format!(
        "[server]\nid = 'a'\ncapture = 'udp'\nuser = 'root'\naudit = ''\nkeys_dir = '{root}/keys'\n\
         state_dir = '{root}/state'\n{server}[firewall]\nbackend = 'none'\n{actions}"
    );
    fs::write(&config, text).unwrap();
    chmod(&config, 0o600);
    scratch
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn run(scratch: &Path, arguments: &[&str]) -> Output {
    let config = scratch.join("spa-knockd.toml");
    Command::new(SPA_KNOCKD).args(arguments).arg("-c").arg(config).output().unwrap()
}

/// The output of `check`, with the scratch directory written as D and without the machine's clock, and the exit code.
fn check(scratch: &Path) -> (String, Option<i32>) {
    let output = run(scratch, &["check"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.replace(&scratch.display().to_string(), "D");
    (without_clock(&text), output.status.code())
}

/// Removes the lines that depend on whether this machine's clock is synchronized.
fn without_clock(text: &str) -> String {
    let mut lines = text.split_inclusive('\n');
    let mut kept = String::new();
    while let Some(line) = lines.next() {
        match line {
            line if line.starts_with("ok: clock: ") => {}
            // Only as root.
            line if line.starts_with("ok: server.user: CAP_") => {}
            // The numbers depend on the clock.
            line if line.contains(" problem") && line.ends_with(" warning\n") => {}
            line if line.contains(" problem") && line.ends_with(" warnings\n") => {}
            line if line.starts_with("warning: ") && line.contains(": clock: ") => {
                assert!(lines.next().is_some_and(|hint| hint.starts_with("hint: ")));
            }
            line => kept.push_str(line),
        }
    }
    kept
}

const RUN: &str = "[action.a]\nrun = ['/bin/true']\n";

#[test]
fn check_without_findings_lists_the_passed_checks() {
    let scratch = scratch("", RUN);
    assert!(run(scratch.path(), &["client", "add", "c", "--allow", "a"]).status.success());
    assert_eq!(
        check(scratch.path()),
        (
            "ok: config D/spa-knockd.toml: 1 action, 1 client\nok: directories: private and writable\nok: keys: 1 client key loaded\n\
             ok: port: udp/62201 is free or used by the daemon\n"
                .to_owned(),
            Some(0)
        )
    );
}

#[test]
fn check_reports_every_problem_with_its_place_and_a_hint() {
    let scratch = scratch("interfaces = ['no-such-link']\n", RUN);
    assert!(run(scratch.path(), &["client", "add", "c", "--allow", "a"]).status.success());
    let at = |name: &str| scratch.path().join(name);
    chmod(&at("keys/c.key"), 0o644);
    chmod(&at("state"), 0o755);
    chmod(&at("spa-knockd.toml"), 0o666);
    let (text, code) = check(scratch.path());
    assert_eq!(
        text,
        "D/clients.d/c.toml:3:7: client.c.key: key file D/keys/c.key: mode 0644 allows others to access it\n\
         hint: chmod 600 D/keys/c.key\n\
         D/spa-knockd.toml: mode 0666 allows others to change it\n\
         hint: chmod go-w D/spa-knockd.toml\n\
         D/spa-knockd.toml:8:14: server.interfaces: no-such-link: no such interface\n\
         hint: ip link lists all interfaces; interfaces = [\"any\"] captures on all of them\n\
         D/state: mode 0755 allows others to access it\n\
         hint: chmod 700 D/state\n"
    );
    assert_eq!(code, Some(1));
}

#[test]
fn check_reports_an_invalid_config_and_fails() {
    let scratch = scratch("port = 0\n", RUN);
    let message = "D/spa-knockd.toml:8:8: server.port: not a number from 1 to 65535\n";
    assert_eq!(check(scratch.path()), (message.to_owned(), Some(1)));
}

#[test]
fn check_warns_of_unused_actions_and_expired_clients() {
    let client = "[client.c]\nkey = 'c.key'\nallow = ['a']\nexpires = 2001-01-01\n";
    let scratch = scratch("", &format!("{RUN}[action.b]\nrun = ['/bin/true']\n{client}"));
    let key = scratch.path().join("keys/c.key");
    let secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    fs::write(&key, format!("spa-knock-key: 1\nkind: pair\nserver: a\nsecret: {secret}\n")).unwrap();
    chmod(&key, 0o600);
    let (text, code) = check(scratch.path());
    let warnings: Vec<&str> = text.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(
        warnings,
        [
            "warning: D/spa-knockd.toml:12:9: action.b: no client is allowed to use it",
            "warning: D/spa-knockd.toml:17:11: client.c: expired",
        ]
    );
    assert_eq!(code, Some(0));
}

#[test]
fn a_client_whose_key_cannot_be_printed_is_not_added() {
    let scratch = scratch("", RUN);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(SPA_KNOCKD)
        .args(["client", "add", "c", "--allow", "a", "-c"])
        .arg(scratch.path().join("spa-knockd.toml"))
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_dir(scratch.path().join("keys")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(scratch.path().join("clients.d")).unwrap().count(), 0);
}

#[test]
fn files_of_init_and_client_add_are_private() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("t/x.toml");
    let spa_knockd = |arguments: &[&str]| {
        let output = Command::new(SPA_KNOCKD).arg("-c").arg(&config).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    spa_knockd(&["init", "--id", "a"]);
    spa_knockd(&["client", "add", "c", "--allow", "open-ssh"]);
    let mode =
        |name: &str| fs::metadata(scratch.path().join("t").join(name)).unwrap().permissions().mode() & 0o777;
    for (name, expected) in
        [("keys", 0o700), ("state", 0o700), ("clients.d", 0o700), ("x.toml", 0o600), ("keys/c.key", 0o600)]
    {
        assert_eq!(mode(name), expected, "{name}");
    }
}

#[test]
fn a_link_named_knockd_starts_the_legacy_daemon() {
    let scratch = tempfile::tempdir().unwrap();
    let link = scratch.path().join("knockd");
    std::os::unix::fs::symlink(SPA_KNOCKD, &link).unwrap();
    let output =
        Command::new(link).args(["-i", "eth0", "-v", "-c", "/nonexistent/knockd.conf"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "/nonexistent/knockd.conf: no such file or directory\n");
    assert!(output.stdout.starts_with(b"usage: knockd [options]\n"));
}

/// Runs `migrate` with an `access.conf` of this mode, and returns exit code and messages.
#[cfg(feature = "fwknop")]
fn migrate(access: &str, mode: u32) -> (Option<i32>, String, String) {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("access.conf");
    fs::write(&file, access).unwrap();
    chmod(&file, mode);
    let output = Command::new(SPA_KNOCKD).args(["migrate", "--id", "a"]).arg(&file).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().replace(&scratch.path().display().to_string(), "D");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[cfg(feature = "fwknop")]
#[test]
fn an_access_conf_is_migrated_if_others_cannot_read_it_and_no_key_is_printed() {
    let access = "SOURCE ANY\nOPEN_PORTS tcp/22\nKEY sesame\nHMAC_KEY sesame2\nFOO bar\n";
    let (code, config, messages) = migrate(access, 0o600);
    assert_eq!(code, Some(0), "{messages}");
    assert!(config.contains("[action.open-tcp-22]\n"), "{config}");
    assert!(!config.contains("sesame") && !messages.contains("sesame"), "{config}{messages}");
    assert_eq!(
        messages,
        "spa-knockd: D/fwknopd.conf: no such file; translated as if fwknopd's settings were the defaults\n\
         spa-knockd: D/access.conf:5: FOO: ignored: fwknop has no such variable\n\n\
         next steps, once this config is installed:\n  \
         the commands at its end    create a key for each client\n  \
         spa-knockd check    check the configuration\n"
    );
    let (code, config, messages) = migrate(access, 0o644);
    assert_eq!((code, config.as_str()), (Some(5), ""), "{messages}");
    assert!(
        messages.contains("D/access.conf: mode 0644 allows others to access it\nhint: chmod 600"),
        "{messages}"
    );
    let (code, config, messages) = migrate("SOURCE ANY\nOPEN_PORTS any/1\n", 0o600);
    assert_eq!((code, config.as_str()), (Some(5), ""), "{messages}");
    assert!(messages.contains("D/access.conf:2: OPEN_PORTS: any/1: not a port"), "{messages}");
}

#[test]
fn check_reports_that_no_one_can_knock_only_without_clients_and_legacy_users() {
    const NO_ONE: &str = "no clients: no one can knock\nhint: spa-knockd client add NAME --allow ACTION -c D/spa-knockd.toml\n";
    let scratch = scratch("", RUN);
    assert!(check(scratch.path()).0.contains(NO_ONE), "{}", check(scratch.path()).0);
    let config = scratch.path().join("spa-knockd.toml");
    let without = fs::read_to_string(&config).unwrap().replace("capture = 'udp'\n", "");
    let knockd = "[options]\n[a]\nsequence = 7000\ncommand = /bin/true\n";
    let fwknop =
        "SOURCE ANY\nKEY a-key\nHMAC_KEY another-key\nCMD_CYCLE_OPEN /bin/true $IP\nCMD_CYCLE_CLOSE NONE\n";
    for (key, text, passed) in [
        ("knockd", knockd, "ok: knock sequences: 1 door"),
        ("fwknop", fwknop, "ok: packets of fwknop: 1 stanza"),
    ] {
        let file = scratch.path().join(key);
        fs::write(&file, text).unwrap();
        chmod(&file, 0o600);
        fs::write(&config, format!("{without}[legacy]\n{key} = '{}'\n", file.display())).unwrap();
        let (text, _) = check(scratch.path());
        assert!(!text.contains("no one can knock"), "{key}: {text}");
        assert!(text.contains(passed) || text.contains("spa-knockd.toml:"), "{key}: {text}");
    }
}

#[test]
fn a_client_whose_key_file_is_lost_gets_a_new_key_by_the_command_that_check_prints() {
    let scratch = scratch("", RUN);
    assert!(run(scratch.path(), &["client", "add", "c", "--allow", "a"]).status.success());
    let definition = || fs::read_to_string(scratch.path().join("clients.d/c.toml")).unwrap();
    // The second one is lost under the name that a rotation would choose first.
    for (lost, next) in [("c.key", "c.2.key"), ("c.2.key", "c.3.key")] {
        fs::remove_file(scratch.path().join("keys").join(lost)).unwrap();
        let (text, code) = check(scratch.path());
        let hint = format!(
            "key file D/keys/{lost}: no such file or directory\n\
             hint: restore the file, or create a new key: spa-knockd client rotate c --overlap 0s"
        );
        assert!(code == Some(1) && text.contains(&hint), "{text}");
        assert!(run(scratch.path(), &["client", "rotate", "c", "--overlap", "0s"]).status.success());
        assert!(definition().contains(next), "{}", definition());
        let (text, code) = check(scratch.path());
        assert_eq!(code, Some(0), "{text}");
    }
}

#[cfg(not(feature = "fleet"))]
#[test]
fn a_build_without_support_for_fleets_names_what_is_missing() {
    let scratch = scratch("", RUN);
    assert!(run(scratch.path(), &["client", "add", "c", "--allow", "a"]).status.success());
    for args in [
        &["fleet", "status"][..],
        &["fleet", "join"],
        &["client", "add", "d", "--allow", "a", "--fleet"],
        &["client", "set", "c", "--allow", "a", "--fleet"],
        &["client", "rotate", "c", "--fleet"],
        &["client", "revoke", "c", "--fleet"],
    ] {
        let output = run(scratch.path(), args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("this build has no support for fleets with a store\nhint: "),
            "{args:?}: {text}"
        );
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

/// Commands of `spa-knockd` that read its config.
const COMMANDS: [&str; 12] = [
    "run`", "check", "init", "client ", "status", "gate ", "let-in", "reload", "grants", "revoke", "state ",
    "explain",
];

#[test]
fn every_command_in_a_message_names_the_config_that_the_process_was_given() {
    // Help, the client's messages about its server, a name in parentheses, and daemons that read no config of ours.
    const ELSEWHERE: [&str; 6] = [
        "src/admin/args/",
        "src/client/",
        "src/config/clients.rs",
        "src/console/own_command.rs",
        "src/legacy/daemon/",
        "src/legacy/fwknop/daemon/",
    ];
    let mut found = Vec::new();
    for path in rust_files(&project("src")) {
        let name = name_of(&path);
        if name.ends_with("tests.rs") || ELSEWHERE.iter().any(|elsewhere| name.starts_with(elsewhere)) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let lines = before_tests(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
        let named =
            |line: &&str| COMMANDS.iter().any(|command| line.contains(&format!("spa-knockd {command}")));
        found.extend(lines.filter(named).map(|line| format!("{name}: {}", line.trim())));
    }
    assert!(found.is_empty(), "write these with own_command():\n{}", found.join("\n"));
}

#[test]
fn hints_contain_commands_that_act_on_the_same_config() {
    let scratch = scratch("", RUN);
    assert!(run(scratch.path(), &["client", "add", "c", "--allow", "a"]).status.success());
    let config = scratch.path().join("spa-knockd.toml").display().to_string();
    for (arguments, command) in [
        (&["client", "add", "c", "--allow", "a"][..], "client rotate c"),
        (&["client", "add", "c", "--allow", "b", "--if-missing"], "client set c --allow b"),
        (&["init"], "check"),
        (&["init"], "gate on --confirm 10m"),
    ] {
        let output = run(scratch.path(), arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(&format!("spa-knockd {command} -c {config}")), "{arguments:?}: {text}");
    }
}

#[test]
fn a_user_who_may_not_read_the_config_learns_to_be_root() {
    let scratch = scratch("", RUN);
    chmod(scratch.path(), 0o755);
    chmod(&scratch.path().join("spa-knockd.toml"), 0);
    // Other users may not be able to reach the program where it was built.
    let program = scratch.path().join("spa-knockd");
    fs::copy(SPA_KNOCKD, &program).unwrap();
    for arguments in [&["check"][..], &["run"], &["client", "add", "c", "--allow", "a"]] {
        let mut command = Command::new(&program);
        command.args(arguments).arg("-c").arg(scratch.path().join("spa-knockd.toml"));
        // Root may read every file.
        if nix::unistd::geteuid().is_root() {
            command.uid(65_534);
        }
        let output = loop {
            match command.output() {
                // A process that another test starts has inherited the copy while it was written, until it runs its program.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
                output => break output.unwrap(),
            }
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(
            text.contains(": permission denied\nhint: run this command as root\n"),
            "{arguments:?}: {text}"
        );
    }
}
