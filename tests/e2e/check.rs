//! `spa-knockd check` on hosts whose own firewall stands in the way; and that a port is as open as it says.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::net::{Daemon, Lab, Namespace, SERVER4, SERVER6, Site, limited, open_ssh};

/// What it prints, and whether it found a problem.
fn check(namespace: &Namespace, site: &Site) -> (String, bool) {
    let output = namespace.output(&mut site.admin(&["check"]));
    assert!(output.stderr.is_empty(), "{output:?}");
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{output:?}");
    (String::from_utf8(output.stdout).unwrap(), code == Some(1))
}

/// Loads rules as they stand in a file.
fn load(namespace: &Namespace, rules: &str) {
    let mut child = namespace.spawn(limited("nft").args(["-f", "-"]).stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{rules}");
}

/// Whether a knock opens port 22, in each IP version; a daemon runs.
fn opens(lab: &Lab, site: &Site) -> [bool; 2] {
    [SERVER4, SERVER6].map(|server| {
        let knock = lab.client.output(&mut site.knock(server, &["open-ssh"]));
        assert!(knock.status.success(), "{knock:?}");
        lab.client.reaches(server, 22)
    })
}

#[test]
fn what_it_says_of_other_tables_is_what_a_knock_meets() {
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
        // Knocks get their answers, and neighbours are found.
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
            Some("is rejected all the same: table inet other, chain mine"),
            [false; 2],
        ),
        (
            chain("prerouting priority -300", "tcp dport 22 drop"),
            Some("chain mine: rule with handle"),
            [false; 2],
        ),
        (
            input("drop", "meta nfproto ipv4 tcp dport 22 accept"),
            Some("over IPv6: table inet other"),
            [true, false],
        ),
        (input("drop", "tcp dport { 22, 80 } ct state new accept"), None, [true; 2]),
        (input("drop", "jump sub"), None, [true; 2]),
        (input("accept", "tcp dport 22 goto sub\n drop"), None, [true; 2]),
    ];
    for (rules, said, open) in cases {
        load(&lab.server, &rules);
        let (text, problem) = check(&lab.server, &site);
        match said {
            Some(said) => {
                let line =
                    text.lines().find(|line| line.contains(said)).unwrap_or_else(|| panic!("{rules}{text}"));
                assert!(
                    line.contains("spa-knockd.toml:") && line.contains(": action.open-ssh.open: tcp/22 "),
                    "{line}"
                );
                assert_eq!(problem, open == [false; 2], "{rules}{text}");
            }
            None => assert!(!problem && !text.contains("all the same"), "{rules}{text}"),
        }
        assert_eq!(opens(&lab, &site), open, "{rules}");
        lab.server.nft("delete table inet other");
    }
    let (text, problem) = check(&lab.server, &site);
    assert!(!problem && !text.contains("table inet other") && !text.contains("ICMP"), "{text}");
}

#[test]
fn its_own_hint_mends_what_it_found() {
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
    assert!(!lab.neighbour.reaches(SERVER4, 22), "our gate still decides");
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
    assert!(!problem && !text.contains("all the same"), "{text}");
}

#[test]
fn a_protected_port_that_leads_inside_is_a_problem_until_it_is_published() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(20));
    load(
        &lab.server,
        "table ip nat {\n chain PREROUTING {\n type nat hook prerouting priority dstnat\n \
         fib daddr type local jump DOCKER\n }\n chain DOCKER {\n \
         iifname != \"docker0\" tcp dport 22 dnat to 172.17.0.2:80\n }\n}\n",
    );
    let (text, problem) = check(&lab.server, &site);
    let said = "firewall.protect: tcp/22 is led elsewhere before the gate: table ip nat, chain PREROUTING, from there chain DOCKER: rule";
    assert!(problem && text.contains(said) && text.contains("hint: published = [\"tcp/22\"]"), "{text}");
    site.write_config("", &open_ssh(20).replace("protect =", "published ="));
    let (text, problem) = check(&lab.server, &site);
    assert!(!problem && !text.contains("led elsewhere"), "{text}");
}

#[test]
fn a_way_inside_needs_a_host_that_passes_packets_on() {
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
            && text.contains("tcp/15432 is dropped all the same: table ip other, chain mine: policy drop"),
        "{text}"
    );
    lab.server.nft("insert rule ip other mine ct status dnat accept");
    assert!(!check(&lab.server, &site).1);
}

#[test]
fn the_knock_port_is_silent_while_the_gate_stands() {
    let Some(lab) = Lab::new() else { return };
    for capture in ["pcap", "udp"] {
        let site = Site::new(&format!("capture = \"{capture}\"\n"), &open_ssh(20));
        let said = "server.port: udp/62201 answers strangers with ICMP port unreachable";
        assert!(!check(&lab.server, &site).0.contains(said), "{capture}: not before the first start");
        let daemon = Daemon::start(&lab.server, &site);
        assert!(!check(&lab.server, &site).0.contains(said), "{capture}");
        drop(daemon);
        assert_eq!(
            check(&lab.server, &site).0.contains(said),
            capture == "udp",
            "the table stays, the socket does not"
        );
        lab.server.nft("flush ruleset");
        assert!(check(&lab.server, &site).0.contains(said), "{capture}: nothing of ours is left");
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
fn who_may_not_look_at_the_firewall_is_told_so() {
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
        text.contains("firewall: its rules cannot be looked at: nft: ")
            && text.contains("hint: run this as root"),
        "{text}"
    );
    assert!(text.contains("nothing listens on tcp/22"), "and it goes on: {text}");
}

#[test]
fn what_is_odd_about_the_host_and_the_config_is_warned_of() {
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
    for said in [
        "server.interfaces: bare0: has no address that others reach",
        "firewall.failsafe: 10m after the daemon has died, the protected ports are open to everybody",
        "action.open-ssh.for: 2d is long",
        "firewall.protect: nothing listens on tcp/22",
        "the gate is off: all ports are open",
        "hint: spa-knockd gate on",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
    assert!(!problem && !text.contains("lan0"), "{text}");
    let loopback = lab.server.enter(|| std::net::TcpListener::bind("127.0.0.1:22")).unwrap();
    assert!(check(&lab.server, &site).0.contains("what listens on tcp/22 does so on 127.0.0.1 alone"));
    drop(loopback);
    lab.server.echo(22);
    assert!(!check(&lab.server, &site).0.contains("listens on"));
}

#[test]
fn a_band_in_the_way_of_others_is_warned_about() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &format!("[ports]\n{}", open_ssh(20)));
    let said = |words: &str| check(&lab.server, &site).0.contains(words);
    assert!(!said("knock range"));
    lab.server.echo(20_500);
    assert!(said("ports: something listens on tcp/20500, which is in the knock range 20480-28671"));
    lab.server.sysctl("ipv4/ip_local_port_range", "28671 60999");
    assert!(said(
        "ports: the knock range 20480-28671 has ports that this host gives to its own connections (28671-60999)"
    ));
    lab.server.sysctl("ipv4/ip_local_port_range", "28672 60999");
    assert!(!said("its own connections"));
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
    for says in [
        "action.a.run: /usr/local/bin/nothere: no such file or directory",
        &format!("action.a.undo: {}: mode 0644 lets no one run it\nhint: chmod 755", plain.display()),
        &format!("action.b.run: {}: mode 0757 lets others change it\nhint: chmod go-w", foreign.display()),
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(!text.contains("action.c"), "{text}");
}
