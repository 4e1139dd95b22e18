//! A watcher that hangs, an interface that appears late, and a knock port used by another process: the daemon misses no
//! more knocks than necessary.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, NEIGHBOR4, SERVER4, Site, ask, ask_patiently, open_ssh, within,
};

const SOON: Duration = Duration::from_secs(20);
/// A watcher is considered to hang if it has sent no report for 35 s.
const HANGS: Duration = Duration::from_secs(60);

fn status(site: &Site) -> Value {
    let output = site.admin(&["status", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

#[test]
fn watchers_that_hang_are_replaced() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", "");
    fs::write(site.path("knockd.conf"), "[a]\nsequence = 7000,8000\ncommand = /bin/true\n").unwrap();
    let legacy = format!("{}\n[legacy]\nknockd = \"{}\"\n", open_ssh(2), site.path("knockd.conf").display());
    site.write_config("", &legacy);
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    let before = daemon.children();
    assert_eq!(before.len(), 2, "one watcher of each kind");
    for watcher in &before {
        kill(*watcher, Signal::SIGSTOP).unwrap();
    }
    let now = status(&site);
    assert!(within(SOON, || status(&site)["watcher"]["report_age"].as_u64() >= Some(2)), "{now}");
    let replaced = || {
        let log = daemon.log();
        log.contains("spa-knockd: watching again") && log.contains("knock sequences: watching again")
    };
    assert!(within(HANGS, replaced), "{}", daemon.log());
    assert_eq!(daemon.log().matches("reported nothing for").count(), 2, "{}", daemon.log());
    assert!(daemon.children().iter().all(|child| !before.contains(child)), "the old watchers have exited");
    assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22));
    assert_eq!(status(&site)["watcher"]["restarts"], 1);
}

#[test]
fn a_watcher_without_packets_is_not_considered_to_hang() {
    if !crate::net::full() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    let watcher = daemon.watcher();
    // A keeper that was stopped itself still has to read its watcher's reports.
    kill(daemon.id(), Signal::SIGSTOP).unwrap();
    std::thread::sleep(HANGS);
    kill(daemon.id(), Signal::SIGCONT).unwrap();
    std::thread::sleep(HANGS);
    assert_eq!(daemon.watcher(), watcher, "{}", daemon.log());
}

#[test]
fn a_knock_port_used_by_another_process_prevents_only_replies() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let holder = lab.server.enter(|| UdpSocket::bind(("::", KNOCK_PORT)).unwrap());
    let daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.log().contains("address already in use") && daemon.log().contains("no reply"));
    assert_eq!(status(&site)["capture"]["replies"], false);
    let socket = lab.client.udp(CLIENT4);
    assert!(ask(&socket, SERVER4, &site.key("laptop").good()).is_none(), "no reply from any other port");
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "the knock is granted");
    lab.client.wait_until_closed(SERVER4, 22);
    drop(holder);
    assert!(within(SOON, || status(&site)["capture"]["replies"] == true), "{}", daemon.log());
    assert!(ask_patiently(&socket, SERVER4, &site.key("laptop").good()).is_some());
}

#[test]
fn the_daemon_waits_for_a_late_interface_while_it_watches_the_others() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("interfaces = [\"lan0\", \"lan1\"]", &open_ssh(2));
    lab.server.echo(22);
    drop(Daemon::start(&lab.server, &site));
    lab.server.nft("flush ruleset");
    lab.server.ip("link set lan1 down");
    lab.server.ip("link set lan1 name late0");
    let daemon = Daemon::start(&lab.server, &site);
    assert!(within(SOON, || daemon.log().contains("lan1") && daemon.log().contains("watching the rest")));
    assert_eq!(status(&site)["capture"]["missing"], serde_json::json!(["lan1"]));
    let key = site.key("laptop");
    assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &key.good()).is_some(), "received on lan0");
    lab.server.ip("link set late0 name lan1");
    lab.server.ip("link set lan1 up");
    assert!(within(SOON, || daemon.log().contains("watching again")), "{}", daemon.log());
    assert_eq!(status(&site)["capture"]["missing"], serde_json::json!([]));
    assert!(ask_patiently(&lab.neighbor.udp(NEIGHBOR4), SERVER4, &key.good()).is_some(), "received on lan1");
}

#[test]
fn a_start_without_any_interface_closes_the_gate_and_waits() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("interfaces = [\"lan0\"]", &open_ssh(2));
    lab.server.echo(22);
    drop(Daemon::start(&lab.server, &site));
    lab.server.nft("flush ruleset");
    lab.server.ip("link set lan0 down");
    let daemon = Daemon::start(&lab.server, &site);
    assert!(
        daemon.log().contains("no knock is received until an interface is available"),
        "{}",
        daemon.log()
    );
    assert_eq!(status(&site)["capture"]["missing"], serde_json::json!(["lan0"]));
    assert!(!lab.neighbor.reaches(SERVER4, 22), "closed");
    lab.server.ip("link set lan0 up");
    assert!(within(SOON, || daemon.log().contains("watching again")), "{}", daemon.log());
    assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
}

/// The kernel reports to a capture that the interface went down, and not that it was removed after that.
#[test]
fn an_interface_that_goes_down_and_is_removed_is_watched_again_when_it_returns() {
    for interfaces in [&["lan0"][..], &["lan0", "lan1"]] {
        let Some(lab) = Lab::new() else { return };
        let site = Site::new(&format!("interfaces = {interfaces:?}"), &open_ssh(2));
        let daemon = Daemon::start(&lab.server, &site);
        let key = site.key("laptop");
        assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &key.good()).is_some());
        lab.server.ip("link set lan0 down");
        std::thread::sleep(Duration::from_millis(300));
        lab.server.ip("link del lan0");
        lab.server.cable(("lan0", &["10.77.0.1/24"]), &lab.client, ("eth0", &["10.77.0.2/24"]));
        assert!(within(SOON, || daemon.log().contains("watching again")), "{}", daemon.log());
        assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &key.good()).is_some(), "{}", daemon.log());
    }
}
