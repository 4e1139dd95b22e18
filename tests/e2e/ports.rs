//! Knocking by ports: packets that carry nothing open a port for one address, once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use spa_knock_core::knock::{KnockRange, TimeStep};

use crate::flood::{CODE, Memory};
use crate::net::{
    CLIENT4, CLIENT6, Daemon, Knockd, Lab, NEIGHBOUR4, NEIGHBOUR6, SERVER4, SERVER6, Site, Touch, Wire, ask,
    await_step, full, open_ssh, step, syn_frames, touch, touch_as_clients_do, within,
};

/// KiB that the watcher of a release may have resident under a flood.
const RESIDENT: u64 = 16 << 10;

fn ports_site(seconds: u32) -> Site {
    Site::new("", &format!("[ports]\n{}", open_ssh(seconds)))
}

/// Nothing is believed that was stamped before the first start, and a step is stamped with its begin: here the clients'
/// clocks are a little ahead.
fn next() -> TimeStep {
    // What begins late in a step is not over when the step is.
    await_step(5);
    step().after()
}

fn granted(site: &Site) -> usize {
    site.audit_of("granted").len()
}

#[test]
fn a_sequence_opens_for_its_address_alone_by_either_protocol_and_both_ip_versions() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for how in [Touch::Syn, Touch::Empty, Touch::Mixed] {
        for (client, server, neighbour) in [(CLIENT4, SERVER4, NEIGHBOUR4), (CLIENT6, SERVER6, NEIGHBOUR6)] {
            let site = ports_site(5);
            let _daemon = Daemon::start(&lab.server, &site);
            let ports = site.key("laptop").ports(next(), Some(client));
            assert!(!lab.client.reaches(server, 22), "closed without a knock");
            touch(&lab.neighbour, neighbour, server, how, &ports);
            touch(&lab.client, client, server, how, &ports[..7]);
            assert_eq!(granted(&site), 0, "another's, and one too few");
            touch(&lab.client, client, server, how, &ports[7..]);
            let open = within(Duration::from_secs(1), || lab.client.reaches(server, 22));
            assert!(open, "{how:?} to {server}");
            assert!(!lab.neighbour.reaches(server, 22), "closed for everyone else");
            let records = site.audit_of("granted");
            assert_eq!(records.len(), 1);
            assert_eq!(records[0]["via"], "ports");
            assert_eq!(records[0]["client"], "laptop");
            assert_eq!(records[0]["address"], client.to_string());
            assert!(!records[0]["source"].as_str().unwrap().ends_with(":0"));
            lab.client.closing(server, 22);
        }
    }
}

#[test]
fn packets_that_come_again_do_nothing_in_the_same_step_after_a_restart_or_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let site = ports_site(2);
    let mut daemon = Daemon::start(&lab.server, &site);
    await_step(25);
    let step = step().after();
    let ports = [Some(CLIENT4), None].map(|address| site.key("laptop").ports(step, address));
    let all = |lab: &Lab| {
        for ports in &ports {
            touch(&lab.client, CLIENT4, SERVER4, Touch::Syn, ports);
        }
        thread::sleep(Duration::from_millis(200));
    };
    all(&lab);
    assert_eq!(granted(&site), 2, "one for the address, one for any");
    all(&lab);
    assert_eq!(granted(&site), 2, "at once");
    daemon.kill9();
    daemon = Daemon::start(&lab.server, &site);
    all(&lab);
    assert_eq!(granted(&site), 2, "after a kill");
    assert!(daemon.terminate().success());
    let daemon = Daemon::start(&lab.server, &site);
    all(&lab);
    // The copies of any address' sequence by somebody else.
    touch(&lab.neighbour, NEIGHBOUR4, SERVER4, Touch::Empty, &ports[1]);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(granted(&site), 2, "after a restart");
    assert!(self::step() <= step, "all within the time that they are good for");
    daemon.reload();
    all(&lab);
    assert_eq!(site.audit().len(), 2, "no other record either");
    // A datagram of the same client has a memory of its own.
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
}

#[test]
fn the_client_knocks_by_ports_and_waits_for_the_next_step_before_it_does_so_again() {
    let Some(lab) = Lab::new() else { return };
    let site = ports_site(2);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    // Of the step in which the first daemon started, nothing is believed.
    await_step(30);
    let run = |server, words: &[&str]| {
        let words = [words, &["--ports", "open-ssh"]].concat();
        let begun = Instant::now();
        let output = lab.client.output(&mut site.knock(server, &words));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (begun.elapsed(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (took, said) = run(SERVER4, &[]);
    assert!(said.ends_with("open-ssh sent; this mode has no answer\n"), "{said}");
    assert!((Duration::from_millis(46)..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert_eq!(granted(&site), 1);
    run(SERVER6, &["--ports-proto", "udp", "--ports-gap", "0", "--wait", "22"]);
    run(SERVER4, &["--ports-proto", "udp", "--source", "observed", "--quiet"]);
    assert_eq!(granted(&site), 3);
    let status = lab.server.output(&mut site.admin(&["status"]));
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let line = "\n  ports      20480-28671; 72 port hits, ";
    let looked_at = status.split_once(line).and_then(|(_, rest)| rest.split_once(" sequences looked at\n"));
    let looked_at: u32 = looked_at.expect(&status).0.parse().unwrap();
    // Each of the three at least once; of the last one each port joins others, and is looked at unless more came with it.
    assert!((3..=8).contains(&looked_at), "{status}");
    let sources: Vec<_> = site.audit().iter().map(|record| record["address"].clone()).collect();
    assert_eq!(sources, [CLIENT4, CLIENT6, CLIENT4].map(|address| address.to_string()));

    let before = step();
    let (_, said) = run(SERVER4, &["--wait", "22"]);
    assert!(said.contains("each half minute is good for one knock like this; waiting"), "{said}");
    assert!(step() > before);
    assert_eq!(granted(&site), 4);
}

/// The n-th of many clients, and an address of its own.
fn one_of_many(n: u16) -> (String, IpAddr) {
    (format!("client-{n}"), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, n).into())
}

/// A daemon's config with so many clients, whose addresses are the lab's client's.
fn crowd(lab: &Lab, clients: u16) -> Site {
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
fn a_client_that_waits_for_a_port_knocks_again_in_the_step_after_that_of_the_first_start() {
    let Some(lab) = Lab::new() else { return };
    let site = ports_site(5);
    lab.server.echo(22);
    // The daemon starts when its step is nearly over, so that the next one is soon there; the client needs some seconds.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 30;
    thread::sleep(Duration::from_secs((20 + 30 - now) % 30));
    let _daemon = Daemon::start(&lab.server, &site);
    // Without --timeout: what a person types.
    let output = lab.client.output(&mut site.knock(SERVER4, &["--ports", "--wait", "22", "open-ssh"]));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("tcp port 22 does not accept yet; waiting for the next time step, to knock again in "),
        "{text}"
    );
    assert!(text.contains(": knocking again\n"), "{text}");
    assert_eq!(granted(&site), 1);
}

#[test]
fn sequences_that_come_while_the_keeper_is_busy_wait_for_it() {
    let Some(lab) = Lab::new() else { return };
    let clients = 400;
    let site = crowd(&lab, clients);
    let daemon = Daemon::start(&lab.server, &site);
    let step = next();
    kill(daemon.id(), Signal::SIGSTOP).unwrap();
    for (name, address) in (0..clients).map(one_of_many) {
        let ports = site.key(&name).ports(step, Some(address));
        touch(&lab.client, address, SERVER6, Touch::Empty, &ports);
    }
    // More than the channel has room for.
    thread::sleep(Duration::from_millis(500));
    kill(daemon.id(), Signal::SIGCONT).unwrap();
    let all = within(Duration::from_secs(5), || granted(&site) == usize::from(clients));
    assert!(all, "{} of {clients}", granted(&site));
}

#[test]
fn knocks_get_through_where_one_packet_in_twenty_is_lost() {
    let Some(lab) = Lab::new() else { return };
    // Of so many, one in a thousand loses all three copies of one of its ports.
    let clients: u16 = 500;
    let plain: u16 = if full() { clients } else { 60 };
    let site = crowd(&lab, clients);
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
                    touch_as_clients_do(&lab.client, address, SERVER6, Touch::Mixed, &ports);
                }
            });
        }
    });
    // The last one is on record a moment after its packets.
    within(Duration::from_secs(2), || granted(&site) == usize::from(clients));
    let opened = granted(&site);
    let knockd = through_knockd((0..plain).map(|n| one_of_many(n).1), &lab);
    println!(
        "{opened} of {clients} knocks got through a loss of 5 %; of {plain} plain ones, {knockd} through knockd"
    );
    assert!(knockd > 0, "nothing to compare with");
    assert!(opened * 100 >= usize::from(clients) * 99, "{opened} of {clients}");
}

/// How many knocks of three ports by `knock` open a door of Debian's knockd, each from another of the client's addresses.
fn through_knockd(addresses: impl Iterator<Item = IpAddr>, lab: &Lab) -> usize {
    let door = "[a]\nsequence = 7000,8000,9000\ntcpflags = syn\nseq_timeout = 5\n";
    let knockd = Knockd::theirs(&lab.server, door, "");
    for address in addresses {
        lab.client.ip(&format!("route replace {SERVER6}/128 dev eth0 src {address}"));
        lab.client.run(&format!("knock -d 2 {SERVER6} 7000 8000 9000"));
    }
    // Until it has logged the last one.
    thread::sleep(Duration::from_millis(300));
    knockd.count("OPEN SESAME")
}

#[test]
fn a_flood_into_the_band_takes_little_memory_and_keeps_nobody_out() {
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
        lab.neighbour.ip(&format!("addr add {}/24 dev eth0", address(n)));
    }
    let daemon = Daemon::start(&lab.server, &site);
    let watcher = daemon.watcher().unwrap();
    let before = Memory::of(watcher).now;
    let (rate, seconds) = if full() { (100_000_usize, 30_usize) } else { (40_000, 3) };
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let IpAddr::V4(server) = SERVER4 else { unreachable!("it is IPv4") };
    let frames = syn_frames(&wire, server, KnockRange::USUAL, 200_000);
    await_step(u64::try_from(seconds).unwrap().min(20));
    let step = step().after();
    let sent = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let begun = Instant::now();
            let mut sent = 0;
            while sent < rate * seconds && begun.elapsed() < Duration::from_secs(40) {
                let due = usize::try_from(begun.elapsed().as_micros()).unwrap() * rate / 1_000_000;
                while sent < due.min(rate * seconds) {
                    wire.send(&frames[sent % frames.len()]);
                    sent += 1;
                }
                thread::sleep(Duration::from_micros(500));
            }
            (sent, begun.elapsed())
        });
        for n in 0..clients {
            let ports = site.key(&format!("c{n}")).ports(step, Some(address(n)));
            touch_as_clients_do(&lab.neighbour, address(n), SERVER4, Touch::Mixed, &ports);
        }
        flood.join().unwrap()
    });
    let Memory { now, most, code } = Memory::of(watcher);
    println!(
        "{} packets in {:?}; watcher: {before} KiB resident before, {now} after ({code} of it are its code), {most} at most; {} of {clients} through",
        sent.0,
        sent.1,
        granted(&site)
    );
    assert_eq!(granted(&site), usize::from(clients));
    assert!(most - code <= RESIDENT - CODE, "{most} KiB");
}

#[test]
fn a_sweep_of_the_band_opens_nothing_and_its_sender_can_knock_later() {
    let Some(lab) = Lab::new() else { return };
    let site = ports_site(5);
    let _daemon = Daemon::start(&lab.server, &site);
    let every: Vec<u16> = (KnockRange::USUAL.low()..=KnockRange::USUAL.high()).collect();
    touch(&lab.client, CLIENT4, SERVER4, Touch::Empty, &every);
    assert_eq!(granted(&site), 0);
    let ports = site.key("laptop").ports(next(), Some(CLIENT4));
    touch(&lab.neighbour, NEIGHBOUR4, SERVER4, Touch::Empty, &ports);
    assert_eq!(granted(&site), 0);
    thread::sleep(Duration::from_secs(10));
    let ports = site.key("laptop").ports(next(), Some(CLIENT4));
    touch(&lab.client, CLIENT4, SERVER4, Touch::Empty, &ports);
    assert!(within(Duration::from_secs(1), || granted(&site) == 1));
}

#[test]
fn without_a_section_for_ports_a_sequence_is_nothing() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let daemon = Daemon::start(&lab.server, &site);
    let ports = site.key("laptop").ports(next(), Some(CLIENT4));
    touch(&lab.client, CLIENT4, SERVER4, Touch::Mixed, &ports);
    assert_eq!(granted(&site), 0);
    site.write_config("", &format!("[ports]\n{}", open_ssh(5)));
    daemon.reload();
    touch(&lab.client, CLIENT4, SERVER4, Touch::Mixed, &ports);
    assert!(within(Duration::from_secs(2), || granted(&site) == 1), "after a reload");
}
