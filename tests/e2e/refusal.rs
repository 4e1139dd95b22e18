//! What the server does not answer: nothing leaves it, counted where it would arrive.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use spa_knock_core::crypto::{PairSecret, Secret, random};
use spa_knock_core::knock::{AddressPolicy, ReplyStatus};

use crate::net::{
    CLIENT4, CLIENT6, Counter, Daemon, KNOCK_PORT, Key, Lab, NEIGHBOUR4, SERVER_ID, SERVER4, SERVER6, Site,
    ask, full, knock, limited, open_ssh,
};

/// Longer than an answer or an ICMP error needs to cross a cable.
const SETTLE: Duration = Duration::from_millis(500);

/// Where a datagram may come from and go to.
const PATHS: [(IpAddr, IpAddr); 2] = [(CLIENT4, SERVER4), (CLIENT6, SERVER6)];

fn send(socket: &UdpSocket, server: IpAddr, datagrams: &[Vec<u8>]) {
    for datagram in datagrams {
        socket.send_to(datagram, (server, KNOCK_PORT)).unwrap();
    }
}

#[test]
fn nothing_leaves_the_server_for_what_is_forged_stale_foreign_or_misshapen() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    let cases: [(&str, Vec<Vec<u8>>); 8] = [
        ("random bytes", random_bytes()),
        ("a wrong key", vec![stranger().good()]),
        ("another server's knock", vec![Key::read(&site.key_path("laptop"), "other.test").good()]),
        ("a stale timestamp", [31, 60, 3_600, 86_400].map(|s| stamped(&key, -s)).to_vec()),
        // Time passes until the last of these is sent, so they are further off than the window's edge.
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
        assert!(!lab.client.reaches(server, 22), "nothing of that opens anything");
    }
    let told: Vec<_> = site.audit().into_iter().filter(|record| record["event"] != "stale").collect();
    assert!(told.is_empty(), "{told:?}");
    // The silence was not deafness.
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &key.good()).is_some());
}

fn stranger() -> Key {
    Key::new(&PairSecret::new(Secret::generate().unwrap()), SERVER_ID)
}

/// Every short length, those of a knock, and some as long as a cable carries.
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
    // A prime step touches every field and every bit of a byte; all of them are tried in `core/tests/wire.rs`.
    let step = if full() { 1 } else { 17 };
    (0..whole.len() * 8).step_by(step).map(flip).collect()
}

#[test]
fn a_replay_is_refused_from_anywhere_at_once_and_after_ten_seconds() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let datagram = [site.key("laptop").good()];
    let socket = lab.client.udp(CLIENT4);
    let first = Instant::now();
    let answer = ask(&socket, SERVER4, &datagram[0]).expect("the first is answered");
    assert_eq!(ask(&socket, SERVER4, &datagram[0]), Some(answer), "resending gets the same bytes");

    let [ours, theirs] = [Counter::new(&lab.client), Counter::new(&lab.neighbour)];
    send(&lab.client.udp(CLIENT4), SERVER4, &datagram);
    send(&lab.client.udp(CLIENT6), SERVER6, &datagram);
    send(&lab.neighbour.udp(NEIGHBOUR4), SERVER4, &datagram);
    thread::sleep(SETTLE);
    assert_eq!((ours.packets(), theirs.packets()), (0, 0), "at once, from another port and address");
    assert!(!lab.neighbour.reaches(SERVER4, 22), "a copy opens nothing");

    lab.client.closing(SERVER4, 22);
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
    assert_eq!(ours.packets(), before, "after kill -9 and a new start");
    assert!(!lab.client.reaches(SERVER4, 22), "a new daemon knows what the old one has seen");
    assert_eq!(site.audit_of("granted").len(), 1);
}

#[test]
fn a_scan_of_the_knock_port_sees_silence() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    scans_see_silence(&lab);
}

#[test]
fn a_scan_of_the_knock_port_on_named_interfaces_sees_silence() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("interfaces = [\"lan0\", \"lan1\"]", &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    scans_see_silence(&lab);
}

#[test]
fn a_scan_of_the_knock_port_sees_silence_with_a_plain_socket_too() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("capture = \"udp\"", &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    scans_see_silence(&lab);
}

fn scans_see_silence(lab: &Lab) {
    let counter = Counter::new(&lab.client);
    let port = KNOCK_PORT.to_string();
    for words in [&["-sU"][..], &["-sU", "-6"], &["-sU", "--data-length", "250"]] {
        let server = if words.contains(&"-6") { SERVER6 } else { SERVER4 }.to_string();
        let common =
            ["-n", "-Pn", "--reason", "--disable-arp-ping", "--max-retries", "1", "-p", &port, &server];
        let output = lab.client.output(limited("nmap").args(words).args(common));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "nmap is needed: {}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("open|filtered") && said.contains("no-response"), "{words:?}: {said}");
        assert_eq!(counter.packets(), 0, "nmap {words:?}");
    }
    for words in [&["--udp"][..], &["--udp", "-d", "250"], &["--udp", "-d", "250", "-f"]] {
        let common = ["-q", "-n", "-c", "3", "-i", "u100000", "-p", &port, &SERVER4.to_string()];
        let output = lab.client.output(limited("hping3").args(words).args(common));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("0 packets received"), "hping3 {words:?}: {said}");
        assert_eq!(counter.packets(), 0, "hping3 {words:?}");
    }
    let words = ["-sS", "-n", "-Pn", "--disable-arp-ping", "--max-retries", "1", "-p", "22"];
    let output = lab.client.output(limited("nmap").args(words).arg(SERVER4.to_string()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("22/tcp filtered"), "{said}");
    assert_eq!(counter.packets(), 0, "a protected port is silent too");
}

#[test]
fn a_knock_from_another_address_than_the_signed_one_is_refused_and_not_used_up() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    let IpAddr::V4(signed) = CLIENT4 else { unreachable!() };
    let mut exact = knock("open-ssh");
    (exact.policy, exact.ipv4) = (AddressPolicy::Exact, Some(signed));
    let datagram = key.seal(&exact);

    // The neighbour is faster with a copy than the client with the knock itself.
    let answer = ask(&lab.neighbour.udp(NEIGHBOUR4), SERVER4, datagram.as_bytes()).expect("an answer");
    let reply = key.open(&answer, &datagram);
    assert_eq!((reply.status, reply.observed, reply.seconds), (ReplyStatus::AddressRefused, NEIGHBOUR4, 0));
    assert!(!lab.neighbour.reaches(SERVER4, 22));
    assert!(!lab.client.reaches(SERVER4, 22), "the copy opens nothing for the signed address either");

    let answer = ask(&lab.client.udp(CLIENT4), SERVER4, datagram.as_bytes()).expect("an answer");
    assert_eq!(key.open(&answer, &datagram).status, ReplyStatus::Granted);
    assert!(lab.client.reaches(SERVER4, 22));
    assert!(!lab.neighbour.reaches(SERVER4, 22));
}

#[test]
fn the_client_tells_an_address_refusal_by_its_exit_code() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let elsewhere = Ipv4Addr::new(10, 77, 0, 9).to_string();
    let output = lab.client.output(&mut site.knock(SERVER4, &["--source", &elsewhere, "open-ssh"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("address"), "{said}");
    assert!(!lab.client.reaches(SERVER4, 22));
}

#[test]
fn the_client_tells_silence_by_its_exit_code() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let words = ["--server-id", "other.test", "--timeout", "1s", "open-ssh"];
    let output = lab.client.output(&mut site.knock(SERVER4, &words));
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}
