//! The holder of the keys of one stanza of fwknop, or a thief of them: whatever they send, the clients of another stanza
//! and sealed knocks get in, and memory and files stay small.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::Value;
use spa_knock_core::crypto::checksum;
use spa_knock_fwknop::{Content, Digest, Message, NatTarget, Port, Transport};

use crate::fwknop::{SOON, send, send_bytes, site, status, write};
use crate::fwknop_floods::{
    FIRST, Outcome, assert_no_growth, beside_a_flood_from, extent, folder_size, honest_stanza, memory_of,
    protected_site,
};
use crate::fwknop_packets::{OTHER, USUAL, now};
use crate::fwknopd::Host;
use crate::net::{CLIENT4, Daemon, Lab, SERVER4, Site, ask, children_of, within};

/// Different packets of each attack; they are sent in a cycle.
const PACKETS: usize = 8_000;
/// The longest time for which a packet opens something, by default.
const LONGEST: u64 = 300;
/// Active grants that a stanza can have.
const GRANTS: usize = 128;

/// What a hostile holder of keys sends.
struct Attack {
    what: &'static str,
    /// Their stanza. `DIR` is a directory of the test.
    stanza: &'static str,
    server: &'static str,
    packet: fn(usize) -> Vec<u8>,
}

const ATTACKS: [Attack; 9] = [
    Attack {
        what: "as many ports in one packet as fwknop can send",
        stanza: "FW_ACCESS_TIMEOUT 60",
        server: "",
        packet: |number| {
            let ports = (1..=9).chain(20..=26).map(tcp).collect();
            seal(other(number), Content::Access(ports), None, 0)
        },
    },
    Attack {
        what: "thousands of ports in one packet",
        stanza: "FW_ACCESS_TIMEOUT 60",
        server: "",
        packet: |number| {
            let ports: Vec<Port> = (1..=200).chain((number % 2 == 1).then_some(1_000)).map(tcp).collect();
            seal(other(number), Content::Access(ports), None, 0)
        },
    },
    Attack {
        what: "the longest times",
        stanza: "OPEN_PORTS tcp/22",
        server: "",
        packet: |number| seal(other(number), Content::Access(vec![tcp(22)]), Some(65_536), 0),
    },
    Attack {
        what: "many targets of forwarding",
        stanza: "FW_ACCESS_TIMEOUT 60",
        server: "ENABLE_IPT_FORWARDING Y;\n",
        packet: |number| {
            let target = NatTarget {
                host: other(number).to_string(),
                port: 1 + u16::try_from(number % 60_000).unwrap(),
            };
            let port = tcp(20_000 + u16::try_from(number % 20_000).unwrap());
            seal(honest_address(), Content::Nat(vec![port], target), Some(300), 0)
        },
    },
    Attack {
        what: "forwarding of an honest client's port",
        stanza: "FW_ACCESS_TIMEOUT 60",
        server: "ENABLE_IPT_FORWARDING Y;\n",
        packet: |number| {
            let target = NatTarget { host: other(number).to_string(), port: 22 };
            let port = tcp(FIRST + u16::try_from(number).unwrap() % extent().1);
            seal(honest_address(), Content::Nat(vec![port], target), Some(300), 0)
        },
    },
    Attack {
        what: "packets from the future",
        stanza: "OPEN_PORTS tcp/22",
        server: "",
        packet: |number| {
            let ahead = if number.is_multiple_of(2) { 110 } else { 100_000 };
            seal(other(number), Content::Access(vec![tcp(22)]), None, ahead)
        },
    },
    Attack {
        what: "cycles whose closing commands hang",
        stanza: "CMD_CYCLE_OPEN /bin/true $IP\nCMD_CYCLE_CLOSE /bin/sh DIR/hang $IP\nCMD_CYCLE_TIMER 1",
        server: "",
        packet: |number| seal(other(number), Content::Access(vec![tcp(22)]), None, 0),
    },
    Attack {
        what: "commands that hang",
        stanza: "ENABLE_CMD_EXEC Y\nCMD_EXEC_USER nobody",
        server: "",
        packet: |number| {
            seal(other(number), Content::Command(format!("/bin/sleep {}", 1_000 + number)), None, 0)
        },
    },
    Attack {
        what: "shorter times for the address of an honest client",
        stanza: "FW_ACCESS_TIMEOUT 1",
        server: "",
        packet: |number| {
            let port = FIRST + u16::try_from(number).unwrap() % extent().1;
            seal(honest_address(), Content::Access(vec![tcp(port)]), Some(1), 0)
        },
    },
];

const fn tcp(number: u16) -> Port {
    Port { transport: Transport::Tcp, number }
}

/// One of many addresses.
fn other(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0xac10_0000 + u32::try_from(number).unwrap())
}

/// The address of all honest clients, and the one that the hostile holder sends from.
fn honest_address() -> Ipv4Addr {
    let IpAddr::V4(honest) = CLIENT4 else { unreachable!() };
    honest
}

/// A packet made with the keys of the hostile holder's stanza, by a clock that is `ahead` seconds ahead.
fn seal(allow: Ipv4Addr, content: Content, timeout: Option<u32>, ahead: u64) -> Vec<u8> {
    let number = u64::from_be_bytes(spa_knock_core::crypto::random().unwrap()) % 10_000_000_000_000_000;
    let message = Message { user: "mallory".to_owned(), time: now() + ahead, allow, content, timeout };
    OTHER.seal(&message.to_text(number, Digest::Sha256))
}

impl Attack {
    fn packets(&self) -> Vec<Vec<u8>> {
        (0..PACKETS).map(self.packet).collect()
    }

    /// Whether no daemon reads such a packet.
    fn is_too_long(&self) -> bool {
        self.what.starts_with("thousands")
    }

    /// The hostile holder's stanza, and the one of honest clients.
    fn access(&self) -> String {
        format!("{}{}", OTHER.stanza(self.stanza), honest_stanza())
    }

    fn report(&self, daemon: &str, outcome: &Outcome, state: u64, log: usize) {
        let (opened, replies, clients) = (outcome.opened, outcome.replies, extent().1);
        println!(
            "{daemon}, {}: {opened} of {clients} clients of fwknop opened their port, {replies} sealed knocks got a reply; \
             state {state} bytes, log {log} bytes",
            self.what
        );
    }
}

/// Honest clients' ports that are open.
fn open_ports(lab: &Lab) -> u16 {
    let ports = FIRST..FIRST + extent().1;
    ports.filter(|port| lab.client.reaches(SERVER4, *port)).count().try_into().unwrap()
}

/// A command that hangs until it is killed.
const HANG: &str = "exec sleep 1000\n";

#[test]
fn no_attack_with_valid_keys_harms_another_stanza_or_a_sealed_knock() {
    for attack in ATTACKS {
        let Some(lab) = Lab::new() else { return };
        let site = protected_site(&lab, &attack.access());
        write(&site, "fwknopd.conf", attack.server);
        write(&site, "hang", HANG);
        let daemon = Daemon::start(&lab.server, &site);
        let processes = || std::iter::once(daemon.id()).chain(daemon.children().into_iter().take(2));
        let before = memory_of(processes());
        let outcome = beside_a_flood_from(&lab, &site, CLIENT4, &attack.packets(), extent().2);
        let (state, log) = (folder_size(&site.path("state/fwknop")), daemon.log().len());
        attack.report("run", &outcome, state, log);
        let expected = (extent().1, extent().2);
        assert_eq!((outcome.opened, outcome.replies), expected, "{}: {}", attack.what, daemon.log());
        assert_no_growth(&before, &memory_of(processes()));
        assert!(state < 2 << 20 && log < 1 << 20, "{}: {state}, {log}", attack.what);
        assert!(fs::metadata(site.path("audit.jsonl")).unwrap().len() < 1 << 20, "{}", attack.what);
        let granted = site.audit_of("granted");
        let theirs = granted.iter().filter(|record| record["action"] == "stanza-1");
        assert!(theirs.clone().count() <= GRANTS + 4 * 60, "{}", attack.what);
        assert!(
            theirs.clone().all(|record| record["seconds"].as_u64().unwrap() <= LONGEST),
            "{}",
            attack.what
        );
        let json: Value = serde_json::from_str(&status(&site, &["--json"])).unwrap();
        let decided =
            json["fwknop"]["accepted"].as_u64().unwrap() + json["fwknop"]["refused"].as_u64().unwrap();
        assert!(
            attack.is_too_long() || decided > u64::from(extent().1) + 50,
            "{}: no attack: {decided}",
            attack.what
        );
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(open_ports(&lab), extent().1, "{}: they stay open", attack.what);
    }
}

#[test]
fn no_attack_with_valid_keys_harms_another_stanza_of_the_replacement_of_fwknopd() {
    let distinct = Attack {
        what: "different packets for many addresses",
        stanza: "OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 60",
        server: "",
        packet: |number| seal(other(number), Content::Access(vec![tcp(22)]), None, 0),
    };
    for attack in ATTACKS.into_iter().chain([distinct]) {
        let Some(lab) = Lab::new() else { return };
        // Its directory is the home of the clients.
        let home = Site::new("", "");
        let mut host = Host::new(&lab.server, "", attack.server);
        host.write("access.conf", &attack.access().replace("DIR", host.path("").to_str().unwrap()));
        host.write("hang", HANG);
        (FIRST..FIRST + extent().1).for_each(|port| lab.server.accept_all(port));
        host.start();
        let processes = || std::iter::once(host.id()).chain(children_of(host.id()).into_iter().take(1));
        let before = memory_of(processes());
        let outcome = beside_a_flood_from(&lab, &home, CLIENT4, &attack.packets(), 0);
        let (state, log) = (folder_size(&host.path("state")), host.log().len());
        attack.report("fwknopd", &outcome, state, log);
        assert_eq!(outcome.opened, extent().1, "{}: {}", attack.what, host.log());
        let lines = host.log().matches("stanza-1").count();
        assert!(attack.is_too_long() || lines > 50, "{}: no attack: {}", attack.what, host.log());
        assert_no_growth(&before, &memory_of(processes()));
        assert!(state < 2 << 20 && log < 1 << 20, "{}: {state}, {log}", attack.what);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(open_ports(&lab), extent().1, "{}: they stay open", attack.what);
    }
}

#[test]
fn the_keys_of_one_stanza_lead_no_connection_of_another_one_elsewhere() {
    let Some(lab) = Lab::new() else { return };
    let access = format!("{}{}", OTHER.stanza(""), USUAL.stanza("FORCE_NAT 10.9.9.1 22"));
    let site = site(&access, "ENABLE_IPT_FORWARDING Y;");
    let daemon = Daemon::start(&lab.server, &site);
    let targets = || lab.server.run("nft list map inet spa_knock forwards4");
    send(&lab, &site, &["-A", "tcp/22", "-s"]);
    assert!(within(SOON, || targets().contains("10.9.9.1 . 22")), "{}", daemon.log());
    let evil = || NatTarget { host: "10.9.9.66".to_owned(), port: 22 };
    for allow in [honest_address(), other(1)] {
        send_bytes(&lab, &seal(allow, Content::Nat(vec![tcp(22)], evil()), Some(300), 0));
    }
    assert!(within(SOON, || !site.audit_of("failed").is_empty() && !site.audit_of("refused").is_empty()));
    let detail = |event: &str| site.audit_of(event)[0]["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail("failed"), "another client or stanza forwards this port for this address");
    assert!(detail("refused").starts_with("only the address that sends the packet is forwarded"));
    assert!(!targets().contains("10.9.9.66") && targets().contains("10.9.9.1 . 22"), "{}", targets());
}

/// The stanzas of a hostile holder, whose closing commands hang, and of an honest client.
const CYCLES: [&str; 2] = [
    "CMD_CYCLE_OPEN /bin/true $IP\nCMD_CYCLE_CLOSE /bin/sh DIR/hang $IP\nCMD_CYCLE_TIMER 1",
    "CMD_CYCLE_OPEN /usr/bin/touch DIR/opened-$IP\nCMD_CYCLE_CLOSE /usr/bin/touch DIR/closed-$IP\nCMD_CYCLE_TIMER 2",
];

#[test]
fn closing_commands_of_one_stanza_that_hang_do_not_delay_those_of_another() {
    let Some(lab) = Lab::new() else { return };
    let access = format!("{}{}", OTHER.stanza(CYCLES[0]), USUAL.stanza(CYCLES[1]));
    let site = site(&access, "");
    write(&site, "hang", HANG);
    let daemon = Daemon::start(&lab.server, &site);
    for number in 0..60 {
        send_bytes(&lab, &seal(other(number), Content::Access(vec![tcp(22)]), None, 0));
    }
    let hanging = || children_of(daemon.id()).len() >= 2 + 4;
    assert!(within(SOON * 2, hanging), "{}", daemon.log());
    send(&lab, &site, &["-A", "tcp/22", "-s"]);
    assert!(within(SOON, || site.path("opened-10.77.0.2").exists()), "{}", daemon.log());
    assert!(within(SOON * 2, || site.path("closed-10.77.0.2").exists()), "{}", daemon.log());
}

#[test]
fn what_commands_of_packets_print_does_not_fill_the_log() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&OTHER.stanza("ENABLE_CMD_EXEC Y\nCMD_EXEC_USER nobody"), "");
    let daemon = Daemon::start(&lab.server, &site);
    for number in 0..40 {
        let command = format!("/usr/bin/head -c {} /dev/zero", 60_000 + number);
        send_bytes(&lab, &seal(other(number), Content::Command(command), None, 0));
    }
    assert!(within(SOON * 2, || daemon.log().matches("printed: ").count() >= 20), "{}", daemon.log().len());
    let log = daemon.log().len();
    println!("{log} bytes of log for {} commands", daemon.log().matches("printed: ").count());
    assert!(log < 64 << 10, "{log} bytes");
}

#[test]
fn a_packet_from_the_far_future_locks_out_no_other_stanza_after_a_power_loss() {
    let Some(lab) = Lab::new() else { return };
    let access = format!("{}{}", OTHER.stanza("OPEN_PORTS tcp/22"), USUAL.stanza("OPEN_PORTS tcp/22"));
    let site = site(&access, "ENABLE_SPA_PACKET_AGING N;");
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let ahead =
        |hours: u64, host: usize| seal(other(host), Content::Access(vec![tcp(22)]), None, hours * 3_600);
    // The first packet only makes the memory ready for this time.
    let accepted = ahead(20, 9);
    let accepts = || {
        send_bytes(&lab, &accepted);
        !site.audit_of("granted").is_empty()
    };
    let has_accepted = within(SOON * 4, || {
        send_bytes(&lab, &ahead(20, 8));
        std::thread::sleep(Duration::from_millis(500));
        accepts()
    });
    assert!(has_accepted, "{}", daemon.log());
    daemon.kill9();
    lose_power(&site);
    let daemon = Daemon::start(&lab.server, &site);
    // Only the packets of the hostile holder are refused: theirs may be replays.
    send_bytes(&lab, &accepted);
    assert!(within(SOON, || !site.audit_of("replayed").is_empty()), "{}", daemon.log());
    // As after any power loss, some minutes must pass: the clocks of clients are moved instead.
    let message = Message {
        user: "alice".to_owned(),
        time: now() + 600,
        allow: honest_address(),
        content: Content::Access(vec![tcp(22)]),
        timeout: None,
    };
    let number = std::cell::Cell::new(1_000_000_000_000_000);
    let is_let_in = || {
        number.set(number.get() + 1);
        send_bytes(&lab, &USUAL.seal(&message.to_text(number.get(), Digest::Sha256)));
        lab.client.reaches(SERVER4, 22)
    };
    assert!(within(SOON * 4, is_let_in), "{}", daemon.log());
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
}

/// Makes the replay state of fwknop's packets look as after a power loss: the lease is of another boot, and the journal
/// has lost what was not yet on the disk.
fn lose_power(site: &Site) {
    let lease = site.path("state/fwknop/replay.lease");
    let text = fs::read_to_string(&lease).unwrap();
    let body: String =
        text.lines()
            .filter(|line| !line.starts_with("sum "))
            .map(|line| {
                if line.starts_with("boot ") { "boot of-yesterday\n".to_owned() } else { format!("{line}\n") }
            })
            .collect();
    let sum: String = checksum(&[body.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(&lease, format!("{body}sum {sum}\n")).unwrap();
    let journal = site.path("state/fwknop/replay.journal");
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..48 * 2]).unwrap();
}

#[test]
fn a_packet_for_an_address_needs_one_where_the_stanza_requires_it() {
    let Some(lab) = Lab::new() else { return };
    let stanza = "REQUIRE_SOURCE_ADDRESS Y\nOPEN_PORTS tcp/22";
    let access = format!("{}{}", OTHER.stanza(stanza).replace("ANY", "10.77.0.0/24"), honest_stanza());
    let site = protected_site(&lab, &access);
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    let access = |allow| seal(allow, Content::Access(vec![tcp(22)]), None, 0);
    send_bytes(&lab, &access(Ipv4Addr::UNSPECIFIED));
    // From an address that is not in SOURCE.
    lab.neighbor.udp(crate::net::NEIGHBOR4).send_to(&access(other(1)), (SERVER4, 62201)).unwrap();
    assert!(within(SOON, || site.audit_of("refused").len() == 2), "{}", daemon.log());
    let reasons: Vec<_> = site.audit_of("refused").iter().map(|record| record["reason"].clone()).collect();
    assert_eq!(reasons, ["no-address-listed", "not-allowed"]);
    // The server's own addresses, and those of everyone, get nothing.
    for host in ["10.77.0.1", "127.0.0.1", "255.255.255.255", "224.0.0.1"] {
        send_bytes(&lab, &access(host.parse().unwrap()));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(site.audit_of("granted").is_empty(), "{:?}", site.audit_of("granted"));
    assert!(!lab.neighbor.reaches(SERVER4, 22) && !lab.client.reaches(SERVER4, 22));
    send(&lab, &site, &["-A", &format!("tcp/{FIRST}"), "-s"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, FIRST)), "{}", daemon.log());
}
