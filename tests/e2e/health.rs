//! Health checks of load balancers: who gets a response, which one, and that the port does not exist for everyone else.
//! The client is the load balancer, the neighbor is everyone else.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::iptables::Host;
use crate::net::{CLIENT4, Daemon, Lab, Namespace, SERVER4, SERVER6, Site, ask, open_ssh, within};

/// Time limit for a change to take effect.
const SOON: Duration = Duration::from_secs(5);
/// A dropped SYN is sent again after 1 s, so this is a single attempt.
const CONNECT: Duration = Duration::from_millis(400);
/// The lines of the config for checks by the client.
const HEALTH: &str = "health = \"[::]:8080\"\nhealth-from = [\"10.77.0.2\", \"fd77::/64\"]\n";

/// What a load balancer learns.
#[derive(Debug, PartialEq, Eq)]
enum CheckOutcome {
    /// A status and a body.
    Page(u16, String),
    /// A connection that was closed without a byte.
    Closed,
    /// A reply that the port is closed.
    Refused,
    /// No reply at all.
    Silence,
}

fn page(status: u16, body: &str) -> CheckOutcome {
    CheckOutcome::Page(status, format!("{body}\n"))
}

fn get(from: &Namespace, server: IpAddr, port: u16, path: &str) -> CheckOutcome {
    from.enter(|| {
        let address = SocketAddr::new(server, port);
        let mut stream = match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::TimedOut => return CheckOutcome::Silence,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return CheckOutcome::Refused,
            Err(error) => panic!("{address}: {error}"),
        };
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut response = String::new();
        // A reset is an error: the server closed the connection before it had read the request.
        let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        match stream.read_to_string(&mut response) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("{address}: no response"),
            _ if response.is_empty() => return CheckOutcome::Closed,
            _ => {}
        }
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        CheckOutcome::Page(status, response.split_once("\r\n\r\n").unwrap().1.to_owned())
    })
}

fn check(lab: &Lab) -> CheckOutcome {
    get(&lab.client, SERVER4, 8080, "/")
}

fn assert_becomes(lab: &Lab, limit: Duration, expected: &CheckOutcome) {
    let mut last = check(lab);
    let becomes = within(limit, || {
        last = check(lab);
        last == *expected
    });
    assert!(becomes, "{last:?} instead of {expected:?}");
}

/// Asserts that only the client gets a response, over both IP versions.
fn assert_only_the_client_gets_a_response(lab: &Lab, expected: &CheckOutcome, port: u16, what: &str) {
    for server in [SERVER4, SERVER6] {
        assert_eq!(get(&lab.client, server, port, "/health"), *expected, "{what}: {server}");
        assert_eq!(get(&lab.neighbor, server, port, "/health"), CheckOutcome::Silence, "{what}: {server}");
    }
}

fn admin(lab: &Lab, site: &Site, args: &[&str]) -> String {
    let output = lab.server.output(&mut site.admin(args));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn status(lab: &Lab, site: &Site) -> Value {
    serde_json::from_str::<Value>(&admin(lab, site, &["status", "--json"])).unwrap()["health"].clone()
}

#[test]
fn health_checks_succeed_only_from_allowed_addresses_and_while_the_gate_is_on() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(HEALTH, &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    let ok = page(200, "ok");
    assert_only_the_client_gets_a_response(&lab, &ok, 8080, "guard");
    assert_eq!(check(&lab), ok);
    assert_eq!(get(&lab.client, SERVER4, 8080, "/metrics"), page(404, "not found; served: /, /health"));
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert_eq!(status(&lab, &site), "ok");
    assert!(admin(&lab, &site, &["status"]).contains("\n  health     ok\n"));

    // Another program flushes all rules.
    lab.server.nft("flush ruleset");
    assert!(
        within(SOON, || get(&lab.neighbor, SERVER4, 8080, "/") == CheckOutcome::Silence),
        "the rule is back"
    );
    assert_becomes(&lab, SOON, &ok);
    assert_only_the_client_gets_a_response(&lab, &ok, 8080, "after a flush");

    admin(&lab, &site, &["gate", "off"]);
    assert_eq!(check(&lab), page(503, "gate off"));
    assert_eq!(
        get(&lab.neighbor, SERVER4, 8080, "/"),
        CheckOutcome::Closed,
        "without rules, the daemon closes it"
    );
    assert_eq!(status(&lab, &site), "gate off");
    admin(&lab, &site, &["gate", "on", "--confirm", "60s"]);
    assert_only_the_client_gets_a_response(&lab, &ok, 8080, "on trial");
    admin(&lab, &site, &["gate", "on"]);
    assert_only_the_client_gets_a_response(&lab, &ok, 8080, "on again");
    drop(daemon);
    assert_only_the_client_gets_a_response(&lab, &CheckOutcome::Refused, 8080, "without a daemon");
    let _daemon = Daemon::start(&lab.server, &site);
    assert_only_the_client_gets_a_response(&lab, &ok, 8080, "after a restart");
}

#[test]
fn a_reload_moves_the_health_port_and_changes_who_reaches_it() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    assert_eq!(check(&lab), CheckOutcome::Refused, "without `health`, there is no rule and no server");
    assert_eq!(status(&lab, &site), Value::Null);
    let ok = page(200, "ok");
    site.write_config(HEALTH, &open_ssh(30));
    daemon.reload();
    assert_only_the_client_gets_a_response(&lab, &ok, 8080, "added");
    site.write_config(&HEALTH.replace("8080", "8081"), &open_ssh(30));
    daemon.reload();
    assert_only_the_client_gets_a_response(&lab, &ok, 8081, "moved");
    assert_eq!(check(&lab), CheckOutcome::Refused, "the old port is free");

    // The same address for others.
    let for_the_neighbor = "health = \"[::]:8081\"\nhealth-from = [\"10.77.1.0/24\"]\n";
    site.write_config(for_the_neighbor, &open_ssh(30));
    daemon.reload();
    assert_eq!(get(&lab.neighbor, SERVER4, 8081, "/"), ok);
    for server in [SERVER4, SERVER6] {
        assert_eq!(get(&lab.client, server, 8081, "/"), CheckOutcome::Silence);
    }

    for (line, message) in [
        ("health = \"10.77.9.9:8080\"", "server.health 10.77.9.9:8080: cannot assign requested address"),
        ("health = \"[::]:22\"", "server.health: tcp/22 is closed without a grant"),
    ] {
        site.write_config(&format!("{line}\nhealth-from = [\"10.77.0.2\"]\n"), &open_ssh(30));
        daemon.reload();
        assert!(within(SOON, || daemon.log().contains(message)), "{message}: {}", daemon.log());
        assert_eq!(get(&lab.neighbor, SERVER4, 8081, "/"), ok, "the old config stays");
        assert_eq!(get(&lab.client, SERVER4, 8080, "/"), CheckOutcome::Refused, "the old config stays");
    }
    site.write_config("", &open_ssh(30));
    daemon.reload();
    assert_eq!(get(&lab.neighbor, SERVER4, 8081, "/"), CheckOutcome::Refused);
}

#[test]
fn an_address_that_comes_later_serves_health_checks_then() {
    let Some(lab) = Lab::new() else { return };
    let later = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 9));
    let line = format!("health = \"{later}:8080\"\nhealth-from = [\"10.77.0.2\"]\n");
    let site = Site::new(&line, &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.log().contains("health checks are not served; retrying"), "{}", daemon.log());
    lab.server.ip("addr add 10.77.0.9/24 dev lan0");
    let ok = page(200, "ok");
    assert!(within(2 * SOON, || get(&lab.client, later, 8080, "/") == ok), "{}", daemon.log());
}

#[test]
fn a_watcher_that_hangs_fails_health_checks_until_it_reports_again() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(HEALTH, &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    let watcher = daemon.watcher().unwrap();
    assert_eq!(check(&lab), page(200, "ok"));
    kill(watcher, Signal::SIGSTOP).unwrap();
    assert_eq!(check(&lab), page(200, "ok"), "a late report is not a failure yet");
    let start = std::time::Instant::now();
    assert_becomes(&lab, Duration::from_secs(30), &page(503, "watcher silent"));
    println!("503 after {:?}", start.elapsed());
    assert_eq!(status(&lab, &site), "watcher silent");
    kill(watcher, Signal::SIGCONT).unwrap();
    assert_becomes(&lab, Duration::from_secs(15), &page(200, "ok"));
    assert_eq!(daemon.watcher(), Some(watcher), "it was not replaced");
}

#[test]
fn a_host_without_a_watcher_fails_health_checks() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(&format!("{HEALTH}interfaces = [\"lan1\"]\n"), &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    assert_eq!(check(&lab), page(200, "ok"));
    lab.server.ip("link set lan1 down");
    // It may have exited by itself, because it has nothing left to capture.
    if let Some(watcher) = daemon.watcher() {
        let _ = kill(watcher, Signal::SIGKILL);
    }
    assert_becomes(&lab, SOON, &page(503, "no watcher"));
    lab.server.ip("link set lan1 up");
    assert_becomes(&lab, 2 * SOON, &page(200, "ok"));
}

#[test]
fn a_required_audit_log_that_cannot_be_written_fails_health_checks() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(&format!("{HEALTH}audit-required = true\n"), &open_ssh(30));
    fs::create_dir(site.path("audit.jsonl")).unwrap();
    let _daemon = Daemon::start(&lab.server, &site);
    assert_becomes(&lab, SOON, &page(503, "audit log"));
    fs::remove_dir(site.path("audit.jsonl")).unwrap();
    assert_becomes(&lab, SOON, &page(200, "ok"));
}

#[test]
fn the_health_port_is_silent_for_others_in_all_modes_and_with_iptables() {
    for (host, firewall) in [
        (None, "mode = \"mark\"\n"),
        (None, "mode = \"set\"\n"),
        (Some(Host::Usual), "backend = \"iptables\"\n"),
        (Some(Host::Setless), "backend = \"iptables\"\nmode = \"mark\"\n"),
        (Some(Host::Legacy), "backend = \"iptables\"\n"),
    ] {
        let Some(lab) = Lab::new() else { return };
        let what = format!("{host:?} {firewall}");
        let rest = open_ssh(30).replace("[firewall]\n", &format!("[firewall]\n{firewall}"));
        let site = Site::new(HEALTH, &rest);
        let _daemon = match host {
            Some(host) => host.start(&lab, &site),
            None => Daemon::start(&lab.server, &site),
        };
        assert_only_the_client_gets_a_response(&lab, &page(200, "ok"), 8080, &what);
        match host {
            None => lab.server.nft("flush chain inet spa_knock input"),
            Some(Host::Legacy) => lab.server.run("iptables-legacy -F SPA_KNOCK"),
            Some(_) => lab.server.run("iptables -F SPA_KNOCK"),
        };
        // The rules of iptables are checked every 10 s.
        let is_silent = || get(&lab.neighbor, SERVER4, 8080, "/") == CheckOutcome::Silence;
        assert!(within(Duration::from_secs(20), is_silent), "{what}: the rule is back");
        assert_becomes(&lab, SOON, &page(200, "ok"));
    }
}

#[test]
fn without_a_firewall_the_daemon_closes_connections_of_others_without_a_byte() {
    let Some(lab) = Lab::new() else { return };
    let lamp = "
[firewall]
backend = \"none\"

[action.lamp]
run = [\"/bin/true\"]

[client.laptop]
key = \"laptop.key\"
allow = [\"lamp\"]
";
    let site = Site::new(HEALTH, lamp);
    let _daemon = Daemon::start(&lab.server, &site);
    for server in [SERVER4, SERVER6] {
        assert_eq!(get(&lab.client, server, 8080, "/"), page(200, "ok"));
        assert_eq!(get(&lab.neighbor, server, 8080, "/"), CheckOutcome::Closed);
    }
}

#[test]
fn a_port_below_1024_is_bound_although_the_daemon_has_dropped_its_privileges() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(&HEALTH.replace("8080", "80"), &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    assert_only_the_client_gets_a_response(&lab, &page(200, "ok"), 80, "port 80");
    drop(daemon);

    // A daemon that did not need the privilege at its start does not have it later.
    site.write_config(HEALTH, &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    site.write_config(&HEALTH.replace("8080", "80"), &open_ssh(30));
    daemon.reload();
    for line in
        ["server.health [::]:80: permission denied", "hint: use a port from 1024, or restart spa-knockd"]
    {
        assert!(within(SOON, || daemon.log().contains(line)), "{line}: {}", daemon.log());
    }
    assert_only_the_client_gets_a_response(&lab, &page(200, "ok"), 8080, "the old config stays");
}

#[test]
fn idle_connections_do_not_keep_health_checks_out() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(HEALTH, &open_ssh(30));
    let _daemon = Daemon::start(&lab.server, &site);
    let address = SocketAddr::new(SERVER4, 8080);
    let _idle: Vec<TcpStream> =
        lab.client.enter(|| (0..40).map(|_| TcpStream::connect(address).unwrap()).collect());
    assert_eq!(check(&lab), page(200, "ok"));
}
