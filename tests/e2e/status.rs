//! The status of a running daemon: every result of a knock is counted, dropped packets are shown, and requests do not
//! delay knocks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use spa_knock_core::knock::{Knock, Timestamp};

use crate::net::{CLIENT4, Daemon, KNOCK_PORT, Lab, SERVER4, Site, ask, knock, open_ssh, within};

const SOON: Duration = Duration::from_secs(2);

fn command(site: &Site, args: &[&str]) -> Command {
    site.admin(&[&["status"], args].concat())
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn status(site: &Site) -> Value {
    serde_json::from_str(&stdout(&command(site, &["--json"]).output().unwrap())).unwrap()
}

/// Number of knocks with this result.
fn count_of(status: &Value, event: &str, reason: &str) -> u64 {
    let knocks = status["knocks"].as_array().unwrap();
    let result = knocks.iter().find(|result| result["event"] == event && result["reason"] == reason);
    result.expect("every result is listed")["count"].as_u64().unwrap()
}

fn send(socket: &UdpSocket, datagram: &[u8]) {
    socket.send_to(datagram, (SERVER4, KNOCK_PORT)).unwrap();
}

/// A knock with a timestamp just outside the window, in an epoch whose hints are still known.
fn stale() -> Knock {
    const WINDOW: u64 = 30_000;
    loop {
        let mut old = knock("open-ssh");
        let now = old.timestamp.as_millis();
        let stamp = now - WINDOW - 500;
        if stamp / 60_000 == (now + 1_000 - WINDOW) / 60_000 {
            old.timestamp = Timestamp::from_millis(stamp);
            return old;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn every_result_of_a_knock_is_counted_by_reason_and_packets_of_unknown_clients_are_counted() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    let laptop = site.key("laptop");
    let socket = lab.client.udp(CLIENT4);

    // A grant from the console is no knock.
    assert!(lab.server.output(&mut site.admin(&["let-in", "203.0.113.5"])).status.success());
    let good = laptop.good();
    assert!(ask(&socket, SERVER4, &good).is_some());
    assert!(ask(&socket, SERVER4, &good).is_some(), "a resend gets its reply again");
    assert!(ask(&socket, SERVER4, laptop.seal(&knock("close-all")).as_bytes()).is_some());
    send(&socket, laptop.seal(&stale()).as_bytes());
    // From another port it is a replay, not a resend.
    send(&lab.client.udp(CLIENT4), &good);
    let mut forged = laptop.good();
    *forged.last_mut().unwrap() ^= 1;
    send(&socket, &forged);
    send(&socket, &[7; 250]);
    send(&socket, &[8; 250]);

    let counted = |status: &Value| {
        status["datagrams"]["unknown_hint"] == 2 && count_of(status, "replayed", "replayed") == 1
    };
    assert!(within(SOON, || counted(&status(&site))), "{}", status(&site));
    let now = status(&site);
    for (event, reason, count) in [
        ("granted", "", 1),
        ("resent", "", 1),
        ("refused", "unknown-action", 1),
        ("refused", "not-allowed", 0),
        ("stale", "stale", 1),
        ("replayed", "replayed", 1),
        ("failed", "", 0),
    ] {
        assert_eq!(count_of(&now, event, reason), count, "{event} {reason}: {now}");
    }
    let datagrams = &now["datagrams"];
    assert_eq!((&datagrams["authentic"], &datagrams["forged"]), (&5.into(), &1.into()), "{now}");
    assert_eq!(now["capture"]["frames"]["received"], 8, "{now}");
    assert_eq!(now["capture"]["frames"]["dropped"], 0, "{now}");
    assert_eq!((&now["grants"], &now["clients"], &now["actions"]), (&2.into(), &1.into(), &1.into()));
    assert_eq!((&now["server"], &now["pid"]), (&"bastion.test".into(), &daemon.id().as_raw().into()));
    assert_eq!(now["gate"]["state"], "on");

    let text = stdout(&command(&site, &[]).output().unwrap());
    assert!(text.contains("1 granted, 1 resent, 1 stale, 1 replayed, 1 refused (unknown-action)"), "{text}");
    assert!(!text.contains('\x1b'), "no colors in a pipe");
    let page = stdout(&command(&site, &["--prometheus"]).output().unwrap());
    assert!(page.contains("spa_knock_knocks_total{event=\"stale\",reason=\"stale\"} 1\n"), "{page}");
    assert!(page.contains("spa_knock_datagrams_total{verdict=\"unknown-hint\"} 2\n"), "{page}");
}

#[test]
fn the_counters_of_a_watcher_are_kept_when_it_dies_and_is_replaced() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    for _ in 0..3 {
        send(&socket, &[7; 250]);
    }
    assert!(within(SOON, || status(&site)["datagrams"]["unknown_hint"] == 3));
    assert_eq!(status(&site)["watcher"]["restarts"], 0);
    kill(daemon.watcher().unwrap(), Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.log().contains("watching again")));
    assert_eq!(status(&site)["watcher"]["restarts"], 1);
    send(&socket, &[7; 250]);
    assert!(within(SOON, || status(&site)["datagrams"]["unknown_hint"] == 4), "{}", status(&site));
    assert_eq!(status(&site)["capture"]["frames"]["received"], 4);

    // A watcher that is replaced by a reload reports its counters before it exits.
    send(&socket, &[7; 250]);
    thread::sleep(Duration::from_millis(50));
    site.write_config("interfaces = [\"lan0\"]\n", &open_ssh(30));
    daemon.reload();
    assert_eq!(status(&site)["datagrams"]["unknown_hint"], 5);
}

#[test]
fn frames_that_a_slow_watcher_has_missed_are_shown() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    let watcher = daemon.watcher().unwrap();
    assert_eq!(status(&site)["capture"]["frames"]["received"], 0);
    kill(watcher, Signal::SIGSTOP).unwrap();
    let socket = lab.client.udp(CLIENT4);
    // More than fit into the ring of 2 MiB.
    for _ in 0..8_000 {
        send(&socket, &[7; 250]);
    }
    let start = Instant::now();
    assert_eq!(status(&site)["capture"]["frames"]["received"], 0, "a watcher that does not respond");
    assert!(start.elapsed() < Duration::from_secs(1), "the daemon does not wait for it");
    kill(watcher, Signal::SIGCONT).unwrap();
    let frames = || status(&site)["capture"]["frames"].clone();
    assert!(within(SOON, || frames()["received"] == 8_000), "{}", frames());
    let dropped = frames()["dropped"].as_u64().unwrap();
    assert!((1..8_000).contains(&dropped), "{dropped}");
    let text = stdout(&command(&site, &[]).output().unwrap());
    assert!(text.contains(&format!("8000 frames, {dropped} dropped")), "{text}");
}

#[test]
fn with_an_ordinary_socket_there_are_no_frame_counters() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("capture = \"udp\"\n", &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    let now = status(&site);
    assert_eq!((&now["capture"]["frames"], &now["capture"]["kind"]), (&Value::Null, &"udp".into()));
    assert_eq!(count_of(&now, "granted", ""), 1);
}

#[test]
fn status_watch_prints_repeatedly_and_exits_successfully_on_ctrl_c() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knockd"));
    command.args(["status", "--watch", "-c"]).arg(site.path("spa-knockd.toml"));
    let watching = command.stdout(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(2_500));
    kill(Pid::from_raw(watching.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let output = watching.wait_with_output().unwrap();
    let text = stdout(&output);
    assert!((2..=4).contains(&text.matches("bastion.test").count()), "{text}");
    assert!(text.contains("laptop  open-ssh  10.77.0.2  tcp/22"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn without_a_daemon_status_fails_with_a_message() {
    let site = Site::new("", &open_ssh(30));
    let output = command(&site, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no daemon listens at"));
}

/// Sends an HTTP request to the daemon from inside its namespace and returns the response.
fn http(lab: &Lab, address: &str, request: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    lab.server.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(400)).ok()?;
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).ok().map(|_| response)
    })
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
const METRICS: &str = "127.0.0.1:9842";

#[test]
fn metrics_are_served_only_on_the_host_itself_and_a_reload_changes_their_address() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    assert_eq!(http(&lab, METRICS, GET), None, "without `metrics` in the config, nothing listens");
    site.write_config(&format!("metrics = \"{METRICS}\"\n"), &open_ssh(30));
    daemon.reload();
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    let response = http(&lab, METRICS, GET).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("\nspa_knock_knocks_total{event=\"granted\",reason=\"\"} 1\n"), "{response}");
    assert!(response.contains("\nspa_knock_datagrams_total{verdict=\"authentic\"} 1\n"), "{response}");
    assert!(!response.contains("laptop"), "client names are not visible to all users of the host");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "404"),
        ("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "405"),
        ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), "400"),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(5_000)), "400"),
    ] {
        let response = http(&lab, METRICS, &request).unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
    }
    assert!(!lab.client.reaches(SERVER4, 9842));

    site.write_config("metrics = \"[::1]:9843\"\n", &open_ssh(30));
    daemon.reload();
    assert_eq!(http(&lab, METRICS, GET), None);
    assert!(http(&lab, "[::1]:9843", GET).is_some());
    site.write_config("metrics = \"10.77.0.1:9842\"\n", &open_ssh(30));
    daemon.reload();
    assert!(daemon.log().contains("server.metrics: 10.77.0.1 is not a loopback address"), "{}", daemon.log());
    assert!(http(&lab, "[::1]:9843", GET).is_some(), "the old config stays");
    site.write_config("", &open_ssh(30));
    daemon.reload();
    assert_eq!(http(&lab, "[::1]:9843", GET), None);
}

#[test]
fn slow_or_silent_metrics_connections_do_not_delay_a_knock() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(&format!("metrics = \"{METRICS}\"\n"), &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    let address: SocketAddr = METRICS.parse().unwrap();
    let mut peers: Vec<TcpStream> =
        lab.server.enter(|| (0..40).map(|_| TcpStream::connect(address).unwrap()).collect());
    let socket = lab.client.udp(CLIENT4);
    let key = site.key("laptop");
    for round in 0..10_usize {
        for peer in peers.iter_mut().skip(round * 2).take(2) {
            let _ = peer.write_all(b"GET /met");
        }
        let start = Instant::now();
        assert!(ask(&socket, SERVER4, &key.good()).is_some());
        assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
    }
    // Sixteen connections are served at a time and closed after two seconds; then others are served.
    drop(peers.split_off(10));
    assert!(within(Duration::from_secs(6), || http(&lab, METRICS, GET).is_some()));
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.id())).unwrap();
        let fields: Vec<u64> = stat.split(' ').skip(13).take(2).map(|field| field.parse().unwrap()).collect();
        fields.iter().sum::<u64>()
    };
    let _silent: Vec<TcpStream> =
        lab.server.enter(|| (0..20).map(|_| TcpStream::connect(address).unwrap()).collect());
    let before = ticks();
    thread::sleep(Duration::from_millis(1_500));
    assert!(ticks() - before < 30, "waiting for them uses no CPU time");
}
