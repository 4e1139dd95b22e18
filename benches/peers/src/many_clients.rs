//! Costs against the number of clients: fwknop's stanzas, letmein's users, doors of knockd.

use std::thread;
use std::time::{Duration, Instant};

use crate::floods::{forge, per_frame, record};
use crate::lab::Lab;
use crate::peer::{Peer, Setup};
use crate::record::Recorder;
use crate::results::Clients;
use crate::sender::Flood;
use crate::server::Server;
use crate::times;

/// Forged packets per second: what a daemon can check that tries every key.
const RATE: u64 = 10_000;

/// One tool with this number of clients. The honest one is the last in the configuration.
pub(crate) fn measure(lab: &Lab, peer: &dyn Peer, clients: usize, runs: usize, window: Duration) -> Clients {
    let setup = Setup { clients, ..Setup::USUAL };
    let mut server = Server::new(peer, lab, setup);
    let (kind, _) = *peer.forgeries().first().unwrap();
    let frames = forge(peer, kind, &record(&server).1);
    let start = server.start();
    let mut result = Clients {
        peer: peer.key().to_owned(),
        title: peer.title().to_owned(),
        clients,
        start_ms: start.map(|time| time.as_secs_f64() * 1e3),
        wire: Vec::new(),
        failed: 0,
        rate: 0.0,
        cpu_us: 0.0,
        cpu_share: 0.0,
    };
    if start.is_none() {
        return result;
    }
    let mut recorder = Recorder::new(lab, "eth0", peer.filter());
    for _ in 0..runs {
        match times::knock(&server, &mut recorder) {
            Some(times) => result.wire.push(times.wire),
            None => result.failed += 1,
        }
        thread::sleep(Duration::from_millis(30));
    }
    let flood = Flood::default();
    thread::scope(|scope| {
        let flooding = scope.spawn(|| flood.run(lab, &frames, RATE, u64::MAX));
        thread::sleep(Duration::from_millis(300));
        let (start, cpu, sent) = (Instant::now(), server.cpu(), flood.sent());
        thread::sleep(window);
        let (span, cpu, sent) =
            (start.elapsed().as_secs_f64(), server.cpu().saturating_sub(cpu), flood.sent() - sent);
        flood.stop();
        flooding.join().unwrap();
        result.rate = sent as f64 / span;
        result.cpu_us = per_frame(cpu, sent);
        result.cpu_share = cpu.as_secs_f64() / span;
    });
    result
}
