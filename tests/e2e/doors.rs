//! Every kind of action that opens ports: port ranges, single connections, forwarding, ports chosen by the client,
//! prefixes, and closing early.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::thread;
use std::time::Duration;

use spa_knock_core::knock::{Knock, ReplyStatus};

use crate::net::{
    BOTH, CLIENT4, CLIENT6, Daemon, Lab, NEIGHBOR4, Namespace, NatLab, SERVER4, SERVER6, Site, ask,
    ask_patiently, full, knock, still_echoes, within,
};

const SOON: Duration = Duration::from_secs(2);

/// A site with these actions, all of which `laptop` is allowed to use.
pub(crate) fn site(firewall: &str, actions: &[(&str, &str)], client: &str) -> Site {
    let site = Site::new("", "");
    let names: Vec<String> = actions.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let tables: String = actions.iter().map(|(name, lines)| format!("[action.{name}]\n{lines}\n")).collect();
    let rest = format!(
        "[firewall]\n{firewall}\n{tables}\n[client.laptop]\nkey = \"laptop.key\"\nallow = [{}]\n{client}\n",
        names.join(", ")
    );
    site.write_config("", &rest);
    site
}

/// Knocks from an address of the client and returns the status of the reply.
pub(crate) fn knock_at(
    lab: &Namespace,
    from: IpAddr,
    server: IpAddr,
    site: &Site,
    action: &str,
    argument: &str,
) -> ReplyStatus {
    let knock = Knock { argument: argument.parse().unwrap(), ..knock(action) };
    let laptop = site.key("laptop");
    let datagram = laptop.seal(&knock);
    let reply = ask_patiently(&lab.udp(from), server, datagram.as_bytes()).expect("a reply");
    laptop.open(&reply, &datagram).status
}

/// Two forwarding actions: to the neighbor, and to another port of the server.
pub(crate) const INSIDE: [(&str, &str); 2] = [
    (
        "to-db",
        "forward = { from = \"tcp/15432\", to = [\"10.77.1.2:5432\", \"[fd77:0:0:1::2]:5432\"] }\nfor = \"2s\"",
    ),
    ("to-web", "forward = { from = \"tcp/80\", to = \":8080\" }\nfor = \"2s\""),
];

/// Makes the server forward packets to the neighbor's network.
pub(crate) fn enable_forwarding(lab: &Lab) {
    for (name, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
        lab.server.sysctl(name, value);
    }
}

#[test]
fn several_ports_and_ranges_of_both_protocols_open_and_close_together() {
    let Some(lab) = Lab::new() else { return };
    let site = site(
        "protect = [\"tcp/22\", \"tcp/8000-8099\", \"udp/53\"]",
        &[("all", "open = [\"tcp/22\", \"tcp/8000-8049\", \"udp/53\"]\nfor = \"2s\"")],
        "",
    );
    for port in [22, 8000, 8049, 8050] {
        lab.server.echo(port);
    }
    let dns = lab.server.enter(|| std::net::UdpSocket::bind(("::", 53)).unwrap());
    dns.set_nonblocking(true).unwrap();
    let receives = |from: IpAddr, to: IpAddr| {
        lab.client.udp(from).send_to(b"query", (to, 53)).unwrap();
        within(Duration::from_millis(200), || dns.recv_from(&mut [0; 16]).is_ok())
    };
    let _daemon = Daemon::start(&lab.server, &site);
    for (from, to) in BOTH {
        assert!(!lab.client.reaches(to, 8000) && !receives(from, to));
        assert_eq!(knock_at(&lab.client, from, to, &site, "all", ""), ReplyStatus::Granted);
        for port in [22, 8000, 8049] {
            assert!(lab.client.reaches(to, port), "{to} {port}");
        }
        assert!(!lab.client.reaches(to, 8050), "not granted");
        assert!(receives(from, to));
        lab.client.wait_until_closed(to, 22);
        assert!(!lab.client.reaches(to, 8000) && !receives(from, to));
    }
}

#[test]
fn a_client_chooses_the_ports_to_open_among_allowed_ones() {
    let Some(lab) = Lab::new() else { return };
    let site = site(
        "protect = [\"tcp/8000-8999\"]",
        &[("port", "open = \"argument\"\nallow-ports = [\"tcp/8000-8499\"]\nfor = \"30s\"")],
        "",
    );
    for port in [8001, 8010, 8600] {
        lab.server.echo(port);
    }
    let _daemon = Daemon::start(&lab.server, &site);
    let open = |argument: &str| knock_at(&lab.client, CLIENT4, SERVER4, &site, "port", argument);
    assert_eq!(open("tcp/8001"), ReplyStatus::Granted);
    assert!(lab.client.reaches(SERVER4, 8001) && !lab.client.reaches(SERVER4, 8010));
    assert_eq!(open("tcp/8600"), ReplyStatus::ArgumentRefused);
    assert_eq!(open("8001"), ReplyStatus::ArgumentRefused);
    // Ranges that overlap granted ones, and a repeated one.
    for argument in ["tcp/8005-8020", "tcp/8010-8030", "tcp/8005-8020", "tcp/8000-8100"] {
        assert_eq!(open(argument), ReplyStatus::Granted, "{argument}");
    }
    assert!(lab.client.reaches(SERVER4, 8010));
    assert!(!lab.neighbor.reaches(SERVER4, 8010));
}

#[test]
fn all_grants_are_restored_after_the_table_was_flushed() {
    let Some(lab) = Lab::new() else { return };
    let actions = [
        ("port", "open = \"argument\"\nallow-ports = [\"tcp/8000-8499\"]\nfor = \"30s\""),
        ("to-web", "forward = { from = \"tcp/80\", to = \":9000\" }\nfor = \"30s\""),
    ];
    let site = site("protect = [\"tcp/8000-8999\", \"tcp/9000\"]", &actions, "");
    for port in [8005, 8020, 8500, 9000] {
        lab.server.echo(port);
    }
    let _daemon = Daemon::start(&lab.server, &site);
    let open = |action: &str, argument: &str| {
        assert_eq!(knock_at(&lab.client, CLIENT4, SERVER4, &site, action, argument), ReplyStatus::Granted);
    };
    // Overlapping ranges cannot be in one set. Forwarding to another port needs access to that port, too.
    for argument in ["tcp/8000-8010", "tcp/8005-8030", "tcp/8001-8006"] {
        open("port", argument);
    }
    open("to-web", "");
    let check = |when: &str| {
        for port in [8005, 8020, 80] {
            assert!(lab.client.reaches(SERVER4, port), "{port} {when}");
        }
        for (host, port) in [(&lab.client, 8500), (&lab.neighbor, 8005), (&lab.neighbor, 9000)] {
            assert!(!host.reaches(SERVER4, port), "{port} {when}");
        }
    };
    check("before");
    lab.server.nft("flush ruleset");
    assert!(within(Duration::from_secs(1), || !lab.neighbor.reaches(SERVER4, 9000)), "the gate is back");
    check("after");
}

#[test]
fn grants_of_two_actions_for_one_port_expire_separately() {
    let Some(lab) = Lab::new() else { return };
    let actions = [
        ("web", "open = [\"tcp/8080\"]\nfor = \"30s\""),
        ("to-web", "forward = { from = \"tcp/80\", to = \":8080\" }\nfor = \"1s\""),
        ("close-to-web", "close = \"to-web\""),
    ];
    let site = site("protect = [\"tcp/8080\"]", &actions, "");
    lab.server.echo(8080);
    let _daemon = Daemon::start(&lab.server, &site);
    let at = |action: &str| knock_at(&lab.client, CLIENT4, SERVER4, &site, action, "");
    for action in ["web", "to-web"] {
        assert_eq!(at(action), ReplyStatus::Granted);
    }
    assert!(lab.client.reaches(SERVER4, 80) && lab.client.reaches(SERVER4, 8080));
    lab.client.wait_until_closed(SERVER4, 80);
    assert!(lab.client.reaches(SERVER4, 8080), "the shorter grant does not end the longer one");
    assert_eq!(at("to-web"), ReplyStatus::Granted);
    assert_eq!(at("close-to-web"), ReplyStatus::Done);
    assert!(!lab.client.reaches(SERVER4, 80) && lab.client.reaches(SERVER4, 8080));
}

#[test]
fn a_grant_for_a_prefix_admits_the_clients_other_addresses() {
    let Some(lab) = Lab::new() else { return };
    let site = site(
        "protect = [\"tcp/22\"]",
        &[("ssh", "open = [\"tcp/22\"]\nfor = \"30s\"")],
        "grant-prefix = [\"/24\", \"/64\"]",
    );
    lab.server.echo(22);
    lab.client.ip("addr add 10.77.0.200/24 dev eth0");
    lab.client.ip("addr add fd77::200/64 dev eth0");
    let _daemon = Daemon::start(&lab.server, &site);
    for (from, to, other) in [(CLIENT4, SERVER4, "10.77.0.200"), (CLIENT6, SERVER6, "fd77::200")] {
        assert_eq!(knock_at(&lab.client, from, to, &site, "ssh", ""), ReplyStatus::Granted);
        assert!(lab.client.reaches_from(other.parse().unwrap(), to, 22), "{other}");
        assert!(!lab.neighbor.reaches(to, 22));
        assert_eq!(knock_at(&lab.client, from, to, &site, "ssh", ""), ReplyStatus::Granted, "renewed");
    }
}

#[test]
fn a_grant_for_one_connection_admits_no_second_one_from_the_same_address() {
    let Some(lab) = NatLab::new() else { return };
    let site =
        site("protect = [\"tcp/22\"]", &[("once", "open = [\"tcp/22\"]\nonce = true\nfor = \"20s\"")], "");
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let (mut kept, rounds) = (None, if full() { 200 } else { 8 });
    for round in 0..rounds {
        let from = "10.77.2.2".parse().unwrap();
        assert_eq!(knock_at(&lab.client, from, SERVER4, &site, "once", ""), ReplyStatus::Granted, "{round}");
        let mut first = lab.client.connect(SERVER4, 22).unwrap_or_else(|| panic!("the first, {round}"));
        // The router is a second client with the granted address.
        let refused = Duration::from_millis(100);
        assert!(lab.router.connect_within(SERVER4, 22, refused).is_none(), "the second, {round}");
        assert!(still_echoes(&mut first), "the first one continues, {round}");
        kept.get_or_insert(first);
    }
    assert!(still_echoes(&mut kept.unwrap()));
    println!("one connection: first admitted and second refused, {rounds} of {rounds}");
}

#[test]
fn a_port_is_forwarded_only_for_the_knocking_address_and_only_for_its_time() {
    let Some(lab) = Lab::new() else { return };
    enable_forwarding(&lab);
    let site = site("protect = [\"tcp/8080\"]", &INSIDE, "");
    lab.neighbor.echo(5432);
    lab.server.echo(8080);
    let _daemon = Daemon::start(&lab.server, &site);
    for (from, to) in BOTH {
        for (action, port) in [("to-db", 15_432), ("to-web", 80)] {
            assert!(!lab.client.reaches(to, port), "{action} {to}: closed before");
            assert_eq!(knock_at(&lab.client, from, to, &site, action, ""), ReplyStatus::Granted);
            let mut inside = lab.client.connect(to, port).unwrap_or_else(|| panic!("{action} {to}"));
            assert!(still_echoes(&mut inside));
            assert!(!lab.server.reaches_itself(to, port) && !lab.neighbor.reaches(to, port), "{action} {to}");
            lab.client.wait_until_closed(to, port);
            assert!(still_echoes(&mut inside), "the connection survives");
        }
    }
}

#[test]
fn a_client_can_close_its_own_grant_early_but_no_one_elses() {
    let Some(lab) = Lab::new() else { return };
    let notes = tempfile::tempdir().unwrap();
    let note = notes.path().join("off");
    let lamp = format!(
        "run = [\"/bin/true\"]\nundo = [\"/bin/sh\", \"-c\", \"echo off >> {}\"]\nfor = \"1h\"",
        note.display()
    );
    let actions = [
        ("ssh", "open = [\"tcp/22\"]\nfor = \"1m\""),
        ("close-ssh", "close = \"ssh\""),
        ("lamp", &*lamp),
        ("lamp-off", "close = \"lamp\""),
    ];
    let site = site("protect = [\"tcp/22\"]", &actions, "");
    let config = std::fs::read_to_string(site.path("spa-knockd.toml")).unwrap();
    std::fs::write(
        site.path("spa-knockd.toml"),
        config + "[client.phone]\nkey = \"phone.key\"\nallow = [\"ssh\"]\n",
    )
    .unwrap();
    let phone = site.add_key("phone");
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let at = |action: &str| knock_at(&lab.client, CLIENT4, SERVER4, &site, action, "");
    assert_eq!(at("ssh"), ReplyStatus::Granted);
    assert!(ask(&lab.neighbor.udp(NEIGHBOR4), SERVER4, phone.seal(&knock("ssh")).as_bytes()).is_some());
    assert!(lab.client.reaches(SERVER4, 22) && lab.neighbor.reaches(SERVER4, 22));
    assert_eq!(at("close-ssh"), ReplyStatus::Done);
    assert!(!lab.client.reaches(SERVER4, 22) && lab.neighbor.reaches(SERVER4, 22));
    let [closed, done] = ["revoked", "done"].map(|event| site.audit_of(event));
    assert_eq!((closed.len(), &closed[0]["action"]), (1, &"ssh".into()));
    assert_eq!((done.len(), &done[0]["action"]), (1, &"close-ssh".into()));
    assert_eq!(at("lamp"), ReplyStatus::Done);
    assert_eq!(at("lamp-off"), ReplyStatus::Done);
    assert!(within(SOON, || std::fs::read_to_string(&note).is_ok_and(|text| text == "off\n")));
}

#[test]
fn all_effects_of_one_action_are_applied() {
    let Some(lab) = Lab::new() else { return };
    let notes = tempfile::tempdir().unwrap();
    let note = notes.path().join("done");
    let both =
        format!("open = [\"tcp/22\"]\nrun = [\"/usr/bin/touch\", \"{}\"]\nfor = \"10s\"", note.display());
    let site = site("protect = [\"tcp/22\"]", &[("both", &*both)], "");
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    assert_eq!(knock_at(&lab.client, CLIENT4, SERVER4, &site, "both", ""), ReplyStatus::Granted);
    assert!(lab.client.reaches(SERVER4, 22) && within(SOON, || note.exists()));
}

#[test]
fn grants_are_listed_and_revoked_by_their_number() {
    let Some(lab) = Lab::new() else { return };
    let site = site("protect = [\"tcp/22\"]", &[("ssh", "open = [\"tcp/22\"]\nfor = \"1m\"")], "");
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let admin = |args: &[&str]| {
        let output = site.admin(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    for (from, to) in BOTH {
        assert_eq!(knock_at(&lab.client, from, to, &site, "ssh", ""), ReplyStatus::Granted);
    }
    let (_, text) = admin(&["grants", "--json"]);
    let grants: serde_json::Value = serde_json::from_str(&text).unwrap();
    let four = grants.as_array().unwrap().iter().find(|grant| grant["from"] == CLIENT4.to_string()).unwrap();
    assert_eq!(
        (&four["client"], &four["action"], &four["opens"]),
        (&"laptop".into(), &"ssh".into(), &"tcp/22".into())
    );
    let (code, text) = admin(&["revoke", four["grant"].as_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!lab.client.reaches(SERVER4, 22) && lab.client.reaches(SERVER6, 22));
    assert_eq!(admin(&["revoke", "00000000"]).0, Some(1));
    let (_, text) = admin(&["grants"]);
    assert!(
        text.contains("laptop") && text.contains(&CLIENT6.to_string()) && !text.contains("10.77"),
        "{text}"
    );
    assert_eq!(admin(&["revoke", "--all"]).0, Some(0));
    assert!(!lab.client.reaches(SERVER6, 22));
    assert_eq!(site.audit_of("revoked").len(), 2);
    assert!(daemon.terminate().success());
    assert_eq!(admin(&["grants"]).0, Some(1), "no daemon is running");
}

#[test]
fn published_ports_of_containers_are_closed_before_they_are_forwarded() {
    let Some(lab) = Lab::new() else { return };
    // Like a container engine: forward the host's port 8080 to port 80 of a container.
    lab.server.sysctl("ipv4/ip_forward", "1");
    lab.server.nft("add table ip containers");
    lab.server.nft("add chain ip containers pre { type nat hook prerouting priority -100 ; }");
    lab.server.nft("add rule ip containers pre fib daddr type local tcp dport 8080 dnat to 10.77.1.2:80");
    let listener = lab.neighbor.enter(|| TcpListener::bind(("10.77.1.2", 80)).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut echo = [0; 5];
            let _ = stream.read_exact(&mut echo).and_then(|()| stream.write_all(&echo));
        }
    });
    let site = site("published = [\"tcp/8080\"]", &[("web", "open = [\"tcp/8080\"]\nfor = \"2s\"")], "");
    assert!(lab.client.reaches(SERVER4, 8080), "open without the gate");
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 8080));
    assert_eq!(knock_at(&lab.client, CLIENT4, SERVER4, &site, "web", ""), ReplyStatus::Granted);
    assert!(still_echoes(&mut lab.client.connect(SERVER4, 8080).unwrap()));
    lab.client.wait_until_closed(SERVER4, 8080);
}
