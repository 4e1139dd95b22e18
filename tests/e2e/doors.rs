//! Every kind of door: ranges, one connection, ways inside, ports that a client names, neighbours, closing early.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::thread;
use std::time::Duration;

use spa_knock_core::knock::{Knock, ReplyStatus};

use crate::net::{
    BOTH, CLIENT4, CLIENT6, Daemon, Lab, NEIGHBOUR4, Namespace, NatLab, SERVER4, SERVER6, Site, ask,
    ask_patiently, converse, full, knock, within,
};

const SOON: Duration = Duration::from_secs(2);

/// A site with these actions, all of which `laptop` may do.
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

/// Knocks from an address of the client's; what came of it.
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
    let answer = ask_patiently(&lab.udp(from), server, datagram.as_bytes()).expect("an answer");
    laptop.open(&answer, &datagram).status
}

/// Two ways inside: to the neighbour, and to another port of the server.
pub(crate) const INSIDE: [(&str, &str); 2] = [
    (
        "to-db",
        "forward = { from = \"tcp/15432\", to = [\"10.77.1.2:5432\", \"[fd77:0:0:1::2]:5432\"] }\nfor = \"2s\"",
    ),
    ("to-web", "forward = { from = \"tcp/80\", to = \":8080\" }\nfor = \"2s\""),
];

/// The neighbour's network is the inside: the server passes packets on to it.
pub(crate) fn stand_before_the_inside(lab: &Lab) {
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
    let hears = |from: IpAddr, to: IpAddr| {
        lab.client.udp(from).send_to(b"query", (to, 53)).unwrap();
        within(Duration::from_millis(200), || dns.recv_from(&mut [0; 16]).is_ok())
    };
    let _daemon = Daemon::start(&lab.server, &site);
    for (from, to) in BOTH {
        assert!(!lab.client.reaches(to, 8000) && !hears(from, to));
        assert_eq!(knock_at(&lab.client, from, to, &site, "all", ""), ReplyStatus::Granted);
        for port in [22, 8000, 8049] {
            assert!(lab.client.reaches(to, port), "{to} {port}");
        }
        assert!(!lab.client.reaches(to, 8050), "not granted");
        assert!(hears(from, to));
        lab.client.closing(to, 22);
        assert!(!lab.client.reaches(to, 8000) && !hears(from, to));
    }
}

#[test]
fn a_client_names_the_ports_to_open_among_those_it_may() {
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
    // Ranges that overlap live ones, and the same again.
    for argument in ["tcp/8005-8020", "tcp/8010-8030", "tcp/8005-8020", "tcp/8000-8100"] {
        assert_eq!(open(argument), ReplyStatus::Granted, "{argument}");
    }
    assert!(lab.client.reaches(SERVER4, 8010));
    assert!(!lab.neighbour.reaches(SERVER4, 8010));
}

#[test]
fn all_that_is_open_is_open_again_after_somebody_flushed_the_table() {
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
    // Ranges that overlap cannot stand in one set; a way to another port needs that port, too.
    for argument in ["tcp/8000-8010", "tcp/8005-8030", "tcp/8001-8006"] {
        open("port", argument);
    }
    open("to-web", "");
    let check = |when: &str| {
        for port in [8005, 8020, 80] {
            assert!(lab.client.reaches(SERVER4, port), "{port} {when}");
        }
        for (who, port) in [(&lab.client, 8500), (&lab.neighbour, 8005), (&lab.neighbour, 9000)] {
            assert!(!who.reaches(SERVER4, port), "{port} {when}");
        }
    };
    check("before");
    lab.server.nft("flush ruleset");
    assert!(within(Duration::from_secs(1), || !lab.neighbour.reaches(SERVER4, 9000)), "the gate is back");
    check("after");
}

#[test]
fn two_actions_that_open_one_port_end_each_for_itself() {
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
    lab.client.closing(SERVER4, 80);
    assert!(lab.client.reaches(SERVER4, 8080), "the shorter one does not end the longer one");
    assert_eq!(at("to-web"), ReplyStatus::Granted);
    assert_eq!(at("close-to-web"), ReplyStatus::Done);
    assert!(!lab.client.reaches(SERVER4, 80) && lab.client.reaches(SERVER4, 8080));
}

#[test]
fn neighbours_come_in_with_a_client_whose_carrier_moves_it_about() {
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
        assert!(!lab.neighbour.reaches(to, 22));
        assert_eq!(knock_at(&lab.client, from, to, &site, "ssh", ""), ReplyStatus::Granted, "renewed");
    }
}

#[test]
fn one_connection_uses_a_grant_up_and_a_neighbour_behind_the_same_address_gets_none() {
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
        // The router is the second client behind the address that was let in.
        let refused = Duration::from_millis(100);
        assert!(lab.router.connect_within(SERVER4, 22, refused).is_none(), "the second, {round}");
        assert!(converse(&mut first), "the first lives on, {round}");
        kept.get_or_insert(first);
    }
    assert!(converse(&mut kept.unwrap()));
    println!("one connection: the first in and the second out {rounds} of {rounds}");
}

#[test]
fn a_port_leads_inside_for_the_knocking_address_alone_and_no_longer_than_its_time() {
    let Some(lab) = Lab::new() else { return };
    stand_before_the_inside(&lab);
    let site = site("protect = [\"tcp/8080\"]", &INSIDE, "");
    lab.neighbour.echo(5432);
    lab.server.echo(8080);
    let _daemon = Daemon::start(&lab.server, &site);
    for (from, to) in BOTH {
        for (action, port) in [("to-db", 15_432), ("to-web", 80)] {
            assert!(!lab.client.reaches(to, port), "{action} {to}: closed before");
            assert_eq!(knock_at(&lab.client, from, to, &site, action, ""), ReplyStatus::Granted);
            let mut inside = lab.client.connect(to, port).unwrap_or_else(|| panic!("{action} {to}"));
            assert!(converse(&mut inside));
            assert!(
                !lab.server.reaches_itself(to, port) && !lab.neighbour.reaches(to, port),
                "{action} {to}"
            );
            lab.client.closing(to, port);
            assert!(converse(&mut inside), "what is connected lives on");
        }
    }
}

#[test]
fn a_client_closes_its_own_door_early_and_nobody_elses() {
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
    assert!(ask(&lab.neighbour.udp(NEIGHBOUR4), SERVER4, phone.seal(&knock("ssh")).as_bytes()).is_some());
    assert!(lab.client.reaches(SERVER4, 22) && lab.neighbour.reaches(SERVER4, 22));
    assert_eq!(at("close-ssh"), ReplyStatus::Done);
    assert!(!lab.client.reaches(SERVER4, 22) && lab.neighbour.reaches(SERVER4, 22));
    let [closed, done] = ["revoked", "done"].map(|event| site.audit_of(event));
    assert_eq!((closed.len(), &closed[0]["action"]), (1, &"ssh".into()));
    assert_eq!((done.len(), &done[0]["action"]), (1, &"close-ssh".into()));
    assert_eq!(at("lamp"), ReplyStatus::Done);
    assert_eq!(at("lamp-off"), ReplyStatus::Done);
    assert!(within(SOON, || std::fs::read_to_string(&note).is_ok_and(|text| text == "off\n")));
}

#[test]
fn several_things_in_one_action_are_all_done() {
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
fn grants_are_listed_and_closed_by_their_number() {
    let Some(lab) = Lab::new() else { return };
    let site = site("protect = [\"tcp/22\"]", &[("ssh", "open = [\"tcp/22\"]\nfor = \"1m\"")], "");
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let admin = |words: &[&str]| {
        let output = site.admin(words).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), told + &String::from_utf8_lossy(&output.stderr))
    };
    for (from, to) in BOTH {
        assert_eq!(knock_at(&lab.client, from, to, &site, "ssh", ""), ReplyStatus::Granted);
    }
    let (_, told) = admin(&["grants", "--json"]);
    let grants: serde_json::Value = serde_json::from_str(&told).unwrap();
    let four = grants.as_array().unwrap().iter().find(|grant| grant["from"] == CLIENT4.to_string()).unwrap();
    assert_eq!(
        (&four["client"], &four["action"], &four["opens"]),
        (&"laptop".into(), &"ssh".into(), &"tcp/22".into())
    );
    let (code, told) = admin(&["revoke", four["grant"].as_str().unwrap()]);
    assert_eq!(code, Some(0), "{told}");
    assert!(!lab.client.reaches(SERVER4, 22) && lab.client.reaches(SERVER6, 22));
    assert_eq!(admin(&["revoke", "00000000"]).0, Some(1));
    let (_, told) = admin(&["grants"]);
    assert!(
        told.contains("laptop") && told.contains(&CLIENT6.to_string()) && !told.contains("10.77"),
        "{told}"
    );
    assert_eq!(admin(&["revoke", "--all"]).0, Some(0));
    assert!(!lab.client.reaches(SERVER6, 22));
    assert_eq!(site.audit_of("revoked").len(), 2);
    assert!(daemon.terminate().success());
    assert_eq!(admin(&["grants"]).0, Some(1), "nobody answers");
}

#[test]
fn published_ports_of_containers_are_closed_before_they_are_led_inside() {
    let Some(lab) = Lab::new() else { return };
    // What a container engine does: the host's port 8080 leads to port 80 of somebody behind it.
    lab.server.sysctl("ipv4/ip_forward", "1");
    lab.server.nft("add table ip containers");
    lab.server.nft("add chain ip containers pre { type nat hook prerouting priority -100 ; }");
    lab.server.nft("add rule ip containers pre fib daddr type local tcp dport 8080 dnat to 10.77.1.2:80");
    let listener = lab.neighbour.enter(|| TcpListener::bind(("10.77.1.2", 80)).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut heard = [0; 5];
            let _ = stream.read_exact(&mut heard).and_then(|()| stream.write_all(&heard));
        }
    });
    let site = site("published = [\"tcp/8080\"]", &[("web", "open = [\"tcp/8080\"]\nfor = \"2s\"")], "");
    assert!(lab.client.reaches(SERVER4, 8080), "open without the gate");
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 8080));
    assert_eq!(knock_at(&lab.client, CLIENT4, SERVER4, &site, "web", ""), ReplyStatus::Granted);
    assert!(converse(&mut lab.client.connect(SERVER4, 8080).unwrap()));
    lab.client.closing(SERVER4, 8080);
}
