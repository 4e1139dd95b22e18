//! Address translation for packets of fwknop: a real connection from the client through the gateway to a host behind it,
//! which reports the source address that it sees.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::doors::enable_forwarding;
use crate::fwknop::{SOON, send, site as fwknop_site, stanza};
use crate::iptables::Host;
use crate::net::{
    CLIENT4, Daemon, Lab, NEIGHBOR4, SERVER4, Site, assert_on_time, limited, open_ssh, still_echoes, within,
};

/// Another address of the client's host, which gets no access.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 3));
/// The gateway's address on the side of the target.
const INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 1));
/// Another address of the gateway on that side.
const TRANSLATED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 9));
/// The port of the host behind the gateway, and the port of the gateway that is forwarded to it.
const INSIDE: u16 = 5432;
const OUTSIDE: u16 = 8080;

/// A gateway whose own rules forward only packets with the mark, and established connections.
fn lab() -> Option<Lab> {
    let lab = Lab::new()?;
    enable_forwarding(&lab);
    lab.client.ip(&format!("addr add {OTHER}/24 dev eth0"));
    lab.client.ip("route add 10.77.1.0/24 via 10.77.0.1");
    lab.server.ip(&format!("addr add {TRANSLATED}/24 dev lan1"));
    for rule in [
        "-P FORWARD DROP",
        "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A FORWARD -m mark --mark 0x10000000/0x10000000 -j ACCEPT",
    ] {
        lab.server.run(&format!("iptables {rule}"));
    }
    report_sources(&lab, INSIDE);
    report_sources(&lab, INSIDE + 1);
    Some(lab)
}

/// The host behind the gateway writes the address that each connection comes from, and then echoes.
fn report_sources(lab: &Lab, port: u16) {
    let listener = lab.neighbor.enter(|| TcpListener::bind(("0.0.0.0", port))).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let source = stream.peer_addr().unwrap().ip();
                let _ = writeln!(stream, "{source}");
                let mut writer = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut &stream, &mut writer);
            });
        }
    });
}

/// The source that the host behind the gateway sees, if the client reaches it.
fn source_seen(lab: &Lab, address: IpAddr, port: u16) -> Option<IpAddr> {
    let mut stream = lab.client.connect(address, port)?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        line.extend(byte);
    }
    String::from_utf8(line).unwrap().trim().parse().ok()
}

/// The lines of `access.conf` and `fwknopd.conf`, what the client asks for, and what it then reaches.
struct Case {
    stanza: &'static str,
    server: &'static str,
    args: &'static [&'static str],
    reaches: (IpAddr, u16),
    source: IpAddr,
    /// What it does not reach with this grant.
    not: Option<(IpAddr, u16)>,
}

const PLAIN: &[&str] = &["-A", "tcp/8080", "-s"];
const NAMED: &[&str] = &["-A", "tcp/8080", "-s", "-N", "10.77.1.2:5432"];

const CASES: [Case; 9] = [
    Case {
        stanza: "FORCE_NAT 10.77.1.2 5432\nFORCE_MASQUERADE Y",
        server: "",
        args: PLAIN,
        reaches: (SERVER4, OUTSIDE),
        source: INNER,
        not: Some((SERVER4, INSIDE)),
    },
    Case {
        stanza: "FORCE_NAT 10.77.1.2 5432\nFORCE_SNAT 10.77.1.9",
        server: "ENABLE_IPT_SNAT Y;",
        args: PLAIN,
        reaches: (SERVER4, OUTSIDE),
        source: TRANSLATED,
        not: Some((NEIGHBOR4, INSIDE + 1)),
    },
    Case {
        stanza: "",
        server: "ENABLE_IPT_SNAT Y;\nSNAT_TRANSLATE_IP 10.77.1.9;",
        args: NAMED,
        reaches: (SERVER4, OUTSIDE),
        source: TRANSLATED,
        not: Some((SERVER4, INSIDE)),
    },
    Case {
        stanza: "",
        server: "ENABLE_IPT_SNAT Y;",
        args: NAMED,
        reaches: (SERVER4, OUTSIDE),
        source: INNER,
        not: Some((SERVER4, INSIDE)),
    },
    Case {
        stanza: "FORWARD_ALL Y\nFORCE_NAT 10.77.1.2 1",
        server: "",
        args: PLAIN,
        reaches: (SERVER4, INSIDE),
        source: CLIENT4,
        not: None,
    },
    Case {
        stanza: "FORWARD_ALL Y\nFORCE_SNAT 10.77.1.9",
        server: "",
        args: NAMED,
        reaches: (SERVER4, INSIDE + 1),
        source: TRANSLATED,
        not: None,
    },
    Case {
        stanza: "FORWARD_ALL Y\nDISABLE_DNAT Y",
        server: "",
        args: NAMED,
        reaches: (NEIGHBOR4, INSIDE),
        source: CLIENT4,
        not: Some((SERVER4, OUTSIDE)),
    },
    Case {
        stanza: "FORWARD_ALL Y\nDISABLE_DNAT Y\nFORCE_MASQUERADE Y",
        server: "",
        args: NAMED,
        reaches: (NEIGHBOR4, INSIDE + 1),
        source: INNER,
        not: None,
    },
    Case {
        stanza: "DISABLE_DNAT Y\nFORCE_NAT 10.77.1.2 5432\nFORCE_SNAT 10.77.1.9",
        server: "",
        args: PLAIN,
        reaches: (NEIGHBOR4, INSIDE),
        source: TRANSLATED,
        not: Some((NEIGHBOR4, INSIDE + 1)),
    },
];

/// The backends: the name in the config, the programs that the host has, and whether the kernel ends grants.
const BACKENDS: [(&str, Host, bool); 3] =
    [("nftables", Host::Usual, true), ("iptables", Host::Usual, true), ("iptables", Host::Setless, false)];

fn site(case: &Case, seconds: u64, backend: &str, mode: &str) -> Site {
    let server = format!("ENABLE_IPT_FORWARDING Y;\n{}\n", case.server);
    let site = fwknop_site(&stanza(&format!("FW_ACCESS_TIMEOUT {seconds}\n{}", case.stanza)), &server);
    let config = format!(
        "{}\n[legacy]\nfwknop = \"{}\"\n",
        open_ssh(2).replace(
            "[firewall]\nprotect = [\"tcp/22\"]",
            &format!(
                "[firewall]\nmode = \"{mode}\"\nbackend = \"{backend}\"\nprotect = [\"tcp/22\", \"tcp/8080\"]"
            )
        ),
        site.path("access.conf").display()
    );
    site.write_config("", &config);
    site
}

/// Removes what a daemon has left, so that the next one starts with nothing.
fn turn_off(lab: &Lab, site: &Site) {
    let output = lab.server.output(&mut site.admin(&["gate", "off"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = ["iptables-save", "nft list ruleset"].map(|list| lab.server.run(list)).concat();
    assert!(!left.contains("SPA_KNOCK") && !left.contains("spa_knock"), "{left}");
}

#[test]
fn each_kind_of_forwarding_connects_its_source_alone_with_the_right_address_until_the_kernel_ends_it() {
    // Each grant must end by itself, so the backends are tested in parallel.
    thread::scope(|scope| {
        for (backend, host, is_ended_by_kernel) in BACKENDS {
            scope.spawn(move || each_kind(backend, host, is_ended_by_kernel));
        }
    });
}

fn each_kind(backend: &str, host: Host, is_ended_by_kernel: bool) {
    let Some(lab) = lab() else { return };
    for case in CASES {
        let name = format!("{backend} {host:?}: {} {}", case.stanza, case.server);
        let site = site(&case, 3, backend, "mark");
        let mut daemon = host.start(&lab, &site);
        let (address, port) = case.reaches;
        assert!(!lab.client.reaches(address, port), "{name}: closed without a packet");
        let sent = Instant::now();
        send(&lab, &site, case.args);
        let seen = || source_seen(&lab, address, port);
        assert!(within(SOON, || seen().is_some()), "{name}: {}", daemon.log());
        let granted = Instant::now();
        assert_eq!(seen(), Some(case.source), "{name}");
        assert!(!lab.client.reaches_from(OTHER, address, port), "{name}: only for its source");
        if let Some((address, port)) = case.not {
            assert!(!lab.client.reaches(address, port), "{name}: {address} {port}");
        }
        if is_ended_by_kernel {
            daemon.kill9();
        }
        let closed = lab.client.wait_until_closed(address, port);
        if is_ended_by_kernel {
            assert_on_time((sent, granted), closed, 3);
        }
        drop(daemon);
        turn_off(&lab, &site);
    }
}

#[test]
fn a_translated_connection_survives_a_restart_of_the_daemon_and_ends_when_it_is_revoked() {
    let Some(lab) = lab() else { return };
    for (backend, host, _) in BACKENDS {
        for case in [&CASES[0], &CASES[5], &CASES[8]] {
            let name = format!("{backend} {host:?}: {}", case.stanza);
            let site = site(case, 120, backend, "mark");
            let mut daemon = host.start(&lab, &site);
            send(&lab, &site, case.args);
            let (address, port) = case.reaches;
            let seen = || source_seen(&lab, address, port);
            assert!(within(SOON, || seen() == Some(case.source)), "{name}: {}", daemon.log());
            daemon.kill9();
            let daemon = host.start(&lab, &site);
            assert_eq!(seen(), Some(case.source), "{name}: after a kill and a start: {}", daemon.log());
            daemon.reload();
            assert_eq!(seen(), Some(case.source), "{name}: after a reload");
            let output = lab.server.output(&mut site.admin(&["revoke", "--all"]));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(seen(), None, "{name}: after its revocation");
            drop(daemon);
            turn_off(&lab, &site);
        }
    }
}

#[test]
fn a_gate_that_closes_ports_itself_translates_addresses_too() {
    let Some(lab) = lab() else { return };
    lab.server.run("iptables -P FORWARD ACCEPT");
    for (backend, host, _) in BACKENDS {
        for case in [&CASES[0], &CASES[1], &CASES[4], &CASES[7]] {
            let name = format!("{backend} {host:?}: {}", case.stanza);
            let site = site(case, 60, backend, "guard");
            let daemon = host.start(&lab, &site);
            send(&lab, &site, case.args);
            let (address, port) = case.reaches;
            let seen = || source_seen(&lab, address, port);
            assert!(within(SOON, || seen() == Some(case.source)), "{name}: {}", daemon.log());
            drop(daemon);
            turn_off(&lab, &site);
        }
    }
}

#[test]
fn a_nat_target_with_a_host_name_is_refused_with_what_to_do() {
    let Some(lab) = lab() else { return };
    let site = site(&CASES[3], 3, "nftables", "guard");
    let _daemon = Daemon::start(&lab.server, &site);
    let mut command = limited("fwknop");
    command.env("HOME", site.folder()).args(["--no-save-args", "-D", "10.77.0.1", "-s", "-A", "tcp/8080"]);
    command.args(["--key-rijndael", "a-key-of-fwknop", "--key-hmac", "another-key-for-hmac"]);
    assert!(lab.client.output(command.args(["-N", "db.example:22"])).status.success());
    assert!(within(SOON, || !site.audit_of("refused").is_empty()));
    let record = &site.audit_of("refused")[0];
    assert_eq!(record["reason"], "no-forward-target");
    let detail =
        "the NAT target is a host name, which is not looked up: send the IPv4 address, or set FORCE_NAT";
    assert_eq!(record["detail"], detail, "{record}");
}

/// `spa-knockd fwknopd` on a gateway without a rule of its own for the mark.
fn drop_in(lab: &Lab, site: &Site) -> Daemon {
    let mut command = Command::new(Daemon::PROGRAM);
    command.arg("fwknopd").arg("-f").arg("-c").arg(site.path("fwknopd.conf"));
    command.arg("-a").arg(site.path("access.conf")).arg("--state-dir").arg(site.path("drop-in"));
    Daemon::start_command(&lab.server, command)
}

/// Adds to `fwknopd.conf` what only the drop-in reads.
fn for_drop_in(case: &Case, seconds: u64) -> Site {
    let site = site(case, seconds, "nftables", "guard");
    let run = site.path("run").display().to_string();
    let server =
        format!("ENABLE_IPT_FORWARDING Y;\n{}\nPCAP_INTF lan0;\nFWKNOP_RUN_DIR {run};\n", case.server);
    std::fs::write(site.path("fwknopd.conf"), server).unwrap();
    site
}

#[test]
fn the_replacement_of_fwknopd_forwards_behind_a_default_drop_policy_without_other_rules() {
    let Some(lab) = lab() else { return };
    lab.server.run("iptables -D FORWARD -m mark --mark 0x10000000/0x10000000 -j ACCEPT");
    for case in CASES {
        let site = for_drop_in(&case, 3);
        let mut daemon = drop_in(&lab, &site);
        let (address, port) = case.reaches;
        assert!(!lab.client.reaches(address, port), "{}: closed without a packet", case.stanza);
        send(&lab, &site, case.args);
        let seen = || source_seen(&lab, address, port);
        assert!(within(SOON, || seen() == Some(case.source)), "{}: {}", case.stanza, daemon.log());
        assert!(!lab.client.reaches_from(OTHER, address, port), "{}: only for its source", case.stanza);
        // A session outlives its grant by the administrator's rule for established connections.
        let mut session = lab.client.connect(address, port).unwrap();
        daemon.kill9();
        lab.client.wait_until_closed(address, port);
        let mut greeting = [0; 64];
        let _ = session.read(&mut greeting).unwrap();
        assert!(still_echoes(&mut session), "{}: the session continues", case.stanza);
        lab.server.nft("delete table inet spa_knock");
    }
}

#[test]
fn rules_after_that_of_the_replacement_decide_about_sessions_without_a_grant() {
    let Some(lab) = lab() else { return };
    lab.server.echo(22);
    lab.server.run("iptables -P INPUT DROP");
    // In place of those of fail2ban, and an own rule for the other address.
    lab.server.run("iptables -N bans");
    lab.server.run("iptables -A INPUT -j bans");
    lab.server.run("iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
    lab.server.run(&format!("iptables -A INPUT -s {OTHER} -p tcp --dport 22 -j ACCEPT"));
    let case = Case { stanza: "OPEN_PORTS tcp/22", args: &["-A", "tcp/22", "-s"], ..CASES[0] };
    let site = for_drop_in(&case, 2);
    let daemon = drop_in(&lab, &site);
    send(&lab, &site, case.args);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "{}", daemon.log());
    let mut session = lab.client.connect(SERVER4, 22).unwrap();
    assert!(still_echoes(&mut session), "during the grant");
    lab.client.wait_until_closed(SERVER4, 22);
    assert!(still_echoes(&mut session), "after it, by the rule for established connections");
    lab.server.run(&format!("iptables -A bans -s {CLIENT4} -j DROP"));
    assert!(!still_echoes(&mut session), "a ban also ends sessions that are established");
}

#[test]
fn without_a_rule_for_established_connections_a_session_lasts_as_long_as_its_grant_as_with_fwknopd() {
    let Some(lab) = lab() else { return };
    lab.server.echo(22);
    lab.server.run("iptables -P INPUT DROP");
    let case = Case { stanza: "OPEN_PORTS tcp/22", args: &["-A", "tcp/22", "-s"], ..CASES[0] };
    for is_ours in [false, true] {
        let site = for_drop_in(&case, 3);
        let ours = is_ours.then(|| drop_in(&lab, &site));
        let theirs = (!is_ours).then(|| Fwknopd::start(&lab, &site));
        send(&lab, &site, case.args);
        assert!(within(SOON, || lab.client.reaches(SERVER4, 22)), "ours: {is_ours}");
        let mut session = lab.client.connect(SERVER4, 22).unwrap();
        assert!(
            still_echoes(&mut session) && still_echoes(&mut session),
            "ours: {is_ours}: during the grant"
        );
        lab.client.wait_until_closed(SERVER4, 22);
        assert!(!still_echoes(&mut session), "ours: {is_ours}: after it");
        drop((ours, theirs));
    }
}

/// Debian's fwknopd; stopped when dropped.
struct Fwknopd(std::process::Child);

impl Fwknopd {
    fn start(lab: &Lab, site: &Site) -> Self {
        let log = std::fs::File::create(site.path("theirs")).unwrap();
        let mut command = Command::new("fwknopd");
        command.args(["-f", "-c"]).arg(site.path("fwknopd.conf")).arg("-a").arg(site.path("access.conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Self(lab.server.spawn(&mut command));
        let log = || std::fs::read_to_string(site.path("theirs")).unwrap();
        assert!(within(SOON, || log().contains("fwknopd main event loop")), "{}", log());
        daemon
    }
}

impl Drop for Fwknopd {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}
