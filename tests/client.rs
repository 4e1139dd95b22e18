//! The client as a process, with a scripted server on the loopback interface: exit codes, output streams and JSON.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::indexing_slicing, reason = "a test")]

mod loopback;

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output};
use std::time::Duration;

use spa_knock_core::knock::ReplyStatus;

use loopback::{KEY, server, text};

/// A token for the server `inner`.
const TOKEN: &str = "spa-knock-ADUBAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8AAAAFaW5uZXIAAr8F8PLiUPw";

/// Runs the client with an empty home folder.
fn spa_knock(port: u16, more: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_spa-knock"))
        .env_clear()
        .env("HOME", home.path())
        .env("SPA_KNOCK_KEY", KEY)
        .args(["--server-id", "bastion", "--port", &port.to_string()])
        .args(more)
        .args(["127.0.0.1", "open-ssh"])
        .output()
        .unwrap()
}

#[test]
fn a_grant_exits_with_0_and_is_reported_on_standard_error() {
    let (port, served) = server(ReplyStatus::Granted, Duration::ZERO);
    let output = spa_knock(port, &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "spa-knock: 127.0.0.1: open-ssh granted to 127.0.0.1 for 30s (hello)\n");
    assert!(output.stdout.is_empty());
    served.join().unwrap();
}

#[test]
fn quiet_prints_nothing_about_a_grant() {
    let (port, served) = server(ReplyStatus::Granted, Duration::from_secs(3600));
    let output = spa_knock(port, &["-q"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    served.join().unwrap();
}

#[test]
fn json_is_one_object_on_standard_output() {
    let (port, served) = server(ReplyStatus::Granted, Duration::ZERO);
    let output = spa_knock(port, &["--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, value) in
        [("result", "granted"), ("action", "open-ssh"), ("server", "127.0.0.1"), ("address", "127.0.0.1")]
    {
        assert_eq!(json[name], value);
    }
    assert_eq!(json["seconds"], 30);
    assert!(json["server_time_ms"].is_u64() && json["round_trip_ms"].as_f64() > Some(0.0));
    served.join().unwrap();
}

#[test]
fn a_refusal_exits_with_1_and_prints_its_reason() {
    let (port, served) = server(ReplyStatus::NotAllowed, Duration::ZERO);
    let output = spa_knock(port, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stdout),
        "{\"result\":\"refused\",\"code\":1,\"reason\":\"127.0.0.1: open-ssh refused: not allowed (hello)\",\"observed\":\"127.0.0.1\"}\n"
    );
    assert!(text(&output.stderr).contains("\nhint: "));
    served.join().unwrap();
}

#[test]
fn a_clock_difference_is_reported() {
    let (port, served) = server(ReplyStatus::Done, Duration::from_secs(20));
    let output = spa_knock(port, &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("warning: clock: "), "{}", text(&output.stderr));
    served.join().unwrap();
}

#[test]
fn a_name_with_a_control_character_is_refused_and_not_printed() {
    for (args, object) in [
        (&["a\n::error::b", "open-ssh"][..], "SERVER"),
        (&["connect", "a\x1b[2J", "open-ssh", "127.0.0.1", "22"], "SERVER"),
        (&["connect", "127.0.0.1", "open-ssh", "b\r", "22"], "HOST"),
        (&["keep", "a\n", "open-ssh"], "SERVER"),
        (&["doctor", "a\n"], "SERVER"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_spa-knock")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(
            text(&output.stderr),
            format!("spa-knock: {object}: contains a control character\n"),
            "{args:?}"
        );
    }
}

#[test]
fn a_missing_reply_exits_with_3_and_lists_possible_causes() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = spa_knock(silent.local_addr().unwrap().port(), &["--timeout", "100ms", "-o", "json"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).starts_with("{\"result\":\"no-reply\",\"code\":3,"));
    for cause in ["wrong key or server id", "the clocks differ", "filtered", "no replies"] {
        assert!(text(&output.stderr).contains(cause), "{cause}");
    }
}

#[test]
fn waiting_exits_with_0_if_the_port_accepts_and_with_3_if_it_never_does() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().port().to_string();
    // Below 1024: the kernel assigns it to no other test.
    for (wait, code) in [(open.as_str(), 0), ("1", 3)] {
        let (port, served) = server(ReplyStatus::Granted, Duration::ZERO);
        let output = spa_knock(port, &["--timeout", "500ms", "--wait", wait]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        served.join().unwrap();
    }
}

#[test]
fn a_knock_without_a_reply_exits_with_0_after_one_datagram() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = spa_knock(socket.local_addr().unwrap().port(), &["--no-reply", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output.stdout),
        "{\"result\":\"sent\",\"action\":\"open-ssh\",\"server\":\"127.0.0.1\",\"address\":\"127.0.0.1\",\"seconds\":null,\"server_time_ms\":null,\"round_trip_ms\":null}\n"
    );
}

#[test]
fn a_malformed_key_in_the_environment_is_reported_by_line_without_its_text() {
    for (key, reason) in [
        ("sesame", "line 1: expected 'name: value'"),
        ("secret: sesame", "the line 'spa-knock-key: …' is missing"),
        (
            "spa-knock-key: 1 kind: root secret: sesame",
            "line 1: spa-knock-key: more than a number: are the line breaks missing?",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_spa-knock"))
            .arg("show")
            .env("SPA_KNOCK_KEY", key)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(5));
        let message = text(&output.stderr);
        assert!(
            message.starts_with(&format!("spa-knock: key in $SPA_KNOCK_KEY: {reason}\nhint: ")),
            "{message}"
        );
        assert!(!message.contains("sesame"));
    }
}

#[cfg(unix)]
#[test]
fn the_key_file_of_a_profiles_id_is_found() {
    let (port, served) = server(ReplyStatus::Granted, Duration::ZERO);
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/spa-knock");
    std::fs::create_dir_all(&folder).unwrap();
    let key = folder.join("bastion.key");
    std::fs::write(&key, KEY).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let profile = format!("[server.home]\naddress = \"127.0.0.1\"\nport = {port}\nid = \"bastion\"\n");
    std::fs::write(folder.join("config.toml"), profile).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_spa-knock"))
        .env_clear()
        .env("HOME", home.path())
        .args(["home", "open-ssh"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    served.join().unwrap();
}

#[test]
fn a_profile_may_set_a_command_that_prints_the_key() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/spa-knock");
    std::fs::create_dir_all(&folder).unwrap();
    let run = |command: &str, variable: Option<&str>| {
        let profile = format!(
            "[server.home]\naddress = \"127.0.0.1\"\naction = \"open-ssh\"\nkey-command = {command}\n"
        );
        std::fs::write(folder.join("config.toml"), profile).unwrap();
        let mut client = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
        client.env("HOME", home.path()).env_remove("XDG_CONFIG_HOME").env_remove("SPA_KNOCK_KEY");
        if let Some(key) = variable {
            client.env("SPA_KNOCK_KEY", key);
        }
        client.args(["--dry-run", "home"]).output().unwrap()
    };
    let printed = format!("[\"printf\", '{}']", KEY.trim_end().replace('\n', "\\n"));
    let output = run(&printed, None);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("key from key-command printf"), "{output:?}");
    let output = run(&format!("[\"printf\", '{TOKEN}\\r\\n']"), None);
    assert!(text(&output.stdout).contains("server id    inner\n"), "a token, as one line: {output:?}");
    assert_eq!(
        run("[\"false\"]", Some(KEY)).status.code(),
        Some(0),
        "the key in the environment takes precedence"
    );

    for (command, message) in [
        ("[\"false\"]", "spa-knock: key-command false: exit status: 1\nhint: "),
        ("[\"/no/such/pass\", \"sesame\"]", "spa-knock: key-command /no/such/pass: not found\nhint: "),
        ("[\"echo\", \"sesame\"]", "spa-knock: key from key-command echo: line 1: expected 'name: value'\n"),
        ("[\"echo\", \"spa-knock-sesame\"]", "spa-knock: key from key-command echo: length: "),
    ] {
        let output = run(command, None);
        assert_eq!(output.status.code(), Some(5));
        assert!(text(&output.stderr).starts_with(message), "{}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("sesame"));
    }
}

#[test]
fn a_token_in_the_environment_is_a_key() {
    let run = |token: &str| {
        let mut client = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
        client.env("SPA_KNOCK_KEY", token).arg("show").output().unwrap()
    };
    let output = run(TOKEN);
    assert!(text(&output.stdout).contains("server       inner\n"), "{output:?}");
    let output = run(&TOKEN.replace("AAAF", "AAAE"));
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).starts_with("spa-knock: key in $SPA_KNOCK_KEY: checksum: "), "{output:?}");
}

/// Whether a value matches a schema. Supports the parts of JSON Schema that `docs/output.schema.json` uses.
fn fits(value: &serde_json::Value, schema: &serde_json::Value) -> bool {
    if let Some(forms) = schema["oneOf"].as_array() {
        return forms.iter().filter(|form| fits(value, form)).count() == 1;
    }
    if let Some(choices) = schema["enum"].as_array() {
        return choices.contains(value);
    }
    let is = |kind: &serde_json::Value| match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => {
            value.as_array().is_some_and(|items| items.iter().all(|item| fits(item, &schema["items"])))
        }
        "object" => value.as_object().is_some_and(|object| {
            let required = schema["required"].as_array().unwrap();
            required.iter().all(|name| object.contains_key(name.as_str().unwrap()))
                && object.iter().all(|(name, value)| {
                    schema["properties"].get(name).is_some_and(|schema| fits(value, schema))
                })
        }),
        _ => false,
    };
    match &schema["type"] {
        serde_json::Value::Array(kinds) => kinds.iter().any(is),
        kind => is(kind),
    }
}

#[test]
fn json_output_matches_the_schema() {
    let schema = serde_json::from_str(include_str!("../docs/output.schema.json")).unwrap();
    let json = |output: &Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let mut seen = Vec::new();
    for status in [ReplyStatus::Granted, ReplyStatus::Done, ReplyStatus::NotAllowed] {
        let (port, served) = server(status, Duration::ZERO);
        seen.push(json(&spa_knock(port, &["-o", "json"])));
        served.join().unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let profiles = folder.path().join("config.toml");
    let group = "[server.\"127.0.0.1\"]\nservers = [\"b1\", \"b2\"]\n[server.b1]\naddress = \"127.0.0.1\"\n[server.b2]\nport = 0\n";
    std::fs::write(&profiles, group).unwrap();
    let profiles = profiles.to_str().unwrap();
    for status in [ReplyStatus::Granted, ReplyStatus::NotAllowed] {
        let (port, served) = server(status, Duration::ZERO);
        seen.push(json(&spa_knock(port, &["-o", "json", "--config", profiles])));
        served.join().unwrap();
    }
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for more in [
        &["--dry-run", "--config", profiles][..],
        &["--dry-run", "--all"],
        &["--all", "--no-reply"],
        &["--timeout", "50ms"],
        &["--no-reply"],
        &["--dry-run"],
        &["--key", "none.key"],
        &["--ports", "--for", "5s"],
        &["--dry-run", "--otp", "123456"],
        &["--dry-run", "--ports"],
    ] {
        seen.push(json(&spa_knock(port, &[&["-o", "json"], more].concat())));
    }
    for value in &seen {
        assert!(fits(value, &schema), "{value}");
        let mut more = value.clone();
        more["surprise"] = true.into();
        assert!(!fits(&more, &schema), "{more}");
    }
    let results: Vec<_> = seen.iter().map(|value| value["result"].as_str().unwrap()).collect();
    assert_eq!(
        results,
        [
            "granted", "done", "refused", "granted", "refused", "dry-run", "dry-run", "sent", "no-reply",
            "sent", "dry-run", "error", "error", "dry-run", "dry-run"
        ]
    );
    for (at, observed) in [(2, "127.0.0.1".into()), (8, serde_json::Value::Null)] {
        assert_eq!(seen[at]["observed"], observed, "{}", seen[at]);
    }
    assert_eq!(
        (&seen[4]["observed"], &seen[4]["servers"][0]["observed"]),
        (&"127.0.0.1".into(), &"127.0.0.1".into())
    );
    let servers = seen[3]["servers"].as_array().unwrap();
    assert_eq!((&servers[0]["result"], &servers[1]["result"]), (&"granted".into(), &"error".into()));
    assert_eq!(seen[7]["servers"].as_array().unwrap().len(), 1);
}

#[test]
fn options_that_are_for_one_address_are_refused_for_a_group_and_decide_over_a_profile() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = folder.path().join("config.toml");
    let run = |profile: &str, more: &[&str]| {
        std::fs::write(&profiles, format!("[server.\"127.0.0.1\"]\n{profile}\n")).unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let args = [&["--config", profiles.to_str().unwrap(), "--timeout", "50ms"], more].concat();
        spa_knock(silent.local_addr().unwrap().port(), &args)
    };
    for (option, reason) in [
        (&["--ports"][..], "a port sequence goes to one server at a time"),
        (&["--otp", "123456"], "a one-time password is for one server"),
    ] {
        let output = run("servers = [\"b1\"]", option);
        assert_eq!(output.status.code(), Some(2));
        let message = format!("spa-knock: 127.0.0.1: {}: {reason}, and this is a group\nhint: ", option[0]);
        assert!(text(&output.stderr).starts_with(&message), "{output:?}");
        assert!(text(&output.stderr).contains("e.g. spa-knock b1 ACTION --"), "{output:?}");
    }
    for (option, code, reason) in [
        (&["--ports"][..], 0, "a port sequence goes to one address at a time"),
        (&["--otp", "123456"], 3, "a one-time password is valid once"),
    ] {
        let output = run("addresses = \"all\"", option);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let message = format!("spa-knock: 127.0.0.1: knocking at its addresses in turn: {reason}\n");
        assert!(text(&output.stderr).starts_with(&message), "{output:?}");
    }
    let output = run("servers = [\"b1\", \"b2\"]\n[server.b1]\nwait = 22\n[server.b2]\nwait = 23", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "spa-knock: 127.0.0.1: b1 waits for tcp port 22, but b2 for 23\n\
         hint: set wait in [server.\"127.0.0.1\"], or use --wait PORT\n"
    );
}

#[test]
fn groups_and_their_servers_complete_a_command_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("spa-knock")).unwrap();
    let group = "[server.bastions]\nservers = [\"b1\", \"c2\"]\n";
    std::fs::write(folder.path().join("spa-knock/config.toml"), group).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_spa-knock"))
        .env_clear()
        .env("XDG_CONFIG_HOME", folder.path())
        .envs([("SPA_KNOCK_COMPLETE", "bash"), ("_CLAP_COMPLETE_INDEX", "1"), ("_CLAP_IFS", "\n")])
        .envs([("_CLAP_COMPLETE_COMP_TYPE", "9"), ("_CLAP_COMPLETE_SPACE", "false")])
        .args(["--", "spa-knock", "b"])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "b1\nbastions", "{output:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn waiting_shows_a_status_line_on_a_terminal_and_nothing_in_a_pipe() {
    let command = |port: u16| {
        let program = env!("CARGO_BIN_EXE_spa-knock");
        format!("{program} --server-id bastion --port {port} --timeout 400ms --wait 1 127.0.0.1 open-ssh")
    };
    let run = |program: &str, args: &[&str]| {
        let mut client = Command::new(program);
        let output = client.args(args).env("SPA_KNOCK_KEY", KEY).stdin(std::process::Stdio::null()).output();
        let Ok(output) = output else { return None };
        Some(text(&output.stdout).to_owned() + text(&output.stderr))
    };
    let (port, served) = server(ReplyStatus::Granted, Duration::ZERO);
    let piped = run("sh", &["-c", &command(port)]).unwrap();
    served.join().unwrap();
    assert!(!piped.contains("waiting") && !piped.contains('\r'), "{piped:?}");
    let (port, served) = server(ReplyStatus::Granted, Duration::ZERO);
    let Some(shown) = run("script", &["-qec", &command(port), "/dev/null"]) else { return };
    served.join().unwrap();
    assert!(shown.contains("\r\x1b[Kspa-knock: 127.0.0.1: waiting for tcp port 1 (0 s)"), "{shown:?}");
    assert!(
        shown.contains("\r\x1b[Kspa-knock: 127.0.0.1: knocked, but"),
        "the status line is removed: {shown:?}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_key_that_cannot_be_written_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_spa-knock")).arg("keygen").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(text(&output.stderr), "spa-knock: standard output: no space left on device\n");
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let output = |command: &mut Command| command.env_remove("SPA_KNOCK_KEY").output().unwrap();
    for args in [&["completions", "zsh"][..], &["man"], &["keygen"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = output(Command::new(env!("CARGO_BIN_EXE_spa-knock")).args(args).stdout(writer));
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), ""), "{args:?}");
    }
}

/// A home folder with these files in `~/.config/spa-knock`.
fn home(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/spa-knock");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    home
}

/// Runs the client with this home folder.
fn at_home(home: &tempfile::TempDir, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spa-knock"))
        .env_clear()
        .env("HOME", home.path())
        .args(args)
        .output()
        .unwrap()
}

const SECRET: &str = "secret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[test]
fn a_key_is_found_by_its_address_and_otherwise_the_existing_keys_are_listed() {
    let pair = |server: &str, more: &str| {
        format!("spa-knock-key: 1\nkind: pair\nserver: {server}\n{more}{SECRET}\n")
    };
    let (bastion, other) = (pair("bastion", "address: 127.0.0.1\nport: 4000\n"), pair("other", ""));
    let home = home(&[("mine.key", &bastion), ("other.key", &other)]);
    for typed in ["127.0.0.1", "bastion", "BASTION."] {
        let output = at_home(&home, &["--dry-run", typed, "open-ssh"]);
        assert_eq!(output.status.code(), Some(0), "{typed}: {}", text(&output.stderr));
        let shown = text(&output.stdout);
        for part in ["server id    bastion\n", "mine.key\n", "address      127.0.0.1 port 4000\n"] {
            assert!(shown.contains(part), "{typed}: {shown}");
        }
    }
    let output = at_home(&home, &["192.0.2.9", "open-ssh"]);
    assert_eq!(output.status.code(), Some(5));
    let hint = "hint: use a server that you have a key for (mine, other), e.g. `spa-knock mine open-ssh`, and add `address: 192.0.2.9` to its key file if the server has that address\n";
    assert!(text(&output.stderr).ends_with(hint), "{}", text(&output.stderr));
    std::fs::copy(
        home.path().join(".config/spa-knock/mine.key"),
        home.path().join(".config/spa-knock/x.key"),
    )
    .unwrap();
    let output = at_home(&home, &["127.0.0.1", "open-ssh"]);
    assert!(text(&output.stderr).starts_with("spa-knock: 127.0.0.1: several keys match: mine, x\n"));
}

#[cfg(unix)]
#[test]
fn a_profile_that_others_can_change_is_rejected_and_its_command_does_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let home = home(&[]);
    let (folder, ran) = (home.path().join(".config/spa-knock"), home.path().join("ran"));
    let profile = folder.join("config.toml");
    let command = format!("[server.home]\nkey-command = [\"/usr/bin/touch\", \"{}\"]\n", ran.display());
    std::fs::write(&profile, command).unwrap();
    let chmod = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (file, folder_mode, object, mode) in
        [(0o666, 0o755, &profile, "0666"), (0o620, 0o755, &profile, "0620"), (0o600, 0o777, &folder, "0777")]
    {
        chmod(&profile, file);
        chmod(&folder, folder_mode);
        let output = at_home(&home, &["home", "open-ssh"]);
        let kind = if object == &profile { "profile" } else { "directory" };
        let path = object.display();
        let expected = format!(
            "spa-knock: {kind} {path}: mode {mode} allows others to change it\nhint: chmod go-w {path}\n"
        );
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(5), expected.as_str()));
        assert!(!ran.exists());
    }
    chmod(&profile, 0o644);
    chmod(&folder, 0o755);
    at_home(&home, &["home", "open-ssh"]);
    assert!(ran.exists(), "a profile that only its owner can change is used");
}

#[test]
fn a_token_from_a_pipe_ends_when_it_is_complete() {
    use std::io::Write as _;
    let home = home(&[]);
    let token = "spa-knock-ADUBAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8AAAAFaW5uZXIAAr8F8PLiUPw";
    let (first, second) = token.split_at(30);
    for input in [format!("{token}\nssh user@host: x\n"), format!("{first}\n{second}\nssh server\n")] {
        let mut client = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
        client.env_clear().env("HOME", home.path()).arg("import");
        client.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut client = client.spawn().unwrap();
        client.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = client.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        std::fs::remove_file(home.path().join(".config/spa-knock/inner.key")).unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_token_typed_at_a_terminal_is_hidden_ends_with_enter_and_can_be_interrupted() {
    use std::io::{Read as _, Write as _};
    use std::process::Stdio;
    let home = home(&[]);
    let token = "spa-knock-ADUBAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8AAAAFaW5uZXIAAr8F8PLiUPw";
    // The shell reads the input that the client leaves; stty prints whether the terminal echoes input again.
    let line = format!(
        "{} import; echo code $?; stty -a | tr ' ' '\\n' | sed -n 's/^echo$/echo is on/p'; read x; echo read $x",
        env!("CARGO_BIN_EXE_spa-knock")
    );
    let shell = home.path().join("shell");
    std::fs::write(&shell, line).unwrap();
    for (typed, code, rest) in
        [(format!("{token}\nmore\n"), "code 0", "read more"), ("spa\u{3}".to_owned(), "code 2", "read")]
    {
        let mut command = Command::new("script");
        command.args(["-qec", &format!("sh {}", shell.display()), "/dev/null"]).env("HOME", home.path());
        command.env_remove("XDG_CONFIG_HOME").stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = command.spawn() else { return };
        let mut terminal = child.stdout.take().unwrap();
        let mut shown = String::new();
        let mut bytes = [0; 1024];
        let mut keyboard = child.stdin.take();
        while let Ok(length @ 1..) = terminal.read(&mut bytes) {
            shown.push_str(&String::from_utf8_lossy(&bytes[..length]));
            // Type only after the terminal has stopped echoing input.
            if shown.contains("press Enter")
                && let Some(mut keyboard) = keyboard.take()
            {
                std::thread::sleep(Duration::from_millis(300));
                keyboard.write_all(typed.as_bytes()).unwrap();
                // Closing the keyboard would also send an end-of-file character.
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        child.wait().unwrap();
        for part in [code, rest, "echo is on"] {
            assert!(shown.contains(part), "{part}: {shown:?}");
        }
        assert!(!shown.contains("ADUBAAE") && !shown.contains("spa\r"), "{shown:?}");
    }
}
