//! Datagrams that get no reply: a counter at the client shows that the server sends nothing.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use spa_knock_core::crypto::{PairSecret, Secret, random};
use spa_knock_core::knock::{AddressPolicy, ReplyStatus};

use crate::net::{
    CLIENT4, CLIENT6, Counter, Daemon, KNOCK_PORT, Key, Lab, NEIGHBOR4, SERVER_ID, SERVER4, SERVER6, Site,
    ask, full, knock, limited, open_ssh,
};

/// Longer than a reply or an ICMP error needs to cross a cable.
const SETTLE: Duration = Duration::from_millis(500);

/// Source and destination of the datagrams.
const PATHS: [(IpAddr, IpAddr); 2] = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)];

fn send(socket: &UdpSocket, server: IpAddr, datagrams: &[Vec<u8>]) {
    for datagram in datagrams {
        socket.send_to(datagram, (server, KNOCK_PORT)).unwrap();
    }
}

#[test]
fn the_server_sends_nothing_for_forged_stale_foreign_or_malformed_datagrams() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    let cases: [(&str, Vec<Vec<u8>>); 8] = [
        ("random bytes", random_bytes()),
        ("a wrong key", vec![unknown_client().good()]),
        ("another server's knock", vec![Key::read(&site.key_path("laptop"), "other.test").good()]),
        ("a stale timestamp", [31, 60, 3_600, 86_400].map(|s| stamped(&key, -s)).to_vec()),
        // Some time passes until the last of these is sent, so they are further in the future than the end of the
        // window.
        ("a future timestamp", [60, 3_600, 86_400].map(|s| stamped(&key, s)).to_vec()),
        ("a truncated datagram", truncated(&key)),
        ("an extended datagram", extended(&key)),
        ("a changed bit", flipped(&key)),
    ];
    let counter = Counter::new(&lab.client);
    for (client, server) in PATHS {
        let socket = lab.client.udp(client);
        for (what, datagrams) in &cases {
            send(&socket, server, datagrams);
            thread::sleep(SETTLE);
            assert_eq!(counter.packets(), 0, "{what} to {server}");
        }
    }
    for (_, server) in PATHS {
        assert!(!lab.client.reaches(server, 22), "none of these datagrams opens the port");
    }
    let records: Vec<_> = site.audit().into_iter().filter(|record| record["event"] != "stale").collect();
    assert!(records.is_empty(), "{records:?}");
    // The server was able to reply.
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &key.good()).is_some());
}

fn unknown_client() -> Key {
    Key::new(&PairSecret::new(Secret::generate().unwrap()), SERVER_ID)
}

/// All lengths up to more than that of a knock, and some up to the maximum of a cable.
fn random_bytes() -> Vec<Vec<u8>> {
    let rounds = if full() { 20 } else { 1 };
    let lengths = (0..400).chain([511, 512, 1_024, 1_400]);
    let bytes = |length: usize| random::<1_400>().unwrap()[..length].to_vec();
    (0..rounds).flat_map(|_| lengths.clone().map(bytes)).collect()
}

fn stamped(key: &Key, seconds: i64) -> Vec<u8> {
    let mut knock = knock("open-ssh");
    let span = Duration::from_secs(seconds.unsigned_abs());
    let late = seconds < 0;
    knock.timestamp = if late { knock.timestamp.minus(span) } else { knock.timestamp.plus(span) };
    key.seal(&knock).as_bytes().to_vec()
}

fn truncated(key: &Key) -> Vec<Vec<u8>> {
    let whole = key.good();
    (0..whole.len()).map(|length| whole[..length].to_vec()).collect()
}

fn extended(key: &Key) -> Vec<Vec<u8>> {
    let whole = key.good();
    (1..=80).map(|more| [whole.clone(), vec![0; more]].concat()).collect()
}

fn flipped(key: &Key) -> Vec<Vec<u8>> {
    let whole = key.good();
    let flip = |bit: usize| {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    };
    // With a prime step, every field and every bit position of a byte is flipped. `core/tests/wire.rs` flips all bits.
    let step = if full() { 1 } else { 17 };
    (0..whole.len() * 8).step_by(step).map(flip).collect()
}

#[test]
fn a_replay_is_refused_from_any_address_immediately_and_after_ten_seconds() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let datagram = [site.key("laptop").good()];
    let socket = lab.client.udp(CLIENT4);
    let first = Instant::now();
    let reply = ask(&socket, SERVER4, &datagram[0]).expect("the first gets a reply");
    assert_eq!(ask(&socket, SERVER4, &datagram[0]), Some(reply), "a resend gets the same reply");

    let [ours, theirs] = [Counter::new(&lab.client), Counter::new(&lab.neighbor)];
    send(&lab.client.udp(CLIENT4), SERVER4, &datagram);
    send(&lab.client.udp(CLIENT6), SERVER6, &datagram);
    send(&lab.neighbor.udp(NEIGHBOR4), SERVER4, &datagram);
    thread::sleep(SETTLE);
    assert_eq!((ours.packets(), theirs.packets()), (0, 0), "immediately, from another port and address");
    assert!(!lab.neighbor.reaches(SERVER4, 22), "a replay opens nothing");

    lab.client.wait_until_closed(SERVER4, 22);
    let before = ours.packets();
    thread::sleep((first + Duration::from_millis(10_500)).saturating_duration_since(Instant::now()));
    send(&socket, SERVER4, &datagram);
    thread::sleep(SETTLE);
    assert_eq!(ours.packets(), before, "after ten seconds, from the same port");
    assert!(!lab.client.reaches(SERVER4, 22), "a replay does not open again");

    daemon.kill9();
    let _next = Daemon::start(&lab.server, &site);
    send(&socket, SERVER4, &datagram);
    thread::sleep(SETTLE);
    assert_eq!(ours.packets(), before, "after kill -9 and a restart");
    assert!(!lab.client.reaches(SERVER4, 22), "the next daemon knows the knocks of the killed one");
    assert_eq!(site.audit_of("granted").len(), 1);
}

#[test]
fn a_scan_of_the_knock_port_gets_no_response() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    assert_scans_get_no_response(&lab);
}

#[test]
fn a_scan_of_the_knock_port_on_named_interfaces_gets_no_response() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("interfaces = [\"lan0\", \"lan1\"]", &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    assert_scans_get_no_response(&lab);
}

#[test]
fn a_scan_of_the_knock_port_gets_no_response_with_an_ordinary_socket_either() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("capture = \"udp\"", &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    assert_scans_get_no_response(&lab);
}

fn assert_scans_get_no_response(lab: &Lab) {
    let counter = Counter::new(&lab.client);
    let port = KNOCK_PORT.to_string();
    for args in [&["-sU"][..], &["-sU", "-6"], &["-sU", "--data-length", "250"]] {
        let server = if args.contains(&"-6") { SERVER6 } else { SERVER4 }.to_string();
        let common =
            ["-n", "-Pn", "--reason", "--disable-arp-ping", "--max-retries", "1", "-p", &port, &server];
        let output = lab.client.output(limited("nmap").args(args).args(common));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "nmap is needed: {}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("open|filtered") && text.contains("no-response"), "{args:?}: {text}");
        assert_eq!(counter.packets(), 0, "nmap {args:?}");
    }
    for args in [&["--udp"][..], &["--udp", "-d", "250"], &["--udp", "-d", "250", "-f"]] {
        let common = ["-q", "-n", "-c", "3", "-i", "u100000", "-p", &port, &SERVER4.to_string()];
        let output = lab.client.output(limited("hping3").args(args).args(common));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("0 packets received"), "hping3 {args:?}: {text}");
        assert_eq!(counter.packets(), 0, "hping3 {args:?}");
    }
    let args = ["-sS", "-n", "-Pn", "--disable-arp-ping", "--max-retries", "1", "-p", "22"];
    let output = lab.client.output(limited("nmap").args(args).arg(SERVER4.to_string()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("22/tcp filtered"), "{text}");
    assert_eq!(counter.packets(), 0, "a protected port is silent too");
}

#[test]
fn a_knock_from_an_address_other_than_the_signed_one_is_refused_but_not_used_up() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    let IpAddr::V4(signed) = CLIENT4 else { unreachable!() };
    let mut exact = knock("open-ssh");
    (exact.policy, exact.ipv4) = (AddressPolicy::Exact, Some(signed));
    let datagram = key.seal(&exact);

    // The neighbor sends a copy of the knock before the client sends the knock itself.
    let reply = ask(&lab.neighbor.udp(NEIGHBOR4), SERVER4, datagram.as_bytes()).expect("a reply");
    let reply = key.open(&reply, &datagram);
    assert_eq!((reply.status, reply.observed, reply.seconds), (ReplyStatus::AddressRefused, NEIGHBOR4, 0));
    assert!(!lab.neighbor.reaches(SERVER4, 22));
    assert!(!lab.client.reaches(SERVER4, 22), "the copy opens nothing for the signed address either");

    let reply = ask(&lab.client.udp(CLIENT4), SERVER4, datagram.as_bytes()).expect("a reply");
    assert_eq!(key.open(&reply, &datagram).status, ReplyStatus::Granted);
    assert!(lab.client.reaches(SERVER4, 22));
    assert!(!lab.neighbor.reaches(SERVER4, 22));
}

#[test]
fn the_client_reports_an_address_refusal_by_its_exit_code() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let elsewhere = Ipv4Addr::new(10, 77, 0, 9).to_string();
    let output = lab.client.output(&mut site.knock(SERVER4, &["--source", &elsewhere, "open-ssh"]));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("address"), "{text}");
    assert!(!lab.client.reaches(SERVER4, 22));
}

#[test]
fn the_client_reports_a_missing_reply_by_its_exit_code() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let args = ["--server-id", "other.test", "--timeout", "1s", "open-ssh"];
    let output = lab.client.output(&mut site.knock(SERVER4, &args));
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}
