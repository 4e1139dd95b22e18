//! Floods beside honest clients of fwknop and honest sealed knocks: of garbage, of new packets made with another
//! stanza's valid keys, and of one recorded packet.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::unistd::Pid;

use crate::flood::Memory;
use crate::fwknop::{fwknop, site, text_of, write};
use crate::fwknop_packets::{OTHER, PacketKeys, USUAL, garbage};
use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, NEIGHBOR4, SERVER4, SOON, Site, ask, ask_patiently, flood, full,
    open_ssh, within,
};

/// The first of the ports that honest clients open, each another one.
pub(super) const FIRST: u16 = 1_001;
/// The longest flood.
const FLOOD_MAX: Duration = Duration::from_secs(150);
/// Maximum growth of a process during a flood, in KiB: the watcher remembers 65,536 packets.
pub(super) const GROWTH: u64 = 5 << 10;

/// Packets per second, honest clients of fwknop, honest sealed knocks.
pub(super) fn extent() -> (usize, u16, usize) {
    if full() { (20_000, 20, 50) } else { (4_000, 5, 10) }
}

/// What honest clients achieved, and the number of packets that were sent per second beside them.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) opened: u16,
    pub(super) replies: usize,
    rate: usize,
}

/// Sends these payloads from the client's address, in a cycle, while honest clients of fwknop at the same interface
/// open one port each, and sealed knocks come from the other interface.
fn beside_a_flood(lab: &Lab, site: &Site, payloads: &[Vec<u8>]) -> Outcome {
    beside_a_flood_from(lab, site, CLIENT4, payloads, extent().2)
}

/// The same from another address, with this number of sealed knocks.
pub(super) fn beside_a_flood_from(
    lab: &Lab,
    site: &Site,
    source: IpAddr,
    payloads: &[Vec<u8>],
    knocks: usize,
) -> Outcome {
    let (rate, clients, _) = extent();
    let attacker = if source == CLIENT4 { &lab.client } else { &lab.neighbor }.udp(source);
    attacker.connect((SERVER4, KNOCK_PORT)).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let (start, mut sent) = (Instant::now(), 0);
            for part in payloads.chunks(rate / 10).cycle() {
                if stop.load(Ordering::SeqCst) || start.elapsed() > FLOOD_MAX {
                    break;
                }
                flood(&attacker, part, rate, part.len());
                sent += part.len();
            }
            (sent, start.elapsed())
        });
        let knocking = scope.spawn(|| {
            let knock = |_: &usize| {
                thread::sleep(Duration::from_millis(100));
                let (socket, knock) = (lab.neighbor.udp(NEIGHBOR4), site.key("laptop").good());
                let ask = if full() { ask } else { ask_patiently };
                ask(&socket, SERVER4, &knock).is_some()
            };
            (0..knocks).filter(knock).count()
        });
        thread::sleep(Duration::from_millis(500));
        let opened = honest_clients(lab, site, clients);
        let replies = knocking.join().unwrap();
        stop.store(true, Ordering::SeqCst);
        let (sent, time) = flooding.join().unwrap();
        assert!(time < FLOOD_MAX, "the honest clients took too long");
        Outcome { opened, replies, rate: sent * 1_000 / usize::try_from(time.as_millis()).unwrap() }
    })
}

/// How many honest clients open their port; each sends one packet. When all other tests run at the same time, a busy
/// machine may lose it, and the client sends another one.
fn honest_clients(lab: &Lab, site: &Site, clients: u16) -> u16 {
    let packets = if full() { 1 } else { 4 };
    let opens = |number: &u16| {
        let port = FIRST + number;
        (0..packets).any(|_| {
            let output = lab.client.output(&mut fwknop(site, &["-A", &format!("tcp/{port}"), "-s"]));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            within(Duration::from_secs(5), || lab.client.reaches(SERVER4, port))
        })
    };
    (0..clients).filter(opens).count().try_into().unwrap()
}

/// A site with these stanzas, and servers on the ports of honest clients, which are protected.
pub(super) fn protected_site(lab: &Lab, access: &str) -> Site {
    let site = site(access, "");
    let last = FIRST + extent().1 - 1;
    let config =
        open_ssh(2).replace("[\"tcp/22\"]\n\n", &format!("[\"tcp/22\", \"tcp/{FIRST}-{last}\"]\n\n"));
    let legacy = format!("[legacy]\nfwknop = \"{}\"\n", site.path("access.conf").display());
    site.write_config("", &format!("{config}\n{legacy}"));
    (FIRST..=last).for_each(|port| lab.server.accept_all(port));
    site
}

/// The stanza of honest clients.
pub(super) fn honest_stanza() -> String {
    let ports: Vec<String> = (FIRST..FIRST + extent().1).map(|port| format!("tcp/{port}")).collect();
    USUAL.stanza(&format!("OPEN_PORTS {}\nFW_ACCESS_TIMEOUT 60", ports.join(",")))
}

fn print(outcome: &Outcome, what: &str) {
    let (_, clients, knocks) = extent();
    println!(
        "{what} at {}/s: {} of {clients} clients of fwknop opened their port, {} of {knocks} sealed knocks got a reply",
        outcome.rate, outcome.opened, outcome.replies
    );
}

fn assert_unharmed(what: &str, outcome: &Outcome, daemon: &Daemon) {
    let (rate, clients, knocks) = extent();
    print(outcome, what);
    assert_eq!((outcome.opened, outcome.replies), (clients, knocks), "{what}: {}", daemon.log());
    assert!(outcome.rate > rate / 3, "the flood was too slow: {}/s", outcome.rate);
}

#[test]
fn a_flood_of_garbage_that_looks_like_packets_harms_no_honest_client() {
    let Some(lab) = Lab::new() else { return };
    let site = protected_site(&lab, &honest_stanza());
    let daemon = Daemon::start(&lab.server, &site);
    let before = memory(&daemon);
    let outcome = beside_a_flood(&lab, &site, &garbage(20_000));
    assert_unharmed("garbage", &outcome, &daemon);
    assert_memory_is_bounded(&daemon, &before);
    assert!(site.audit_of("refused").is_empty() && site.audit_of("replayed").is_empty());
    drop(daemon);
    if full() {
        compare_with_fwknopd(&lab, &site);
    }
}

#[test]
fn a_flood_of_garbage_harms_no_client_of_a_site_with_many_keys() {
    let Some(lab) = Lab::new() else { return };
    let others: String = (0..300)
        .map(|number| {
            format!("SOURCE ANY\nKEY key-{number}\nHMAC_KEY hmac-key-{number}\nOPEN_PORTS tcp/22\n")
        })
        .collect();
    // The key that is tried last.
    let site = protected_site(&lab, &format!("{others}{}", honest_stanza()));
    let daemon = Daemon::start(&lab.server, &site);
    // All have the length of a packet, and come from one address, not that of the honest clients.
    let garbage: Vec<_> = garbage(20_000).into_iter().step_by(2).collect();
    let outcome = beside_a_flood_from(&lab, &site, NEIGHBOR4, &garbage, extent().2);
    print(&outcome, "garbage for 301 keys");
    // Most of the flood is dropped without a hash. A busy machine may leave the watcher too little time for the rest.
    let (_, clients, knocks) = extent();
    assert!(outcome.opened * 4 >= clients * 3, "{outcome:?}: {}", daemon.log());
    assert_eq!(outcome.replies, knocks);
}

#[test]
fn a_client_that_floods_with_valid_packets_harms_no_other_stanza_and_its_grants_are_bounded() {
    let Some(lab) = Lab::new() else { return };
    let flooding = OTHER.stanza("OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 60");
    let site = protected_site(&lab, &format!("{flooding}{}", honest_stanza()));
    let daemon = Daemon::start(&lab.server, &site);
    let before = memory(&daemon);
    let outcome = beside_a_flood(&lab, &site, &valid_packets(&OTHER, extent().0 * 5));
    assert_unharmed("valid packets of another stanza", &outcome, &daemon);
    assert_memory_is_bounded(&daemon, &before);
    let granted = site.audit_of("granted");
    let of_flood = granted.iter().filter(|record| record["action"] == "stanza-1").count();
    assert!((1..=128).contains(&of_flood), "{of_flood} grants");
    assert!(
        within(SOON, || daemon.log().contains("were dropped because their keys had sent too many")),
        "{}",
        daemon.log()
    );
    let journal = folder_size(&site.path("state/fwknop"));
    let audit = fs::metadata(site.path("audit.jsonl")).unwrap().len();
    println!("{of_flood} grants of the flooding stanza; state {journal} bytes, audit log {audit} bytes");
    assert!(journal < 2 << 20, "{journal} bytes");
    assert!(audit < 1 << 20, "{audit} bytes");
}

#[test]
fn a_flood_of_one_recorded_packet_uses_up_no_limit() {
    let Some(lab) = Lab::new() else { return };
    let site = protected_site(&lab, &honest_stanza());
    let daemon = Daemon::start(&lab.server, &site);
    let recorded = text_of(&lab, &site, &["-A", &format!("tcp/{FIRST}"), "-a", "10.77.0.9"]).into_bytes();
    lab.client.udp(CLIENT4).send_to(&recorded, (SERVER4, KNOCK_PORT)).unwrap();
    assert!(within(SOON, || site.audit_of("granted").len() == 1), "{}", daemon.log());
    let before = memory(&daemon);
    let outcome = beside_a_flood(&lab, &site, &vec![recorded; 20_000]);
    assert_unharmed("one recorded packet", &outcome, &daemon);
    assert_memory_is_bounded(&daemon, &before);
    let replayed = site.audit_of("replayed");
    assert!(!replayed.is_empty(), "the replay is recorded");
    assert!(replayed.len() < 20, "{} records", replayed.len());
    assert_eq!(site.audit_of("granted").iter().filter(|record| record["address"] == "10.77.0.9").count(), 1);
}

/// Packets for as many addresses, made now.
fn valid_packets(keys: &PacketKeys, count: usize) -> Vec<Vec<u8>> {
    let address = |number: usize| Ipv4Addr::from(0xac10_0000 + u32::try_from(number).unwrap());
    (0..count).map(|number| keys.access(address(number), 22)).collect()
}

/// The resident memory of the keeper and of its watchers.
fn memory(daemon: &Daemon) -> Vec<(String, Memory)> {
    memory_of(std::iter::once(daemon.id()).chain(daemon.children()))
}

/// The resident memory of these processes.
pub(super) fn memory_of(processes: impl Iterator<Item = Pid>) -> Vec<(String, Memory)> {
    let named = |process| {
        let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap().trim_end().to_owned();
        (name, Memory::of(process))
    };
    processes.map(named).collect()
}

fn assert_memory_is_bounded(daemon: &Daemon, before: &[(String, Memory)]) {
    assert_no_growth(before, &memory(daemon));
}

pub(super) fn assert_no_growth(before: &[(String, Memory)], after: &[(String, Memory)]) {
    assert_eq!(before.len(), after.len(), "no process has died");
    for ((name, before), (_, after)) in before.iter().zip(after) {
        println!("{name}: {} KiB resident, then {} KiB", before.now, after.now);
        assert!(after.now - after.code <= before.now - before.code + GROWTH, "{name}");
    }
}

pub(super) fn folder_size(folder: &Path) -> u64 {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Prints what fwknop's own server achieves in the same flood.
fn compare_with_fwknopd(lab: &Lab, site: &Site) {
    let (rate, clients, _) = extent();
    lab.server.nft("flush ruleset");
    lab.server.run(&format!("iptables -A INPUT -p tcp --dport {FIRST}:{} -j DROP", FIRST + clients - 1));
    // As hosts with fwknopd do; otherwise the kernel reports that no one listens.
    lab.server.run("iptables -A INPUT -p udp --dport 62201 -j DROP");
    write(site, "theirs.conf", "PCAP_INTF lan0;\nFWKNOP_RUN_DIR DIR/run;\n");
    let mut command = Command::new("fwknopd");
    command.arg("-c").arg(site.path("theirs.conf")).arg("-a").arg(site.path("access.conf")).arg("-f");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut theirs = Fwknopd(lab.server.spawn(&mut command));
    thread::sleep(Duration::from_secs(2));
    assert!(theirs.0.try_wait().unwrap().is_none(), "fwknopd runs");
    let attacker = lab.client.udp(CLIENT4);
    attacker.connect((SERVER4, KNOCK_PORT)).unwrap();
    let (payloads, stop) = (garbage(20_000), AtomicBool::new(false));
    let opened = thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while !stop.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(150) {
                flood(&attacker, &payloads, rate, rate / 10);
            }
        });
        thread::sleep(Duration::from_millis(500));
        let opened = honest_clients(lab, site, clients);
        stop.store(true, Ordering::SeqCst);
        opened
    });
    println!("fwknopd in the same flood: {opened} of {clients} clients opened their port");
}

/// A running fwknopd, which is killed and waited for in the end.
struct Fwknopd(Child);

impl Drop for Fwknopd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
