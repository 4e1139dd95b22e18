//! `[legacy] fwknop`: the real client of fwknop, unchanged, opens ports of our daemon.

use std::fs;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::doors::enable_forwarding;
use crate::net::{
    CLIENT4, Daemon, Lab, NEIGHBOR4, SERVER4, SERVER6, Site, assert_on_time, limited, open_ssh, within,
};

pub(super) const SOON: Duration = Duration::from_secs(5);
pub(super) const KEYS: &str = "KEY a-key-of-fwknop\nHMAC_KEY another-key-for-hmac\n";

/// A site whose daemon reads this `access.conf` and `fwknopd.conf`. `DIR` stands for the site's directory.
pub(super) fn site(access: &str, server: &str) -> Site {
    let site = Site::new("", "");
    write(&site, "access.conf", access);
    write(&site, "fwknopd.conf", server);
    let legacy = format!("[legacy]\nfwknop = \"{}\"\n", site.path("access.conf").display());
    site.write_config("", &format!("{}\n{legacy}", open_ssh(2)));
    site
}

pub(super) fn write(site: &Site, name: &str, text: &str) {
    let text = text.replace("DIR", site.folder().to_str().unwrap());
    fs::write(site.path(name), text).unwrap();
    Command::new("chmod").arg("600").arg(site.path(name)).status().unwrap();
}

/// A stanza with the usual keys.
pub(super) fn stanza(rest: &str) -> String {
    format!("SOURCE ANY\n{KEYS}{rest}\n")
}

/// The real client of fwknop, in `site`'s directory, with the usual keys.
pub(super) fn fwknop(site: &Site, args: &[&str]) -> Command {
    let mut command = limited("fwknop");
    command.env("HOME", site.folder()).env("LOGNAME", "alice").env_remove("SPOOF_USER");
    command.args(["--no-save-args", "-D", "10.77.0.1", "--key-rijndael", "a-key-of-fwknop"]);
    command.args(["--key-hmac", "another-key-for-hmac"]).args(args);
    command
}

pub(super) fn send(lab: &Lab, site: &Site, args: &[&str]) {
    let output = lab.client.output(&mut fwknop(site, args));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
}

/// Sends these bytes as one datagram to the knock port.
pub(super) fn send_bytes(lab: &Lab, bytes: &[u8]) {
    lab.client.udp(CLIENT4).send_to(bytes, (SERVER4, 62201)).unwrap();
}

/// The text of a packet of the real client that is not sent.
pub(super) fn text_of(lab: &Lab, site: &Site, args: &[&str]) -> String {
    let file = site.path("packet");
    let _ = fs::remove_file(&file);
    send(lab, site, &[args, &["--test", "-B", file.to_str().unwrap()]].concat());
    fs::read_to_string(file).unwrap().trim_end().to_owned()
}

pub(super) fn status(site: &Site, args: &[&str]) -> String {
    let output = site.admin(&[&["status"], args].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn opens(lab: &Lab, server: IpAddr) -> bool {
    within(SOON, || lab.client.reaches(server, 22))
}

#[test]
fn the_client_of_fwknop_opens_a_port_for_its_address_and_the_kernel_closes_it_even_after_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&stanza("OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 3"), "");
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22), "closed without a packet");
    let sent = Instant::now();
    send(&lab, &site, &["-A", "tcp/22", "-a", "10.77.0.2"]);
    assert!(opens(&lab, SERVER4), "{}", daemon.log());
    let granted = Instant::now();
    assert!(!lab.neighbor.reaches(SERVER4, 22), "closed for everyone else");
    // The port opens before the record is written.
    assert!(within(SOON, || site.audit_of("granted").len() == 1), "{}", daemon.log());
    daemon.kill9();
    assert_on_time((sent, granted), lab.client.wait_until_closed(SERVER4, 22), 3);
    let granted = site.audit_of("granted");
    assert_eq!(granted.len(), 1);
    assert_eq!((&granted[0]["via"], &granted[0]["client"]), (&"fwknop".into(), &"fwknop".into()));
    assert_eq!((&granted[0]["action"], &granted[0]["seconds"]), (&"stanza-1".into(), &3.into()));
    assert_eq!(granted[0]["address"], CLIENT4.to_string());
}

#[test]
fn every_digest_transport_and_way_to_name_the_address_opens_the_port() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    // A host that replies with the address of the sender.
    let script = "import http.server as h\nclass R(h.BaseHTTPRequestHandler):\n def do_GET(s):\n  s.send_response(200); s.end_headers(); s.wfile.write(s.client_address[0].encode())\n def log_message(*_): pass\nh.HTTPServer(('10.77.0.2', 8080), R).serve_forever()";
    let mut responder = Command::new("python3");
    responder.args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut responder = lab.client.spawn(&mut responder);
    let tcp = "PCAP_FILTER udp port 62201 or tcp port 80;\nENABLE_TCP_SERVER Y;\nTCPSERV_PORT 62201;\nENABLE_SPA_OVER_HTTP Y;\n";
    lab.server.accept_all(80);
    let resolve = "http://10.77.0.2:8080/ip";
    let digests = ["MD5", "SHA1", "SHA256", "SHA384", "SHA512", "SHA3_256", "SHA3_512"];
    let mut cases: Vec<(&str, &str, Vec<&str>)> = digests
        .iter()
        .map(|digest| (*digest, "", vec!["-a", "10.77.0.2", "--hmac-digest-type", digest]))
        .collect();
    for (name, server, args) in [
        ("-s", "", &["-s"][..]),
        ("-R", "", &["-R", "--resolve-url", resolve, "--resolve-http-only"]),
        ("-m md5", "", &["-s", "-m", "md5"]),
        ("-f", "", &["-s", "-f", "2"]),
        ("-p", "PCAP_FILTER udp port 4000;", &["-s", "-p", "4000"]),
        ("-r", "PCAP_FILTER udp dst portrange 10000-65535;", &["-s", "-r"]),
        ("-P tcp", tcp, &["-s", "-P", "tcp"]),
        ("-P http", tcp, &["-s", "-P", "http", "-p", "80"]),
        ("-P udp beside tcp", tcp, &["-s"]),
    ] {
        cases.push((name, server, args.to_vec()));
    }
    for (name, server, args) in cases {
        let digest = digests.iter().find(|digest| **digest == name).unwrap_or(&"SHA256");
        let access = stanza(&format!("OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 30\nHMAC_DIGEST_TYPE {digest}"));
        let site = site(&access, server);
        let daemon = Daemon::start(&lab.server, &site);
        send(&lab, &site, &[&["-A", "tcp/22"], args.as_slice()].concat());
        assert!(opens(&lab, SERVER4), "{name}: {}", daemon.log());
        let granted = site.audit_of("granted");
        assert_eq!(granted.len(), 1, "{name}");
        assert_eq!(granted[0]["seconds"], if name == "-f" { 2 } else { 30 }, "{name}");
        assert_eq!(granted[0]["address"], CLIENT4.to_string(), "{name}");
        drop(daemon);
        lab.server.nft("delete table inet spa_knock");
    }
    responder.kill().unwrap();
    responder.wait().unwrap();
}

#[test]
fn a_replay_changed_or_not_opens_nothing_even_after_a_restart_and_is_recorded() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&stanza("OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 1"), "");
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let text = text_of(&lab, &site, &["-A", "tcp/22", "-s"]);
    send_bytes(&lab, text.as_bytes());
    assert!(opens(&lab, SERVER4), "{}", daemon.log());
    lab.client.wait_until_closed(SERVER4, 22);
    let changed = [
        text.clone(),
        format!("{text}="),
        format!("{text}=junk"),
        format!("{text}\n"),
        format!("{text}A"),
        format!("AAAA{text}"),
        format!("U2FsdGVkX1{text}"),
        format!("hQ{text}"),
    ];
    let closed = |when: &str| {
        std::thread::sleep(Duration::from_millis(300));
        assert!(!lab.client.reaches(SERVER4, 22), "{when}");
    };
    for bytes in &changed {
        send_bytes(&lab, bytes.as_bytes());
    }
    closed("a replay");
    for (end, when) in [("kill", "after a kill"), ("stop", "after a stop")] {
        match end {
            "kill" => daemon.kill9(),
            _ => assert!(daemon.terminate().success()),
        }
        daemon = Daemon::start(&lab.server, &site);
        for bytes in &changed {
            send_bytes(&lab, bytes.as_bytes());
        }
        closed(when);
        assert!(within(SOON, || !site.audit_of("replayed").is_empty()), "{when}: {}", daemon.log());
    }
    let replayed = site.audit_of("replayed");
    assert!(
        replayed.iter().all(|record| record["via"] == "fwknop" && record["reason"] == "replayed"),
        "{replayed:?}"
    );
    assert_eq!(site.audit_of("granted").len(), 1);
}

#[test]
fn a_packet_that_a_stanza_does_not_permit_is_refused_with_the_reason() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for (name, rest, args, event, reason) in [
        ("a port", "OPEN_PORTS tcp/22", &["-A", "tcp/23", "-s"][..], "refused", "not-allowed"),
        ("two ports", "OPEN_PORTS tcp/22", &["-A", "tcp/22,tcp/23", "-s"], "refused", "not-allowed"),
        ("a restricted port", "RESTRICT_PORTS tcp/22", &["-A", "tcp/22", "-s"], "refused", "not-allowed"),
        ("a user", "REQUIRE_USERNAME bob", &["-A", "tcp/22", "-s"], "refused", "not-allowed"),
        ("no address", "REQUIRE_SOURCE_ADDRESS Y", &["-A", "tcp/22", "-s"], "refused", "no-address-listed"),
        ("old", "", &["-A", "tcp/22", "-s", "--time-offset-minus", "3min"], "stale", "stale"),
        ("ahead", "", &["-A", "tcp/22", "-s", "--time-offset-plus", "3min"], "stale", "stale"),
        ("expired", "ACCESS_EXPIRE 01/31/2020", &["-A", "tcp/22", "-s"], "refused", "expired"),
        ("a command", "", &["-C", "/bin/true", "-s"], "refused", "not-allowed"),
        ("a NAT target", "", &["-A", "tcp/22", "-s", "-N", "10.9.9.9:22"], "refused", "no-forward-target"),
        ("the server's own address", "", &["-A", "tcp/22", "-a", "10.77.0.1"], "refused", "unusable-address"),
        ("a user again", "REQUIRE_USERNAME alice", &["-A", "tcp/22", "-s"], "granted", ""),
    ] {
        let site = site(&stanza(rest), "");
        let daemon = Daemon::start(&lab.server, &site);
        send(&lab, &site, args);
        assert!(within(SOON, || !site.audit_of(event).is_empty()), "{name}: {}", daemon.log());
        let record = &site.audit_of(event)[0];
        assert_eq!(record["reason"].as_str().unwrap_or_default(), reason, "{name}: {record}");
        assert_eq!(lab.client.reaches(SERVER4, 22), event == "granted", "{name}");
    }
}

#[test]
fn a_port_is_forwarded_to_the_host_or_the_port_that_the_client_or_the_stanza_names() {
    let Some(lab) = Lab::new() else { return };
    enable_forwarding(&lab);
    lab.neighbor.echo(5432);
    lab.server.echo(2222);
    let server = "ENABLE_IPT_FORWARDING Y;\nENABLE_IPT_LOCAL_NAT Y;\n";
    for (name, rest, args) in [
        ("-N", "", &["-A", "tcp/8080", "-s", "-N", "10.77.1.2:5432"][..]),
        ("FORCE_NAT", "FORCE_NAT 10.77.1.2 5432", &["-A", "tcp/8080", "-s"]),
        (
            "--nat-local",
            "",
            &["-A", "tcp/8080", "-s", "--nat-local", "--nat-port", "8080", "-N", "10.77.0.1:2222"],
        ),
    ] {
        let site = site(&stanza(&format!("FW_ACCESS_TIMEOUT 2\n{rest}")), server);
        let daemon = Daemon::start(&lab.server, &site);
        assert!(!lab.client.reaches(SERVER4, 8080), "{name}");
        send(&lab, &site, args);
        let is_open = || lab.client.reaches(SERVER4, 8080);
        assert!(within(SOON, is_open), "{name}: {}", daemon.log());
        assert!(!lab.neighbor.reaches(SERVER4, 8080), "{name}: only for the client");
        lab.client.wait_until_closed(SERVER4, 8080);
        drop(daemon);
        lab.server.nft("delete table inet spa_knock");
    }
}

#[test]
fn the_second_stanza_of_the_same_keys_grants_what_the_first_refuses() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let other = "SOURCE ANY\nKEY not-the-key\nHMAC_KEY not-the-hmac-key\n";
    let access = format!("{other}{}{}", stanza("OPEN_PORTS tcp/23"), stanza("OPEN_PORTS tcp/22"));
    let site = site(&access, "");
    let daemon = Daemon::start(&lab.server, &site);
    send(&lab, &site, &["-A", "tcp/22", "-s"]);
    assert!(opens(&lab, SERVER4), "{}", daemon.log());
    assert_eq!(site.audit_of("granted")[0]["action"], "stanza-3");
    assert!(site.audit_of("refused").is_empty());
}

#[test]
fn a_packet_over_ipv6_opens_the_port_for_its_source_and_networks_are_checked() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let site = site(&stanza("OPEN_PORTS tcp/22").replace("ANY", "10.9.0.0/16,10.77.0.2"), "");
    let daemon = Daemon::start(&lab.server, &site);
    let text = text_of(&lab, &site, &["-A", "tcp/22", "-s"]);
    lab.neighbor.udp(NEIGHBOR4).send_to(text.as_bytes(), (SERVER4, 62201)).unwrap();
    assert!(within(SOON, || !site.audit_of("refused").is_empty()), "{}", daemon.log());
    let text = text_of(&lab, &site, &["-A", "tcp/22", "-s"]);
    send_bytes(&lab, text.as_bytes());
    assert!(opens(&lab, SERVER4), "{}", daemon.log());

    write(&site, "access.conf", &stanza("OPEN_PORTS tcp/22"));
    daemon.reload();
    let text = text_of(&lab, &site, &["-A", "tcp/22", "-s"]);
    lab.client.udp("fd77::2".parse().unwrap()).send_to(text.as_bytes(), (SERVER6, 62201)).unwrap();
    assert!(opens(&lab, SERVER6), "{}", daemon.log());
    assert!(!lab.neighbor.reaches(SERVER6, 22));
}

#[test]
fn a_cycle_closes_on_time_after_a_kill_and_a_command_runs_as_its_user() {
    let Some(lab) = Lab::new() else { return };
    let access = stanza(
        "CMD_CYCLE_OPEN /bin/sh DIR/run open $IP $PORT $PROTO $CLIENT_TIMEOUT\nCMD_CYCLE_CLOSE /bin/sh DIR/run close $IP $PORT\nCMD_CYCLE_TIMER 3",
    );
    let commands =
        "SOURCE ANY\nKEY second-key\nHMAC_KEY second-hmac-key\nENABLE_CMD_EXEC Y\nCMD_EXEC_USER daemon\n";
    let site = site(&format!("{access}{commands}"), "");
    write(&site, "run", "echo \"$@\" >> DIR/ran\n");
    let ran = || fs::read_to_string(site.path("ran")).unwrap_or_default();
    let mut daemon = Daemon::start(&lab.server, &site);
    send(&lab, &site, &["-A", "tcp/22", "-s"]);
    assert!(within(SOON, || ran() == "open 10.77.0.2 22 6 3\n"), "{}: {}", ran(), daemon.log());
    assert!(within(SOON, || site.audit_of("done").len() == 1), "the command that opens has ended");
    daemon.kill9();
    let daemon = Daemon::start(&lab.server, &site);
    assert!(within(SOON, || ran().ends_with("\nclose 10.77.0.2 22\n")), "{}: {}", ran(), daemon.log());
    assert!(within(SOON, || site.audit_of("expired").len() == 1));

    let mut command = limited("fwknop");
    command.env("HOME", site.folder()).args(["--no-save-args", "-D", "10.77.0.1", "-s"]);
    command.args(["--key-rijndael", "second-key", "--key-hmac", "second-hmac-key", "-C", "/usr/bin/id -un"]);
    assert!(lab.client.output(&mut command).status.success());
    assert!(within(SOON, || daemon.log().contains("stanza-2 printed: daemon")), "{}", daemon.log());
}

#[test]
fn a_damaged_memory_stops_the_start_until_a_reset_after_which_no_old_packet_is_accepted() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&stanza("OPEN_PORTS tcp/22"), "MAX_SPA_PACKET_AGE 1;");
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let text = text_of(&lab, &site, &["-A", "tcp/22", "-s"]);
    assert!(daemon.terminate().success());
    let lease = site.path("state/fwknop/replay.lease");
    fs::write(&lease, "damaged").unwrap();
    let failed = lab.server.output(&mut site.admin(&["run"]));
    let stderr = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        !failed.status.success()
            && stderr.contains("replay.lease: damaged\nhint: run spa-knockd state reset"),
        "{stderr}"
    );
    let reset = lab.server.output(&mut site.admin(&["state", "reset"]));
    let stderr = String::from_utf8_lossy(&reset.stderr).into_owned();
    assert!(
        reset.status.success() && stderr.contains("packets of fwknop: accepting only those made after 2"),
        "{stderr}"
    );
    let daemon = Daemon::start(&lab.server, &site);
    send_bytes(&lab, text.as_bytes());
    assert!(
        within(SOON, || site.audit_of("replayed").len() + site.audit_of("stale").len() == 1),
        "{}",
        daemon.log()
    );
    assert!(within(SOON, || {
        send(&lab, &site, &["-A", "tcp/22", "-s"]);
        lab.client.reaches(SERVER4, 22)
    }));
}

#[test]
fn after_a_takeover_no_packet_is_accepted_that_another_host_can_have_accepted() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&stanza("OPEN_PORTS tcp/22"), "MAX_SPA_PACKET_AGE 1;");
    lab.server.echo(22);
    for is_running in [true, false] {
        let mut daemon = Daemon::start(&lab.server, &site);
        let text = text_of(&lab, &site, &["-A", "tcp/22", "-s"]);
        if !is_running {
            assert!(daemon.terminate().success());
        }
        let takeover = lab.server.output(&mut site.admin(&["takeover"]));
        let stderr = String::from_utf8_lossy(&takeover.stderr).into_owned();
        assert!(takeover.status.success(), "{stderr}");
        assert_eq!(stderr.contains("packets of fwknop: accepting only those made after 2"), !is_running);
        if !is_running {
            daemon = Daemon::start(&lab.server, &site);
        }
        let refused = || site.audit_of("replayed").len() + site.audit_of("stale").len();
        let before = refused();
        send_bytes(&lab, text.as_bytes());
        assert!(within(SOON, || refused() == before + 1), "running {is_running}: {}", daemon.log());
        assert!(site.audit_of("granted").is_empty());
    }
}

#[test]
fn check_reports_ports_that_grants_do_not_open_and_a_port_that_two_need() {
    let Some(lab) = Lab::new() else { return };
    let commands = "SOURCE ANY\nKEY k\nHMAC_KEY l\nENABLE_CMD_EXEC Y\n";
    let access = format!("{}{}{commands}", stanza("OPEN_PORTS tcp/22,tcp/993"), stanza(""));
    let site = site(&access, "ENABLE_NAT_DNS Y;");
    let check = || {
        let output = lab.server.output(&mut site.admin(&["check"]));
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code(), text)
    };
    let (code, text) = check();
    assert_eq!(code, Some(0), "{text}");
    for warning in [
        "legacy.fwknop: stanza-1: OPEN_PORTS: tcp/993 is not in firewall.protect\nhint: add it to protect in [firewall]",
        "legacy.fwknop: stanza-2: has no OPEN_PORTS; a grant opens only ports in firewall.protect\nhint: list ",
        "fwknopd.conf:1: ENABLE_NAT_DNS: has no effect: host names in packets are not looked up\nhint: send ",
    ] {
        assert!(text.contains(warning), "{warning}: {text}");
    }
    for absent in ["OPEN_PORTS: tcp/22", "stanza-3"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    let legacy = format!("[legacy]\nfwknop = \"{}\"\n", site.path("access.conf").display());
    // The rule of `spa-knockd fwknopd`, which has stopped.
    let rule = "iptables -I INPUT -m mark --mark 0x10000000/0x10000000 -m comment --comment 'spa-knock: packets with a grant' -j ACCEPT";
    lab.server.output(limited("sh").args(["-c", rule]));
    let config = format!("{}\n{legacy}", open_ssh(2)).replace("[firewall]", "[firewall]\nmode = \"mark\"");
    site.write_config("", &config);
    let (_, text) = check();
    let rule = "firewall.mode: a rule that spa-knockd fwknopd has added accepts the mark; it is gone after a reboot\nhint: add one";
    assert!(text.contains(rule), "{text}");
    // The port is dropped without the mark, and init prints the rule to add.
    lab.server.run("iptables -P INPUT DROP");
    let own = "iptables -I INPUT -m mark --mark 0x10000000/0x10000000 -j ACCEPT";
    let init = || {
        let output = lab.server.output(&mut site.admin(&["init"]));
        String::from_utf8(output.stderr).unwrap()
    };
    let missing = format!(
        "A rule that spa-knockd fwknopd has added accepts the mark 0x10000000; it is gone after a reboot.\n\
         Add one of your own:\n  {own}\n"
    );
    assert!(init().contains(&missing), "{}", init());
    lab.server.run(own);
    assert!(!init().contains("Add one of your own"), "{}", init());
    let (_, text) = check();
    assert!(!text.contains(rule), "{text}");
    lab.server.run("iptables -P INPUT ACCEPT");
    site.write_config("capture = \"udp\"\n", &format!("{}\n{legacy}", open_ssh(2)));
    let (code, text) = check();
    let both = "UDP port 62201 is also server.port, and with capture = \"udp\" each needs its own\nhint: set ENABLE_UDP_SERVER Y and";
    assert!(code == Some(1) && text.contains(both), "{text}");
    write(&site, "fwknopd.conf", "ENABLE_UDP_SERVER Y;\nUDPSERV_PORT 62202;");
    let (code, text) = check();
    assert_eq!(code, Some(0), "{text}");
    let closed = open_ssh(2).replace("protect = [", "protect = [\"udp/62000-62200\", \"udp/62202\", ");
    site.write_config("capture = \"udp\"\n", &format!("{closed}\n{legacy}"));
    let (code, text) = check();
    let dropped = "UDP port 62202 is closed by udp/62202 in [firewall], so that no packet would arrive\nhint: leave it out";
    assert!(code == Some(1) && text.contains(dropped), "{text}");
}

#[test]
fn check_reports_what_prevents_the_forward_of_a_stanza() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&stanza("OPEN_PORTS tcp/2222\nFORCE_NAT 10.77.1.2 22"), "ENABLE_IPT_FORWARDING Y;");
    let legacy = format!("[legacy]\nfwknop = \"{}\"\n", site.path("access.conf").display());
    let check = |firewall: &str| {
        let config = open_ssh(2).replace("[firewall]\nprotect = [\"tcp/22\"]", firewall);
        site.write_config("", &format!("{config}\n{legacy}"));
        let output = lab.server.output(&mut site.admin(&["check"]));
        String::from_utf8(output.stdout).unwrap()
    };
    let guard = "[firewall]\nprotect = [\"tcp/22\"]";
    let mark = "[firewall]\nmode = \"mark\"\nprotect = [\"tcp/22\"]";
    let off = "FORCE_NAT: net.ipv4.ip_forward is 0, so no packet reaches 10.77.1.2\nhint: sysctl -w ";
    let dropped = "legacy.fwknop: stanza-1: FORCE_NAT: tcp/2222 is dropped despite a grant: table ip filter, chain FORWARD: policy drop";
    let unprotected = "OPEN_PORTS: tcp/2222 is not in firewall.protect";
    lab.server.sysctl("ipv4/ip_forward", "0");
    lab.server.run("iptables -P FORWARD DROP");
    for firewall in [guard, mark] {
        let text = check(firewall);
        for problem in [format!("legacy.fwknop: stanza-1: {off}").as_str(), dropped] {
            assert!(text.contains(problem) && !text.contains(&format!("warning: {problem}")), "{text}");
        }
    }
    let mut parse = limited(Daemon::PROGRAM);
    parse.args(["fwknopd", "--exit-parse-config", "-c"]).arg(site.path("fwknopd.conf"));
    let output = lab.server.output(parse.arg("-a").arg(site.path("access.conf")));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && text.contains(&format!("access.conf:5: {off}")), "{text}");

    lab.server.sysctl("ipv4/ip_forward", "1");
    lab.server.run("iptables -P FORWARD ACCEPT");
    for (firewall, absent) in [
        (guard, unprotected),
        ("[firewall]\nprotect = [\"tcp/22\", \"tcp/2222\"]", "no service listens on tcp/2222"),
        ("[firewall]\nmode = \"mark\"\nprotect = [\"tcp/22\", \"tcp/2222\"]", "tcp/2222"),
    ] {
        let text = check(firewall);
        assert!(text.contains("ok: ") || text.contains("tcp/22 is open"), "{text}");
        assert!(!text.contains(absent) && !text.contains("FORCE_NAT"), "{absent}: {text}");
    }
    let hint = "hint: add it to protect in [firewall]; otherwise forwarded packets do not get the mark";
    let text = check(mark);
    assert!(text.contains(&format!("{unprotected}\n{hint}")), "{text}");
}

#[test]
fn sealed_knocks_and_packets_of_fwknop_work_together_and_the_status_lists_who_sends_them() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&stanza("OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 1"), "");
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.log().contains("fwknop stanzas: 1"), "{}", daemon.log());
    let none = "fwknop     1 stanza, 0 packets accepted, 0 refused; in the last 24 h for no one\n";
    assert!(status(&site, &[]).contains(none), "{}", status(&site, &[]));
    assert!(lab.client.output(&mut site.knock(SERVER4, &["open-ssh"])).status.success());
    for _ in 0..2 {
        send(&lab, &site, &["-A", "tcp/22", "-s"]);
    }
    assert!(within(SOON, || site.audit_of("granted").len() == 3), "{}", daemon.log());
    assert!(status(&site, &[]).contains("in the last 24 h for 10.77.0.2 (2x)\n"), "{}", status(&site, &[]));
    let json: Value = serde_json::from_str(&status(&site, &["--json"])).unwrap();
    assert_eq!((&json["fwknop"]["stanzas"], &json["fwknop"]["accepted"]), (&1.into(), &2.into()));
    assert!(status(&site, &["--prometheus"]).contains("\nspa_knock_fwknop_accepted_total 2\n"));

    let explained = || fs::read_to_string(site.path("explained")).unwrap();
    let mut explain = Command::new(env!("CARGO_BIN_EXE_spa-knockd"));
    explain.args(["explain", "--live", "-c"]).arg(site.path("spa-knockd.toml"));
    explain.stdout(fs::File::create(site.path("explained")).unwrap());
    explain.stderr(fs::File::create(site.path("messages")).unwrap());
    let mut live = lab.server.spawn(explain.stdin(Stdio::null()));
    let begins = || fs::read_to_string(site.path("messages")).unwrap().contains("Ctrl-C");
    assert!(within(Duration::from_secs(60), begins));
    send(&lab, &site, &["-A", "tcp/22", "-s"]);
    send(&lab, &site, &["-A", "tcp/22", "-s", "--key-hmac", "a-different-key"]);
    assert!(within(SOON, || explained().lines().count() == 2), "{}", explained());
    assert!(
        explained().contains(": fwknop: a packet of fwknop, authenticated by stanza-1; "),
        "{}",
        explained()
    );
    assert!(
        explained().contains(": fwknop-dropped: a packet of fwknop that no stanza auth"),
        "{}",
        explained()
    );
    kill(Pid::from_raw(live.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert!(live.wait().unwrap().success());

    // A config with an error changes nothing.
    write(&site, "access.conf", "SOURCE ANY\nKEY only\n");
    let _ = kill(daemon.id(), Signal::SIGHUP);
    assert!(within(SOON, || daemon.log().contains("has no HMAC key")), "{}", daemon.log());
    let before = site.audit_of("granted").len();
    send(&lab, &site, &["-A", "tcp/22", "-s"]);
    assert!(within(SOON, || site.audit_of("granted").len() > before), "{}", daemon.log());
}

#[test]
fn a_daemon_without_clients_reports_that_no_one_can_knock_only_if_it_has_no_stanza() {
    let Some(lab) = Lab::new() else { return };
    const WARNING: &str = "no clients are configured, so no one can knock\n  hint: spa-knockd client add NAME --allow ACTION -c ";
    let site = site(&stanza("OPEN_PORTS tcp/22"), "");
    for legacy in [String::new(), format!("[legacy]\nfwknop = \"{}\"\n", site.path("access.conf").display())]
    {
        site.write_config("", &format!("[firewall]\nprotect = [\"tcp/22\"]\n\n{legacy}"));
        let mut daemon = Daemon::start(&lab.server, &site);
        daemon.reload();
        // It stops after it has logged everything.
        assert!(daemon.terminate().success());
        let warnings = daemon.log().matches(WARNING).count();
        assert_eq!(warnings, if legacy.is_empty() { 2 } else { 0 }, "{}", daemon.log());
    }
}
