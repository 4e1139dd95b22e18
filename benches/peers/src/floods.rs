//! Floods of forged packets at several rates, with honest knocks in them, and the CPU time of the daemons.

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::frames::{Dice, Packet};
use crate::lab::{Lab, connects};
use crate::peer::{Peer, Setup};
use crate::record::Recorder;
use crate::results::{Bare, FloodResult};
use crate::sender::{Flood, UNLIMITED};
use crate::server::Server;

/// Different frames of a flood.
const FRAMES: usize = 4_096;
/// How long an honest knock may take. The client of spa-knock ends after this time, too.
const KNOCK_MAX: Duration = Duration::from_secs(3);
const BETWEEN_KNOCKS: Duration = Duration::from_millis(300);

/// How much of a flood is measured.
#[derive(Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) knocks: u32,
    /// Time in which the CPU time is measured, before the first honest knock.
    pub(crate) cpu: Duration,
}

/// Packets that a client sends, which never reach the server, and its address.
pub(crate) fn record(server: &Server<'_>) -> (Ipv4Addr, Vec<Packet>) {
    let lab = server.lab;
    let from = lab.fresh_address();
    let mut recorder = Recorder::new(lab, "void", server.peer.filter());
    let mut command = server.knock(from);
    let mut packets = Vec::new();
    lab.with_a_dead_end(from, || {
        let mut client = lab.client.spawn(&mut command);
        let start = Instant::now();
        while packets.is_empty() && start.elapsed() < KNOCK_MAX {
            thread::sleep(Duration::from_millis(20));
            packets = recorder.packets();
        }
        // knockd's client sends three packets without a pause.
        thread::sleep(Duration::from_millis(100));
        packets.extend(recorder.packets());
        let _ = client.kill();
        client.wait().unwrap();
    });
    assert!(!packets.is_empty(), "{}: the client sends nothing", server.peer.title());
    (from, packets)
}

/// Forged frames of one kind, from spoofed addresses.
pub(crate) fn forge(peer: &dyn Peer, kind: &str, recorded: &[Packet]) -> Vec<Vec<u8>> {
    let mut dice = Dice::new();
    (0..FRAMES)
        .map(|_| {
            let packet = peer.forge(kind, recorded, &mut dice);
            packet.frame(dice.address())
        })
        .collect()
}

/// How many frames of this length the sender can send if the server drops all of them as early as it can.
pub(crate) fn bare(lab: &Lab, frames: &[Vec<u8>], total: u64) -> Bare {
    lab.clear_firewall();
    lab.server.nft("add table netdev bare");
    lab.server.nft("add chain netdev bare in { type filter hook ingress device lan0 priority 0 ; }");
    lab.server.nft("add rule netdev bare in counter drop");
    let flood = Flood::default();
    let took = flood.run(lab, frames, UNLIMITED, total);
    let rules = lab.server.nft("-j list chain netdev bare in");
    let rules: serde_json::Value = serde_json::from_str(&rules).unwrap();
    let find = |object: &serde_json::Value| object["rule"]["expr"][0]["counter"]["packets"].as_u64();
    let dropped = rules["nftables"].as_array().unwrap().iter().find_map(find).unwrap();
    lab.clear_firewall();
    Bare {
        bytes: frames[0].len(),
        sent: flood.sent(),
        dropped,
        seconds: took.wall.as_secs_f64(),
        sender_us: per_frame(took.cpu, flood.sent()),
    }
}

/// A flood of one tool at one rate.
pub(crate) fn measure(
    lab: &Lab,
    peer: &dyn Peer,
    kind: (&str, &str),
    rate: u64,
    scope: Scope,
) -> FloodResult {
    let mut server = Server::new(peer, lab, Setup::USUAL);
    // A hint is valid for two minutes; anyone who has recorded a knock floods while it is.
    let frames = forge(peer, kind.0, &record(&server).1);
    server.start().unwrap();
    let flood = Flood::default();
    thread::scope(|scoped| {
        let flooding = scoped.spawn(|| flood.run(lab, &frames, rate, u64::MAX));
        thread::sleep(Duration::from_millis(500));
        let (start, cpu, sent) = (Instant::now(), server.cpu(), flood.sent());
        thread::sleep(scope.cpu);
        let (span, cpu, sent) = (start.elapsed(), server.cpu().saturating_sub(cpu), flood.sent() - sent);
        let open_ms = knock_in_a_flood(&server, &flood, scope.knocks);
        flood.stop();
        let took = flooding.join().unwrap();
        FloodResult {
            peer: peer.key().to_owned(),
            title: peer.title().to_owned(),
            forgery: kind.0.to_owned(),
            bytes: frames[0].len(),
            asked: rate,
            rate: flood.sent() as f64 / took.wall.as_secs_f64(),
            sent: flood.sent(),
            knocks: scope.knocks as usize,
            opened: open_ms.len(),
            open_ms,
            cpu_us: per_frame(cpu, sent),
            sender_us: per_frame(took.cpu, flood.sent()),
            cpu_share: cpu.as_secs_f64() / span.as_secs_f64(),
        }
    })
}

/// Microseconds of CPU time for each frame.
pub(crate) fn per_frame(cpu: Duration, frames: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / frames.max(1) as f64
}

/// Honest knocks at a fixed interval, each from its own address; returns the times in milliseconds of those that open
/// the port before the flood is over.
fn knock_in_a_flood(server: &Server<'_>, flood: &Flood, knocks: u32) -> Vec<f64> {
    let opened = Mutex::new(Vec::new());
    let begin = Instant::now();
    thread::scope(|scope| {
        for n in 0..knocks {
            thread::sleep((BETWEEN_KNOCKS * n).saturating_sub(begin.elapsed()));
            let from = server.lab.fresh_address();
            server.lab.send_from(from);
            let opened = &opened;
            scope.spawn(move || {
                if let Some(time) = knock_until_open(server, flood, from) {
                    opened.lock().unwrap().push(time.as_secs_f64() * 1e3);
                }
            });
        }
    });
    opened.into_inner().unwrap()
}

fn knock_until_open(server: &Server<'_>, flood: &Flood, from: Ipv4Addr) -> Option<Duration> {
    let mut command = server.knock(from);
    server.lab.client.enter(|| {
        let start = Instant::now();
        let mut client = command.spawn().unwrap();
        let mut opened = None;
        while opened.is_none() && start.elapsed() < KNOCK_MAX && !flood.is_over() {
            thread::sleep(Duration::from_millis(5));
            opened = connects(from, Duration::from_millis(2)).then(|| start.elapsed());
        }
        let _ = client.kill();
        client.wait().unwrap();
        opened
    })
}
