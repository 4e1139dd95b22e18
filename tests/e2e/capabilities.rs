//! A daemon that lacks a capability, as in a container, names it and the fix before it changes anything.

use std::fs;
use std::process::{Command, Output};

use crate::net::{Daemon, Lab, SERVER4, Site, limited, open_ssh};

/// What the documentation lists for a daemon that is root.
const ALL: [&str; 6] = ["net_admin", "net_raw", "setuid", "setgid", "setpcap", "kill"];

/// `spa-knockd SUBCOMMAND` as root with these capabilities only: the bounding set limits root, as in a container.
fn limited_to(capabilities: &[&str], site: &Site, subcommand: &str) -> Command {
    let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let mut command = limited("setpriv");
    command.arg(format!("--bounding-set=-all{set}")).arg(Daemon::PROGRAM).arg(subcommand);
    command.arg("-c").arg(site.path("spa-knockd.toml"));
    command
}

fn without(capability: &str) -> Vec<&'static str> {
    ALL.into_iter().filter(|name| *name != capability).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that `run` and `check` both exit with 1 and print this line and this hint.
fn assert_named(lab: &Lab, site: &Site, capabilities: &[&str], line: &str, hint: &str) {
    let run = lab.server.output(&mut limited_to(capabilities, site, "run"));
    let message = stderr(&run);
    assert_eq!(run.status.code(), Some(1), "{message}");
    let check = lab.server.output(&mut limited_to(capabilities, site, "check"));
    let report = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(1), "{report}");
    for text in [line, hint] {
        assert!(message.contains(text), "run: '{text}' is missing in: {message}");
        assert!(report.contains(text), "check: '{text}' is missing in: {report}");
    }
}

#[test]
fn each_missing_capability_is_named_with_the_fix_and_nothing_is_changed() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let site = Site::new("", &open_ssh(5));
    for (capability, line) in [
        ("net_admin", "firewall.backend: changing the firewall needs CAP_NET_ADMIN, which"),
        ("net_raw", "server.capture: capturing packets needs CAP_NET_RAW, which"),
        ("setuid", "server.user: running the watcher as another user needs CAP_SETUID, which"),
        ("setgid", "server.user: running the watcher as another user needs CAP_SETGID, which"),
        ("setpcap", "server.user: running the watcher as another user needs CAP_SETPCAP, which"),
        ("kill", "server.user: running the watcher as another user needs CAP_KILL, which"),
    ] {
        let hint = format!("hint: in a container, add --cap-add={}; ", capability.to_uppercase());
        assert_named(&lab, &site, &without(capability), line, &hint);
        assert_eq!(lab.server.nft("list ruleset"), "", "without {capability}");
        assert_eq!(fs::read_dir(site.path("state")).unwrap().count(), 0, "without {capability}");
        assert!(lab.client.reaches(SERVER4, 22), "without {capability}");
    }
}

#[test]
fn iptables_needs_a_raw_socket_even_without_a_capture() {
    let Some(lab) = Lab::new() else { return };
    let rest = open_ssh(5).replace("[firewall]", "[firewall]\nbackend = \"iptables\"");
    for (server_lines, line) in [
        ("capture = \"udp\"\n", "firewall.backend: changing the firewall needs CAP_NET_RAW, which"),
        ("", "server.capture: capturing packets needs CAP_NET_RAW, which"),
    ] {
        let site = Site::new(server_lines, &rest);
        let hint = "hint: in a container, add --cap-add=NET_RAW; ";
        assert_named(&lab, &site, &without("net_raw"), line, hint);
    }
}

#[test]
fn a_health_port_below_1024_needs_a_capability() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("health = \"0.0.0.0:80\"\nhealth-from = [\"10.77.0.2\"]\n", &open_ssh(5));
    let line = "server.health: binding a port of privileged programs needs CAP_NET_BIND_SERVICE, which";
    let hint = "hint: in a container, add --cap-add=NET_BIND_SERVICE; ";
    assert_named(&lab, &site, &ALL, line, hint);
}

#[test]
fn all_missing_capabilities_are_named_together() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("capture = \"udp\"\nport = 53\n", &open_ssh(5));
    let message = stderr(&lab.server.output(&mut limited_to(&[], &site, "run")));
    let expected = "\
spa-knockd: firewall.backend: changing the firewall needs CAP_NET_ADMIN, which this process does not have
server.user: running the watcher as another user needs CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_KILL, which this process does not have
server.port: binding a port of privileged programs needs CAP_NET_BIND_SERVICE, which this process does not have
hint: in a container, add --cap-add=NET_ADMIN --cap-add=SETUID --cap-add=SETGID --cap-add=SETPCAP --cap-add=KILL \
--cap-add=NET_BIND_SERVICE; elsewhere, run it as root or with its systemd unit
";
    assert_eq!(message, expected);
}

#[test]
fn the_documented_capabilities_are_enough_and_a_config_that_needs_fewer_starts_with_fewer() {
    let without_firewall = "
[firewall]
backend = \"none\"

[action.lamp]
run = [\"/bin/true\"]

[client.laptop]
key = \"laptop.key\"
allow = [\"lamp\"]
"
    .to_owned();
    for (server_lines, rest, capabilities) in [
        ("", open_ssh(5), ALL.to_vec()),
        ("capture = \"udp\"\n", open_ssh(5), without("net_raw")),
        ("", without_firewall, without("net_admin")),
        ("port = 53\n", open_ssh(5), [&ALL[..], &["net_bind_service"]].concat()),
    ] {
        let Some(lab) = Lab::new() else { return };
        let site = Site::new(server_lines, &rest);
        let mut daemon = Daemon::start_command(&lab.server, limited_to(&capabilities, &site, "run"));
        let check = lab.server.output(&mut limited_to(&capabilities, &site, "check"));
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        assert!(daemon.terminate().success(), "{}", daemon.log());
    }
}

#[test]
fn a_later_start_without_a_capability_closes_the_gate_again_if_it_can() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let site = Site::new("", &open_ssh(5));
    drop(Daemon::start(&lab.server, &site));
    for (capability, is_closed) in [("kill", true), ("net_admin", false)] {
        lab.server.nft("flush ruleset");
        let run = lab.server.output(&mut limited_to(&without(capability), &site, "run"));
        assert_eq!(run.status.code(), Some(1), "{}", stderr(&run));
        assert_eq!(stderr(&run).contains("gate: tcp/22 closed"), is_closed, "{}", stderr(&run));
        assert_eq!(lab.client.reaches(SERVER4, 22), !is_closed, "without {capability}");
    }
}
