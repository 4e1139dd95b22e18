//! Port-sequence mode: packets without payload open a port for one address, once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use spa_knock_core::knock::{KnockRange, TimeStep};

use crate::flood::{CODE, Memory};
use crate::net::{
    CLIENT4, CLIENT6, Daemon, HitKind, Knockd, Lab, NEIGHBOR4, NEIGHBOR6, SERVER4, SERVER6, Site, Wire, ask,
    await_time_step, full, hit_ports, hit_ports_as_clients_do, open_ssh, step, syn_frames, within,
};

/// Maximum resident memory of a release build's watcher during a flood, in KiB.
const RESIDENT: u64 = 16 << 10;

fn ports_site(seconds: u32) -> Site {
    Site::new("", &format!("[ports]\n{}", open_ssh(seconds)))
}

/// The next time step, as if the client's clock were slightly ahead. Knocks from before the first start are refused,
/// and a port sequence has the timestamp of the beginning of its time step.
fn next() -> TimeStep {
    // So that the test does not end in a later time step.
    await_time_step(5);
    step().after()
}

fn granted(site: &Site) -> usize {
    site.audit_of("granted").len()
}

#[test]
fn a_port_sequence_opens_a_port_only_for_its_address_over_tcp_and_udp_and_both_ip_versions() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for kind in [HitKind::Syn, HitKind::Empty, HitKind::Mixed] {
        for (client, server, neighbor) in [(CLIENT4, SERVER4, NEIGHBOR4), (CLIENT6, SERVER6, NEIGHBOR6)] {
            let site = ports_site(5);
            let _daemon = Daemon::start(&lab.server, &site);
            let ports = site.key("laptop").ports(next(), Some(client));
            assert!(!lab.client.reaches(server, 22), "closed without a knock");
            hit_ports(&lab.neighbor, neighbor, server, kind, &ports);
            hit_ports(&lab.client, client, server, kind, &ports[..7]);
            assert_eq!(granted(&site), 0, "a sequence from another address, and one with a missing port");
            hit_ports(&lab.client, client, server, kind, &ports[7..]);
            let open = within(Duration::from_secs(1), || lab.client.reaches(server, 22));
            assert!(open, "{kind:?} to {server}");
            assert!(!lab.neighbor.reaches(server, 22), "closed for everyone else");
            let records = site.audit_of("granted");
            assert_eq!(records.len(), 1);
            assert_eq!(records[0]["via"], "ports");
            assert_eq!(records[0]["client"], "laptop");
            assert_eq!(records[0]["address"], client.to_string());
            assert!(!records[0]["source"].as_str().unwrap().ends_with(":0"));
            lab.client.wait_until_closed(server, 22);
        }
    }
}

#[test]
fn a_repeated_port_sequence_does_nothing_in_the_same_time_step_after_a_restart_or_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let site = ports_site(2);
    let mut daemon = Daemon::start(&lab.server, &site);
    await_time_step(25);
    let step = step().after();
    let ports = [Some(CLIENT4), None].map(|address| site.key("laptop").ports(step, address));
    let send_all = |lab: &Lab| {
        for ports in &ports {
            hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Syn, ports);
        }
        thread::sleep(Duration::from_millis(200));
    };
    send_all(&lab);
    assert_eq!(granted(&site), 2, "one for this address, one for any address");
    send_all(&lab);
    assert_eq!(granted(&site), 2, "repeated immediately");
    daemon.kill9();
    daemon = Daemon::start(&lab.server, &site);
    send_all(&lab);
    assert_eq!(granted(&site), 2, "after a kill");
    assert!(daemon.terminate().success());
    let daemon = Daemon::start(&lab.server, &site);
    send_all(&lab);
    // Another host repeats the sequence for any address.
    hit_ports(&lab.neighbor, NEIGHBOR4, SERVER4, HitKind::Empty, &ports[1]);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(granted(&site), 2, "after a restart");
    assert!(self::step() <= step, "all packets were sent within the time step");
    daemon.reload();
    send_all(&lab);
    assert_eq!(site.audit().len(), 2, "no other audit records");
    // Datagrams of the same client have a separate replay memory.
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
}

#[test]
fn the_client_sends_a_port_sequence_and_waits_for_the_next_time_step_before_another_one() {
    let Some(lab) = Lab::new() else { return };
    let site = ports_site(2);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    // Port sequences of the time step in which the first daemon started are refused.
    await_time_step(30);
    let run = |server, args: &[&str]| {
        let args = [args, &["--ports", "open-ssh"]].concat();
        let start = Instant::now();
        let output = lab.client.output(&mut site.knock(server, &args));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (start.elapsed(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (took, text) = run(SERVER4, &[]);
    assert!(text.ends_with("open-ssh sent; a port sequence gets no reply\n"), "{text}");
    assert!((Duration::from_millis(46)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert_eq!(granted(&site), 1);
    run(SERVER6, &["--ports-proto", "udp", "--ports-gap", "0", "--wait", "22"]);
    run(SERVER4, &["--ports-proto", "udp", "--source", "observed", "--quiet"]);
    assert_eq!(granted(&site), 3);
    let status = lab.server.output(&mut site.admin(&["status"]));
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let line = "\n  ports      20480-28671; 72 port hits, ";
    let looked_at = status.split_once(line).and_then(|(_, rest)| rest.split_once(" sequences checked\n"));
    let looked_at: u32 = looked_at.expect(&status).0.parse().unwrap();
    // Each of the three knocks is checked at least once. The ports of the last one join those of earlier ones, so it
    // may be checked at each port.
    assert!((3..=8).contains(&looked_at), "{status}");
    let sources: Vec<_> = site.audit().iter().map(|record| record["address"].clone()).collect();
    assert_eq!(sources, [CLIENT4, CLIENT6, CLIENT4].map(|address| address.to_string()));

    let before = step();
    let (_, text) = run(SERVER4, &["--wait", "22"]);
    assert!(text.contains("only one such knock is valid per 30-second time step; waiting"), "{text}");
    assert!(step() > before);
    assert_eq!(granted(&site), 4);
}

/// The name and address of the n-th of many clients.
fn one_of_many(n: u16) -> (String, IpAddr) {
    (format!("client-{n}"), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, n).into())
}

/// A site with this number of clients, whose addresses are all on the lab's client.
fn site_with_clients(lab: &Lab, clients: u16) -> Site {
    let mut config = format!("[ports]\n{}", open_ssh(60));
    for (name, _) in (0..clients).map(one_of_many) {
        config.push_str(&format!("[client.{name}]\nkey = \"{name}.key\"\nallow = [\"open-ssh\"]\n"));
    }
    let site = Site::new("", &config);
    for (name, address) in (0..clients).map(one_of_many) {
        site.add_key(&name);
        lab.client.ip(&format!("addr add {address}/64 dev eth0 nodad"));
    }
    site
}

#[test]
fn a_client_that_waits_for_a_port_knocks_again_in_the_time_step_after_the_first_start() {
    let Some(lab) = Lab::new() else { return };
    let site = ports_site(5);
    lab.server.echo(22);
    // The daemon starts near the end of a time step, so that the next one begins soon; the client needs a few seconds.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 30;
    thread::sleep(Duration::from_secs((20 + 30 - now) % 30));
    let _daemon = Daemon::start(&lab.server, &site);
    // Without `--timeout`, as a user would type it.
    let output = lab.client.output(&mut site.knock(SERVER4, &["--ports", "--wait", "22", "open-ssh"]));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("tcp port 22 does not accept connections yet; knocking again in "), "{text}");
    assert!(text.contains(": knocking again\n"), "{text}");
    assert_eq!(granted(&site), 1);
}

#[test]
fn port_sequences_that_arrive_while_the_keeper_is_busy_are_handled_later() {
    let Some(lab) = Lab::new() else { return };
    let clients = 400;
    let site = site_with_clients(&lab, clients);
    let daemon = Daemon::start(&lab.server, &site);
    let step = next();
    kill(daemon.id(), Signal::SIGSTOP).unwrap();
    for (name, address) in (0..clients).map(one_of_many) {
        let ports = site.key(&name).ports(step, Some(address));
        hit_ports(&lab.client, address, SERVER6, HitKind::Empty, &ports);
    }
    // More than fits into the channel.
    thread::sleep(Duration::from_millis(500));
    kill(daemon.id(), Signal::SIGCONT).unwrap();
    let all_granted = within(Duration::from_secs(5), || granted(&site) == usize::from(clients));
    assert!(all_granted, "{} of {clients}", granted(&site));
}

#[test]
fn port_sequences_succeed_with_a_packet_loss_of_5_percent() {
    let Some(lab) = Lab::new() else { return };
    // With this loss, one knock in a thousand loses all three copies of one of its ports.
    let clients: u16 = 500;
    let knockd_knocks: u16 = if full() { clients } else { 60 };
    let site = site_with_clients(&lab, clients);
    lab.client.nft("add table inet lossy");
    lab.client.nft("add chain inet lossy out { type filter hook output priority 0 ; }");
    lab.client.nft("add rule inet lossy out meta l4proto { tcp, udp } numgen random mod 100 < 5 drop");
    let _daemon = Daemon::start(&lab.server, &site);
    let step = next();
    let numbers: Vec<u16> = (0..clients).collect();
    thread::scope(|scope| {
        for share in numbers.chunks(usize::from(clients).div_ceil(20)) {
            scope.spawn(|| {
                for (name, address) in share.iter().copied().map(one_of_many) {
                    let ports = site.key(&name).ports(step, Some(address));
                    hit_ports_as_clients_do(&lab.client, address, SERVER6, HitKind::Mixed, &ports);
                }
            });
        }
    });
    // The last knock is recorded shortly after its packets.
    within(Duration::from_secs(2), || granted(&site) == usize::from(clients));
    let opened = granted(&site);
    let knockd = opened_by_knockd((0..knockd_knocks).map(|n| one_of_many(n).1), &lab);
    println!(
        "with 5 % loss, {opened} of {clients} port sequences succeeded; of {knockd_knocks} knock sequences, {knockd} with knockd"
    );
    assert!(knockd > 0, "knockd opened at least once");
    assert!(opened * 100 >= usize::from(clients) * 99, "{opened} of {clients}");
}

/// Number of knock sequences of three ports by `knock` that open a door of Debian's knockd, each from another address.
fn opened_by_knockd(addresses: impl Iterator<Item = IpAddr>, lab: &Lab) -> usize {
    let door = "[a]\nsequence = 7000,8000,9000\ntcpflags = syn\nseq_timeout = 5\n";
    let knockd = Knockd::theirs(&lab.server, door, "");
    for address in addresses {
        lab.client.ip(&format!("route replace {SERVER6}/128 dev eth0 src {address}"));
        lab.client.run(&format!("knock -d 2 {SERVER6} 7000 8000 9000"));
    }
    // Wait until knockd has logged the last one.
    thread::sleep(Duration::from_millis(300));
    knockd.count("OPEN SESAME")
}

#[test]
fn a_flood_of_port_hits_takes_little_memory_and_does_not_lock_out_clients() {
    let Some(lab) = Lab::new() else { return };
    let clients: u8 = if full() { 50 } else { 10 };
    let mut config = format!("[ports]\n{}", open_ssh(60));
    for n in 0..clients {
        config.push_str(&format!("[client.c{n}]\nkey = \"c{n}.key\"\nallow = [\"open-ssh\"]\n"));
    }
    let site = Site::new("", &config);
    let address = |n: u8| IpAddr::V4(Ipv4Addr::new(10, 77, 1, 100 + n));
    for n in 0..clients {
        site.add_key(&format!("c{n}"));
        lab.neighbor.ip(&format!("addr add {}/24 dev eth0", address(n)));
    }
    let daemon = Daemon::start(&lab.server, &site);
    let watcher = daemon.watcher().unwrap();
    let before = Memory::of(watcher).now;
    let (rate, seconds) = if full() { (100_000_usize, 30_usize) } else { (40_000, 3) };
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let IpAddr::V4(server) = SERVER4 else { unreachable!("it is IPv4") };
    let frames = syn_frames(&wire, server, KnockRange::USUAL, 200_000);
    await_time_step(u64::try_from(seconds).unwrap().min(20));
    let step = step().after();
    let sent = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let start = Instant::now();
            let mut sent = 0;
            while sent < rate * seconds && start.elapsed() < Duration::from_secs(40) {
                let due = usize::try_from(start.elapsed().as_micros()).unwrap() * rate / 1_000_000;
                while sent < due.min(rate * seconds) {
                    wire.send(&frames[sent % frames.len()]);
                    sent += 1;
                }
                thread::sleep(Duration::from_micros(500));
            }
            (sent, start.elapsed())
        });
        for n in 0..clients {
            let ports = site.key(&format!("c{n}")).ports(step, Some(address(n)));
            hit_ports_as_clients_do(&lab.neighbor, address(n), SERVER4, HitKind::Mixed, &ports);
        }
        flood.join().unwrap()
    });
    let Memory { now, peak, code } = Memory::of(watcher);
    println!(
        "{} packets in {:?}; watcher: {before} KiB resident before, {now} after (code: {code} KiB), peak {peak}; {} of {clients} clients succeeded",
        sent.0,
        sent.1,
        granted(&site)
    );
    assert_eq!(granted(&site), usize::from(clients));
    assert!(peak - code <= RESIDENT - CODE, "{peak} KiB");
}

#[test]
fn a_scan_of_the_knock_range_opens_nothing_and_its_sender_can_knock_later() {
    let Some(lab) = Lab::new() else { return };
    let site = ports_site(5);
    let _daemon = Daemon::start(&lab.server, &site);
    let all_ports: Vec<u16> = (KnockRange::USUAL.low()..=KnockRange::USUAL.high()).collect();
    hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Empty, &all_ports);
    assert_eq!(granted(&site), 0);
    let ports = site.key("laptop").ports(next(), Some(CLIENT4));
    hit_ports(&lab.neighbor, NEIGHBOR4, SERVER4, HitKind::Empty, &ports);
    assert_eq!(granted(&site), 0);
    thread::sleep(Duration::from_secs(10));
    let ports = site.key("laptop").ports(next(), Some(CLIENT4));
    hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Empty, &ports);
    assert!(within(Duration::from_secs(1), || granted(&site) == 1));
}

#[test]
fn a_port_sequence_has_no_effect_without_a_ports_section() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let daemon = Daemon::start(&lab.server, &site);
    let ports = site.key("laptop").ports(next(), Some(CLIENT4));
    hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Mixed, &ports);
    assert_eq!(granted(&site), 0);
    site.write_config("", &format!("[ports]\n{}", open_ssh(5)));
    daemon.reload();
    hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Mixed, &ports);
    assert!(within(Duration::from_secs(2), || granted(&site) == 1), "after a reload");
}
