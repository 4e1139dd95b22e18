//! Knock to open: one knock after the other on an idle machine, each from another address.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::lab::{Lab, connects};
use crate::peer::{Peer, Setup};
use crate::record::Recorder;
use crate::results::Times;
use crate::server::Server;

/// How long a knock may take.
const KNOCK_MAX: Duration = Duration::from_secs(3);
/// How long one SYN is waited for, and so the resolution: ample on a virtual cable.
const PATIENCE: Duration = Duration::from_micros(200);

/// The times of a knock, in microseconds.
pub(crate) struct KnockTimes {
    /// From the start of the client's process.
    pub(crate) whole: f64,
    /// From its first frame.
    pub(crate) wire: f64,
}

/// Runs the client once and sends SYNs until one is accepted. `None` if none is.
pub(crate) fn knock(server: &Server<'_>, recorder: &mut Recorder) -> Option<KnockTimes> {
    let lab = server.lab;
    let from = lab.fresh_address();
    lab.send_from(from);
    let mut command = server.knock(from);
    recorder.clear();
    let (whole, opened) = lab.client.enter(|| {
        assert!(!connects(from, PATIENCE), "closed before the knock");
        let start = Instant::now();
        let mut client = command.spawn().unwrap();
        let mut times = None;
        while times.is_none() && start.elapsed() < KNOCK_MAX {
            if connects(from, PATIENCE) {
                times = Some((start.elapsed(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap()));
            }
        }
        if times.is_none() {
            let _ = client.kill();
        }
        client.wait().unwrap();
        times
    })?;
    let sent = recorder.first_time()?;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    Some(KnockTimes { whole: micros(whole), wire: micros(opened.saturating_sub(sent)) })
}

/// `runs` knocks of each tool, in rounds: each round starts each daemon once, beginning with another tool.
pub(crate) fn measure(lab: &Lab, peers: &[&dyn Peer], runs: usize) -> Vec<Times> {
    let rounds = (runs / 6).clamp(1, 5);
    let mut results: Vec<Times> = peers
        .iter()
        .map(|peer| Times {
            peer: peer.key().to_owned(),
            title: peer.title().to_owned(),
            tool: peer.tool().to_owned(),
            whole: Vec::new(),
            wire: Vec::new(),
            failed: 0,
        })
        .collect();
    for round in 0..rounds {
        for at in 0..peers.len() {
            let at = (at + round) % peers.len();
            let result = &mut results[at];
            let server = Server::started(peers[at], lab, Setup::USUAL);
            let mut recorder = Recorder::new(lab, "eth0", peers[at].filter());
            // The first knock loads programs and libraries from disk.
            knock(&server, &mut recorder);
            for n in 0..runs.div_ceil(rounds) {
                // Vary the pause, so that no daemon's own period is hit at the same moment each time.
                thread::sleep(Duration::from_millis(20 + n as u64 * 7 % 50));
                match knock(&server, &mut recorder) {
                    Some(times) => {
                        result.whole.push(times.whole);
                        result.wire.push(times.wire);
                    }
                    None => result.failed += 1,
                }
            }
        }
        println!("  round {} of {rounds}", round + 1);
    }
    results
}
