//! The client as a process, against a server on the loopback that answers as it is told: exit codes, what goes
//! where, and what scripts read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::indexing_slicing, reason = "a test")]

mod loopback;

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output};
use std::time::Duration;

use spa_knock::knock::Status;

use loopback::{KEY, server, text};

/// Runs the client in an empty home.
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
fn a_grant_ends_with_0_and_is_told_on_standard_error() {
    let (port, answered) = server(Status::Granted, Duration::ZERO);
    let output = spa_knock(port, &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "spa-knock: 127.0.0.1: open-ssh granted to 127.0.0.1 for 30s (hello)\n");
    assert!(output.stdout.is_empty());
    answered.join().unwrap();
}

#[test]
fn quiet_says_nothing_of_a_grant() {
    let (port, answered) = server(Status::Granted, Duration::from_secs(3600));
    let output = spa_knock(port, &["-q"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    answered.join().unwrap();
}

#[test]
fn json_is_one_object_on_standard_output() {
    let (port, answered) = server(Status::Granted, Duration::ZERO);
    let output = spa_knock(port, &["--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, value) in
        [("result", "granted"), ("action", "open-ssh"), ("server", "127.0.0.1"), ("address", "127.0.0.1")]
    {
        assert_eq!(json[name], value);
    }
    assert_eq!(json["seconds"], 30);
    assert!(json["server_time_ms"].is_u64() && json["round_trip_ms"].as_f64() > Some(0.0));
    answered.join().unwrap();
}

#[test]
fn a_refusal_ends_with_1_and_its_reason() {
    let (port, answered) = server(Status::NotAllowed, Duration::ZERO);
    let output = spa_knock(port, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stdout),
        "{\"result\":\"refused\",\"code\":1,\"reason\":\"127.0.0.1: open-ssh refused: not allowed (hello)\"}\n"
    );
    assert!(text(&output.stderr).contains("\nhint: "));
    answered.join().unwrap();
}

#[test]
fn clocks_that_are_apart_are_told() {
    let (port, answered) = server(Status::Done, Duration::from_secs(20));
    let output = spa_knock(port, &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("warning: clock: "), "{}", text(&output.stderr));
    answered.join().unwrap();
}

#[test]
fn silence_ends_with_3_and_says_what_it_can_mean() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = spa_knock(silent.local_addr().unwrap().port(), &["--timeout", "100ms", "-o", "json"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).starts_with("{\"result\":\"no-reply\",\"code\":3,"));
    for meaning in ["wrong key or server id", "clocks apart", "filtered", "no replies"] {
        assert!(text(&output.stderr).contains(meaning), "{meaning}");
    }
}

#[test]
fn waiting_ends_with_0_when_the_port_accepts_and_with_3_when_it_never_does() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().port().to_string();
    // Below 1024: no test beside this one is given it.
    for (door, code) in [(open.as_str(), 0), ("1", 3)] {
        let (port, answered) = server(Status::Granted, Duration::ZERO);
        let output = spa_knock(port, &["--timeout", "500ms", "--wait", door]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        answered.join().unwrap();
    }
}

#[test]
fn without_a_reply_one_datagram_is_enough() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let output = spa_knock(socket.local_addr().unwrap().port(), &["--no-reply", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output.stdout),
        "{\"result\":\"sent\",\"action\":\"open-ssh\",\"server\":\"127.0.0.1\",\"address\":\"127.0.0.1\",\"seconds\":null,\"server_time_ms\":null,\"round_trip_ms\":null}\n"
    );
}

#[test]
fn a_malformed_key_in_the_environment_is_told_by_line_without_its_text() {
    for (key, reason) in [
        ("sesame", "line 1: expected 'name: value'"),
        ("secret: sesame", "the line 'spa-knock-key: …' is missing"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_spa-knock"))
            .arg("show")
            .env("SPA_KNOCK_KEY", key)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(5));
        let told = text(&output.stderr);
        assert!(told.starts_with(&format!("spa-knock: key in $SPA_KNOCK_KEY: {reason}\nhint: ")), "{told}");
        assert!(!told.contains("sesame"));
    }
}

#[cfg(unix)]
#[test]
fn the_profile_may_name_a_command_that_prints_the_key() {
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
    assert_eq!(
        run("[\"false\"]", Some(KEY)).status.code(),
        Some(0),
        "what is in the environment comes first"
    );

    for (command, told) in [
        ("[\"false\"]", "spa-knock: key-command false: exit status: 1\nhint: "),
        ("[\"/no/such/pass\", \"sesame\"]", "spa-knock: key-command /no/such/pass: not found\nhint: "),
        ("[\"echo\", \"sesame\"]", "spa-knock: key from key-command echo: line 1: expected 'name: value'\n"),
    ] {
        let output = run(command, None);
        assert_eq!(output.status.code(), Some(5));
        assert!(text(&output.stderr).starts_with(told), "{}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("sesame"));
    }
}

#[test]
fn a_token_in_the_environment_is_a_key() {
    let run = |token: &str| {
        let mut client = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
        client.env("SPA_KNOCK_KEY", token).arg("show").output().unwrap()
    };
    let token = "spa-knock-ADUBAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8AAAAFaW5uZXIAAr8F8PLiUPw";
    let output = run(token);
    assert!(text(&output.stdout).contains("server       inner\n"), "{output:?}");
    let output = run(&token.replace("AAAF", "AAAE"));
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).starts_with("spa-knock: key in $SPA_KNOCK_KEY: checksum: "), "{output:?}");
}

/// Whether a value has one of the forms of `docs/output.schema.json`, as far as that uses JSON Schema.
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
fn what_is_printed_as_json_has_the_form_that_the_schema_says() {
    let schema = serde_json::from_str(include_str!("../docs/output.schema.json")).unwrap();
    let told = |output: &Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let mut seen = Vec::new();
    for status in [Status::Granted, Status::Done, Status::NotAllowed] {
        let (port, answered) = server(status, Duration::ZERO);
        seen.push(told(&spa_knock(port, &["-o", "json"])));
        answered.join().unwrap();
    }
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for more in [
        &["--timeout", "50ms"][..],
        &["--no-reply"],
        &["--dry-run"],
        &["--key", "none.key"],
        &["--ports", "--for", "5s"],
        &["--dry-run", "--otp", "123456"],
        &["--dry-run", "--ports"],
    ] {
        seen.push(told(&spa_knock(port, &[&["-o", "json"], more].concat())));
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
        ["granted", "done", "refused", "no-reply", "sent", "dry-run", "error", "error", "dry-run", "dry-run"]
    );
}

#[cfg(target_os = "linux")]
#[test]
fn waiting_shows_a_line_on_a_terminal_and_nothing_in_a_pipe() {
    let command = |port: u16| {
        let program = env!("CARGO_BIN_EXE_spa-knock");
        format!("{program} --server-id bastion --port {port} --timeout 400ms --wait 1 127.0.0.1 open-ssh")
    };
    let run = |program: &str, words: &[&str]| {
        let mut client = Command::new(program);
        let output = client.args(words).env("SPA_KNOCK_KEY", KEY).stdin(std::process::Stdio::null()).output();
        let Ok(output) = output else { return None };
        Some(text(&output.stdout).to_owned() + text(&output.stderr))
    };
    let (port, answered) = server(Status::Granted, Duration::ZERO);
    let piped = run("sh", &["-c", &command(port)]).unwrap();
    answered.join().unwrap();
    assert!(!piped.contains("waiting") && !piped.contains('\r'), "{piped:?}");
    let (port, answered) = server(Status::Granted, Duration::ZERO);
    let Some(shown) = run("script", &["-qec", &command(port), "/dev/null"]) else { return };
    answered.join().unwrap();
    assert!(shown.contains("\r\x1b[Kspa-knock: 127.0.0.1: waiting for tcp port 1 (0 s)"), "{shown:?}");
    assert!(shown.contains("\r\x1b[Kspa-knock: 127.0.0.1: knocked, but"), "the line has gone: {shown:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_key_that_cannot_be_written_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_spa-knock")).arg("keygen").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(text(&output.stderr), "spa-knock: standard output: no space left on device\n");
}
