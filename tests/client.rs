//! The client as a process, against a server on the loopback that answers as it is told: exit codes, what goes
//! where, and what scripts read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::indexing_slicing, reason = "a test")]

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use spa_knock::crypto::{Holder, KeyFile, random};
use spa_knock::knock::{Reply, ReplyText, Status};
use spa_knock::os::clock;
use spa_knock::wire::{Envelope, seal_reply};

const KEY: &str = "spa-knock-key: 1\nkind: root\nsecret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// Answers one knock at the server `bastion`; what it does with its clock is up to the caller.
fn server(status: Status, clock_ahead: Duration) -> (u16, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let port = socket.local_addr().unwrap().port();
    let answered = thread::spawn(move || {
        let mut bytes = [0; 512];
        let (length, from) = loop {
            // A frozen and thawed machine interrupts receiving with a time limit.
            match socket.recv_from(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        let Holder::Root(root) = KeyFile::parse(KEY).ok().unwrap().holder else { return };
        let id = "bastion".parse().unwrap();
        let keys = root.pair(&id).keys(&id).keeper();
        let envelope = Envelope::read(&bytes[..length]).unwrap();
        assert!(envelope.open(&keys).unwrap().understand().is_ok());
        let reply = Reply {
            status,
            server_time: clock::wall().plus(clock_ahead),
            observed: from.ip(),
            port: from.port(),
            seconds: if status == Status::Granted { 30 } else { 0 },
            text: ReplyText::fitting("hello"),
        };
        let sealed = seal_reply(&reply, &keys.reply, envelope.nonce, &random().unwrap()).unwrap();
        socket.send_to(&sealed, from).unwrap();
    });
    (port, answered)
}

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

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
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

#[cfg(target_os = "linux")]
#[test]
fn a_key_that_cannot_be_written_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_spa-knock")).arg("keygen").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(text(&output.stderr), "spa-knock: standard output: no space left on device\n");
}
