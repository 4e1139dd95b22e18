//! `spa-knockd check` on hosts whose own firewall blocks ports, and tests that its reports about ports are true.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::net::{Daemon, Lab, Namespace, SERVER4, SERVER6, Site, limited, open_ssh};

/// The output of `check`, and whether it has found a problem.
fn check(namespace: &Namespace, site: &Site) -> (String, bool) {
    let output = namespace.output(&mut site.admin(&["check"]));
    assert!(output.stderr.is_empty(), "{output:?}");
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{output:?}");
    (String::from_utf8(output.stdout).unwrap(), code == Some(1))
}

/// Loads rules from a string, as `nft -f` loads a file.
fn load(namespace: &Namespace, rules: &str) {
    let mut child = namespace.spawn(limited("nft").args(["-f", "-"]).stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

/// Whether a knock opens port 22 over IPv4 and over IPv6. A daemon must be running.
fn opens(lab: &Lab, site: &Site) -> [bool; 2] {
    [SERVER4, SERVER6].map(|server| {
        let knock = lab.client.output(&mut site.knock(server, &["open-ssh"]));
        assert!(knock.status.success(), "{knock:?}");
        lab.client.reaches(server, 22)
    })
}

#[test]
fn reports_about_other_tables_match_the_effect_of_a_knock() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let site = Site::new("", &open_ssh(20));
    let _daemon = Daemon::start(&lab.server, &site);
    let chain = |hook: &str, rules: &str| {
        format!(
            "table inet other {{\n chain sub {{\n tcp dport 22 accept\n }}\n chain mine {{\n type filter hook {hook};\n{rules}\n }}\n}}\n"
        )
    };
    let input = |policy: &str, rules: &str| {
        // The client receives replies, and neighbor discovery works.
        let usual = "ct state established,related accept\n ct state invalid drop\n iif lo accept\n \
                     meta l4proto { icmp, ipv6-icmp } accept\n";
        chain(&format!("input priority 0; policy {policy}"), &format!("{usual}{rules}"))
    };
    let cases = [
        (input("drop", "tcp dport 80 accept"), Some("chain mine: policy drop"), [false; 2]),
        (input("accept", "tcp dport 1-100 counter drop"), Some("tcp dport 1-100 counter drop"), [false; 2]),
        (input("accept", "tcp dport vmap { 22 : drop }"), Some("tcp dport vmap { 22 : drop }"), [false; 2]),
        (
            input("accept", "reject"),
            Some("is rejected despite a grant: table inet other, chain mine"),
            [false; 2],
        ),
        (
            chain("prerouting priority -300", "tcp dport 22 drop"),
            Some("chain mine: rule with handle"),
            [false; 2],
        ),
        (
            input("drop", "meta nfproto ipv4 tcp dport 22 accept"),
            Some("over IPv6 despite a grant: table inet other"),
            [true, false],
        ),
        (input("drop", "tcp dport { 22, 80 } ct state new accept"), None, [true; 2]),
        (input("drop", "jump sub"), None, [true; 2]),
        (input("accept", "tcp dport 22 goto sub\n drop"), None, [true; 2]),
    ];
    for (rules, message, open) in cases {
        load(&lab.server, &rules);
        let (text, problem) = check(&lab.server, &site);
        match message {
            Some(message) => {
                let line = text
                    .lines()
                    .find(|line| line.contains(message))
                    .unwrap_or_else(|| panic!("{rules}{text}"));
                assert!(
                    line.contains("spa-knockd.toml:") && line.contains(": action.open-ssh.open: tcp/22 "),
                    "{line}"
                );
                assert_eq!(problem, open == [false; 2], "{rules}{text}");
            }
            None => assert!(!problem && !text.contains("despite a grant"), "{rules}{text}"),
        }
        assert_eq!(opens(&lab, &site), open, "{rules}");
        lab.server.nft("delete table inet other");
    }
    let (text, problem) = check(&lab.server, &site);
    assert!(!problem && !text.contains("table inet other") && !text.contains("ICMP"), "{text}");
}

#[test]
fn the_hint_of_a_problem_fixes_the_problem() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let site = Site::new("", &open_ssh(20));
    load(
        &lab.server,
        "table inet other {\n chain mine {\n type filter hook input priority 0; policy drop\n \
         ct state established accept\n meta l4proto ipv6-icmp accept\n }\n}\n",
    );
    let _daemon = Daemon::start(&lab.server, &site);
    assert_eq!(opens(&lab, &site), [false; 2]);
    let (text, problem) = check(&lab.server, &site);
    let (_, hint) = text.split_once("without a grant: ").unwrap_or_else(|| panic!("{text}"));
    assert!(problem);
    lab.server.run(hint.lines().next().unwrap());
    assert!(!check(&lab.server, &site).1);
    assert_eq!(opens(&lab, &site), [true; 2]);
    assert!(!lab.neighbor.reaches(SERVER4, 22), "our gate is still in effect");
}

#[test]
fn rules_that_iptables_made_are_read() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let site = Site::new("", &open_ssh(20));
    for program in ["iptables-nft", "ip6tables-nft"] {
        for rule in [
            "-P INPUT DROP",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A INPUT -i lo -j ACCEPT",
        ] {
            lab.server.run(&format!("{program} {rule}"));
        }
    }
    let (text, problem) = check(&lab.server, &site);
    for chain in ["table ip filter, chain INPUT: policy drop", "table ip6 filter, chain INPUT: policy drop"] {
        assert!(problem && text.contains(chain), "{text}");
    }
    for program in ["iptables-nft", "ip6tables-nft"] {
        lab.server.run(&format!("{program} -A INPUT -p tcp -m multiport --dports 22,443 -j ACCEPT"));
    }
    let (text, problem) = check(&lab.server, &site);
    assert!(!problem && !text.contains("despite a grant"), "{text}");
}

#[test]
fn a_protected_port_that_is_redirected_before_the_gate_is_a_problem_until_it_is_published() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(20));
    load(
        &lab.server,
        "table ip nat {\n chain PREROUTING {\n type nat hook prerouting priority dstnat\n \
         fib daddr type local jump DOCKER\n }\n chain DOCKER {\n \
         iifname != \"docker0\" tcp dport 22 dnat to 172.17.0.2:80\n }\n}\n",
    );
    let (text, problem) = check(&lab.server, &site);
    let message = "firewall.protect: tcp/22 is redirected before the gate: table ip nat, chain PREROUTING, jump to chain DOCKER: rule";
    assert!(
        problem && text.contains(message) && text.contains("hint: set published = [\"tcp/22\"]"),
        "{text}"
    );
    site.write_config("", &open_ssh(20).replace("protect =", "published ="));
    let (text, problem) = check(&lab.server, &site);
    assert!(!problem && !text.contains("redirected"), "{text}");
}

#[test]
fn a_forward_needs_a_host_that_forwards_packets() {
    let Some(lab) = Lab::new() else { return };
    let forward = |to: &str| {
        format!(
            "[action.db]\nforward = {{ from = \"tcp/15432\", to = \"{to}\" }}\nfor = \"1m\"\n\
             [client.laptop]\nkey = \"laptop.key\"\nallow = [\"db\"]\n"
        )
    };
    for (to, sysctl, file, elsewhere) in [
        ("10.77.1.2:5432", "net.ipv4.ip_forward", "ipv4/ip_forward", "203.0.113.1:5432"),
        (
            "[fd77:0:0:1::2]:5432",
            "net.ipv6.conf.all.forwarding",
            "ipv6/conf/all/forwarding",
            "[2001:db8::1]:5432",
        ),
    ] {
        lab.server.sysctl(file, "0");
        let site = Site::new("", &forward(to));
        let (text, problem) = check(&lab.server, &site);
        assert!(problem && text.contains(&format!("action.db.forward: {sysctl} is 0")), "{text}");
        lab.server.sysctl(file, "1");
        let (text, problem) = check(&lab.server, &site);
        assert!(!problem && !text.contains("no route"), "{text}");
        site.write_config("", &forward(elsewhere));
        let (text, problem) = check(&lab.server, &site);
        assert!(!problem && text.contains("action.db.forward: this host has no route to"), "{text}");
    }
    let site = Site::new("", &forward("10.77.1.2:5432"));
    load(
        &lab.server,
        "table ip other {\n chain mine {\n type filter hook forward priority 0; policy drop\n }\n}\n",
    );
    let (text, problem) = check(&lab.server, &site);
    assert!(
        problem
            && text.contains("tcp/15432 is dropped despite a grant: table ip other, chain mine: policy drop"),
        "{text}"
    );
    lab.server.nft("insert rule ip other mine ct status dnat accept");
    assert!(!check(&lab.server, &site).1);
}

#[test]
fn the_knock_port_is_silent_while_the_gate_is_on() {
    let Some(lab) = Lab::new() else { return };
    let unfiltered = open_ssh(20).replace("[firewall]", "[firewall]\nhint-filter = false");
    for (capture, rest, is_silent) in
        [("pcap", open_ssh(20), true), ("udp", open_ssh(20), true), ("udp", unfiltered, false)]
    {
        let site = Site::new(&format!("capture = \"{capture}\"\n"), &rest);
        let message = "server.port: udp/62201 answers every sender with ICMP port unreachable";
        assert!(!check(&lab.server, &site).0.contains(message), "{capture}: before the first start");
        let daemon = Daemon::start(&lab.server, &site);
        assert!(!check(&lab.server, &site).0.contains(message), "{capture}");
        drop(daemon);
        assert_ne!(
            check(&lab.server, &site).0.contains(message),
            is_silent,
            "{capture}: the table is still there, but the socket is not"
        );
        lab.server.nft("flush ruleset");
        assert!(check(&lab.server, &site).0.contains(message), "{capture}: our table is flushed");
    }
    let site = Site::new("capture = \"udp\"\n", &open_ssh(20));
    load(
        &lab.server,
        "table ip other {\n chain mine {\n type filter hook input priority 0\n udp dport 62201 drop\n }\n}\n",
    );
    let (text, problem) = check(&lab.server, &site);
    assert!(
        problem && text.contains("knocks to udp/62201 do not arrive: table ip other, chain mine"),
        "{text}"
    );
}

#[test]
fn a_user_without_permission_to_read_the_firewall_gets_a_hint() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(20));
    let mut command = limited("setpriv");
    command.args([
        "--bounding-set",
        "-net_admin",
        "--inh-caps",
        "-net_admin",
        env!("CARGO_BIN_EXE_spa-knockd"),
    ]);
    let output = lab.server.output(command.arg("check").arg("-c").arg(site.path("spa-knockd.toml")));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("firewall: its rules cannot be listed: nft: ")
            && text.contains("hint: run this as root"),
        "{text}"
    );
    assert!(text.contains("no service listens on tcp/22"), "the other checks still run: {text}");
}

#[test]
fn unusual_settings_of_the_host_and_the_config_cause_warnings() {
    let Some(lab) = Lab::new() else { return };
    lab.server.ip("link add bare0 type veth peer name bare1");
    lab.server.ip("link set bare0 up");
    let rest = open_ssh(20)
        .replace("[action.open-ssh]", "failsafe = { after = \"10m\", allow = [\"any\"] }\n[action.open-ssh]")
        .replace("for = \"20s\"\nmax = \"1m\"", "for = \"2d\"");
    let site = Site::new("interfaces = [\"lan0\", \"bare0\"]\n", &rest);
    let off = lab.server.output(&mut site.admin(&["gate", "off"]));
    assert!(off.status.success(), "{off:?}");
    let (text, problem) = check(&lab.server, &site);
    for message in [
        "server.interfaces: bare0: has no address that other hosts can reach",
        "firewall.failsafe: 10m after the daemon dies, the protected ports are open to everyone",
        "action.open-ssh.for: 2d is long",
        "firewall.protect: no service listens on tcp/22",
        "the gate is off: all ports are open",
        "hint: spa-knockd gate on",
    ] {
        assert!(text.contains(message), "{message}\n{text}");
    }
    assert!(!problem && !text.contains("lan0"), "{text}");
    let loopback = lab.server.enter(|| std::net::TcpListener::bind("127.0.0.1:22")).unwrap();
    assert!(check(&lab.server, &site).0.contains("the service on tcp/22 listens only on 127.0.0.1"));
    drop(loopback);
    lab.server.echo(22);
    let (text, _) = check(&lab.server, &site);
    assert!(!text.contains("listens on tcp/22") && !text.contains("listens only on"), "{text}");
}

#[test]
fn a_knock_range_that_others_use_causes_a_warning() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &format!("[ports]\n{}", open_ssh(20)));
    let reports = |text: &str| check(&lab.server, &site).0.contains(text);
    assert!(!reports("knock range"));
    lab.server.echo(20_500);
    assert!(reports("ports: a service listens on tcp/20500, which is in the knock range 20480-28671"));
    lab.server.sysctl("ipv4/ip_local_port_range", "28671 60999");
    assert!(reports(
        "ports: the knock range 20480-28671 overlaps the local ports of this host's own connections (28671-60999)"
    ));
    lab.server.sysctl("ipv4/ip_local_port_range", "28672 60999");
    assert!(!reports("own connections"));
}

#[test]
fn a_program_that_cannot_be_run_or_that_others_can_replace_is_a_problem() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", "");
    let [plain, foreign] = ["plain", "foreign"].map(|name| site.path(name));
    for (path, mode) in [(&plain, 0o644), (&foreign, 0o757)] {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let rest = format!(
        "[firewall]\nbackend = \"none\"\n[action.a]\nrun = [\"/usr/local/bin/nothere\", \"on\"]\nundo = [\"{}\"]\nfor = \"1m\"\n\
         [action.b]\nrun = [\"{}\"]\n[action.c]\nrun = [\"/bin/true\"]\n\
         [client.laptop]\nkey = \"laptop.key\"\nallow = [\"a\", \"b\", \"c\"]\n",
        plain.display(),
        foreign.display()
    );
    site.write_config("", &rest);
    let output = lab.server.output(&mut site.admin(&["check"]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for message in [
        "action.a.run: /usr/local/bin/nothere: no such file or directory",
        &format!(
            "action.a.undo: {}: mode 0644 does not allow anyone to run it\nhint: chmod 755",
            plain.display()
        ),
        &format!(
            "action.b.run: {}: mode 0757 allows others to change it\nhint: chmod go-w",
            foreign.display()
        ),
    ] {
        assert!(text.contains(message), "{message}: {text}");
    }
    assert!(!text.contains("action.c"), "{text}");
}
