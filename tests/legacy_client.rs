//! The legacy client as a process, and the packets that it sends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::indexing_slicing, reason = "a test")]
#![cfg(all(unix, feature = "legacy"))]

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const SPA_KNOCK: &str = env!("CARGO_BIN_EXE_spa-knock");

/// A TCP port and a UDP port on the loopback interface.
struct Ports {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Ports {
    fn new() -> Self {
        let ports = Self {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
        };
        ports.tcp.set_nonblocking(true).unwrap();
        ports.udp.set_nonblocking(true).unwrap();
        ports
    }

    fn tcp(&self) -> String {
        self.tcp.local_addr().unwrap().port().to_string()
    }

    fn udp(&self) -> String {
        self.udp.local_addr().unwrap().port().to_string()
    }

    /// The number of connections and the datagrams that have arrived.
    fn received(&self) -> (usize, Vec<Vec<u8>>) {
        let connections = std::iter::from_fn(|| until_empty(self.tcp.accept()));
        let mut bytes = [0; 16];
        let datagrams = std::iter::from_fn(|| {
            until_empty(self.udp.recv(&mut bytes)).map(|length| bytes[..length].to_vec())
        });
        (connections.count(), datagrams.collect())
    }
}

fn until_empty<T>(result: std::io::Result<T>) -> Option<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        received => Some(received.unwrap()),
    }
}

fn knock(program: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

fn legacy(args: &[&str]) -> Output {
    knock(Path::new(SPA_KNOCK), &[&["legacy"], args].concat())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn each_knock_is_one_connection_or_one_datagram_with_a_zero_byte() {
    let ports = Ports::new();
    let (tcp, udp) = (ports.tcp(), ports.udp());
    let output = legacy(&["-v", "127.0.0.1", &tcp, &format!("{udp}:UDP"), &format!("{tcp}:foo")]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert_eq!(
        text(&output.stdout),
        format!("hitting tcp 127.0.0.1:{tcp}\nhitting udp 127.0.0.1:{udp}\nhitting tcp 127.0.0.1:{tcp}\n")
    );
    assert_eq!(ports.received(), (2, vec![vec![0]]));

    let output = legacy(&["127.0.0.1", "-u", &udp, &format!("{udp}:tcp")]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert_eq!(ports.received(), (0, vec![vec![0], vec![0]]));
}

#[test]
fn the_delay_follows_every_knock() {
    let ports = Ports::new();
    let start = Instant::now();
    assert!(legacy(&["--del", "60", "127.0.0.1", &ports.tcp(), &ports.tcp()]).status.success());
    assert!(start.elapsed() >= Duration::from_millis(120));
}

#[test]
fn a_link_named_knock_behaves_as_knock_and_exits_with_1_if_nothing_was_sent() {
    let scratch = tempfile::tempdir().unwrap();
    let link = scratch.path().join("knock");
    std::os::unix::fs::symlink(SPA_KNOCK, &link).unwrap();
    let ports = Ports::new();
    assert_eq!(knock(&link, &["127.0.0.1", &ports.tcp()]).status.code(), Some(0));
    assert_eq!(ports.received(), (1, vec![]));
    for (args, code) in [
        (&["127.0.0.1", "99999"][..], 1),
        (&["127.0.0.1"], 1),
        (&[], 1),
        (&["-h"], 1),
        (&["--help"], 1),
        (&["-x", "127.0.0.1", "1"], 1),
        (&["-d", "-1", "127.0.0.1", "1"], 1),
        (&["-6", "127.0.0.1", "1"], 1),
        (&["224.0.0.1", "1"], 1),
        (&["-V"], 0),
    ] {
        let output = knock(&link, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(!output.stderr.is_empty() || !output.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(
        text(&knock(&link, &["127.0.0.1", "99999"]).stderr),
        "knock: port 99999: must be at most 65535\n"
    );
}

#[test]
fn nothing_is_sent_if_a_part_of_the_sequence_is_invalid() {
    let ports = Ports::new();
    assert_eq!(legacy(&["127.0.0.1", &ports.tcp(), "70000"]).status.code(), Some(2));
    assert_eq!(ports.received(), (0, vec![]));
}

#[test]
fn a_one_time_sequence_is_marked_as_used_after_it_is_sent() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("sequences");
    let ports = Ports::new();
    let (tcp, udp) = (ports.tcp(), ports.udp());
    let lines = format!("# mine\n {tcp},{udp}:udp\n {udp}:udp\n");
    std::fs::write(&file, &lines).unwrap();
    let once = |server: &str| legacy(&["--one-time", file.to_str().unwrap(), server]);

    assert_eq!(once("224.0.0.1").status.code(), Some(4));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), lines, "nothing was sent");

    assert_eq!(once("127.0.0.1").status.code(), Some(0));
    assert_eq!(ports.received(), (1, vec![vec![0]]));
    assert_eq!(once("127.0.0.1").status.code(), Some(0));
    assert_eq!(ports.received(), (0, vec![vec![0]]));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("# mine\n#{tcp},{udp}:udp\n#{udp}:udp\n"));
    let output = once("127.0.0.1");
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("no unused sequence left"), "{output:?}");
}
