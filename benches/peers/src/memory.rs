//! Memory of each process: at rest, and after many forged packets.

use std::thread;
use std::time::Duration;

use crate::floods::{forge, record};
use crate::lab::Lab;
use crate::peer::{Peer, Setup};
use crate::results::Memory;
use crate::sender::Flood;
use crate::server::Server;

/// Packets per second; a daemon may lose some of them.
const RATE: u64 = 500_000;
/// Packets of one flood, so that none is longer than ten seconds at half the rate.
const PART: u64 = 2_500_000;

/// A row at rest, and one after each of these totals of forged packets.
pub(crate) fn measure(lab: &Lab, peer: &dyn Peer, totals: &[u64]) -> Vec<Memory> {
    let mut server = Server::new(peer, lab, Setup::USUAL);
    let (kind, _) = *peer.forgeries().last().unwrap();
    let frames = forge(peer, kind, &record(&server).1);
    server.start().unwrap();
    thread::sleep(Duration::from_millis(500));
    let row = |forged| Memory {
        peer: peer.key().to_owned(),
        title: peer.title().to_owned(),
        forged,
        processes: server.memory(),
    };
    let mut rows = vec![row(0)];
    let mut sent = 0;
    for total in totals {
        while sent < *total {
            let flood = Flood::default();
            flood.run(lab, &frames, RATE, PART.min(total - sent));
            sent += flood.sent();
        }
        thread::sleep(Duration::from_millis(500));
        rows.push(row(sent));
    }
    rows
}
