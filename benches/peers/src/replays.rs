//! What a recorded knock opens, and what stays open after a kill.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::floods::record;
use crate::frames::Packet;
use crate::lab::Lab;
use crate::peer::{Peer, Setup};
use crate::record::Recorder;
use crate::results::{Kill, Replay};
use crate::sender;
use crate::server::Server;

/// How long a grant is for when it is tested what stays open, and how long the port is watched, in seconds.
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    pub(crate) granted: u32,
    pub(crate) watched: u32,
}

/// How long a grant is for when its knock is sent again after it.
const GRANT: u32 = 1;
/// How long a port may take to close.
const CLOSING_MAX: Duration = Duration::from_secs(10);
/// How long a replay may take to open the port.
const REPLAY_MAX: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_millis(3);

/// Sends a recorded knock again. `case` is what happens before.
pub(crate) fn measure(lab: &Lab, peer: &dyn Peer, case: &str) -> Replay {
    let mut server = Server::started(peer, lab, Setup { seconds: GRANT, ..Setup::USUAL });
    // A knock from the millisecond of the start is not accepted.
    thread::sleep(Duration::from_millis(50));
    let (client, packets) = if matches!(case, "delayed" | "intercepted") {
        record(&server)
    } else {
        let recorded = knock_and_record(&server);
        wait_until_closed(lab, recorded.0, CLOSING_MAX);
        recorded
    };
    match case {
        "after-a-restart" => {
            server.end(Signal::SIGTERM);
            server.start().unwrap();
        }
        "after-a-kill" => {
            server.kill_all();
            server.start().unwrap();
        }
        _ => {}
    }
    let sender = if matches!(case, "other-address" | "intercepted") { lab.fresh_address() } else { client };
    let frames: Vec<_> = packets.iter().map(|packet| packet.frame(sender)).collect();
    sender::send(lab, &frames);
    let start = Instant::now();
    let (mut opens_recorded, mut opens_sender) = (false, false);
    while start.elapsed() < REPLAY_MAX && !opens_sender {
        opens_recorded |= lab.is_open(client, PATIENCE);
        opens_sender |= lab.is_open(sender, PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    Replay {
        peer: peer.key().to_owned(),
        title: peer.title().to_owned(),
        case: case.to_owned(),
        opens_recorded,
        opens_sender,
    }
}

/// Knocks, which opens the port; returns the client's address and what it has sent.
fn knock_and_record(server: &Server<'_>) -> (Ipv4Addr, Vec<Packet>) {
    let lab = server.lab;
    let from = lab.fresh_address();
    lab.send_from(from);
    let mut recorder = Recorder::new(lab, "eth0", server.peer.filter());
    let mut client = lab.client.spawn(&mut server.knock(from));
    let start = Instant::now();
    while !lab.is_open(from, PATIENCE) {
        assert!(start.elapsed() < Duration::from_secs(3), "{}: a knock opens the port", server.peer.title());
    }
    client.wait().unwrap();
    (from, recorder.packets())
}

fn wait_until_closed(lab: &Lab, client: Ipv4Addr, limit: Duration) -> Option<Duration> {
    let start = Instant::now();
    while start.elapsed() < limit {
        thread::sleep(Duration::from_millis(50));
        if !lab.is_open(client, PATIENCE) {
            return Some(start.elapsed());
        }
    }
    None
}

/// Kills the daemons, or everything of the tool, shortly after a knock.
pub(crate) fn kill_daemons(lab: &Lab, peer: &dyn Peer, watch: Watch, killed: &str) -> Kill {
    let mut server = Server::started(peer, lab, Setup { seconds: watch.granted, ..Setup::USUAL });
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    let (client, _) = knock_and_record(&server);
    thread::sleep(Duration::from_millis(300));
    if killed == "daemons" {
        server.end(Signal::SIGKILL)
    } else {
        server.kill_all()
    }
    let limit = Duration::from_secs(watch.watched.into()).saturating_sub(start.elapsed());
    let closed = wait_until_closed(lab, client, limit).map(|_| start.elapsed().as_secs_f64());
    let closed_by_start = closed.is_none().then(|| {
        server.start().unwrap();
        thread::sleep(Duration::from_secs(1));
        !lab.is_open(client, PATIENCE)
    });
    Kill {
        peer: peer.key().to_owned(),
        title: peer.title().to_owned(),
        killed: killed.to_owned(),
        closed_s: closed,
        granted_s: watch.granted,
        watched_s: watch.watched,
        closed_by_start,
    }
}
