//! Many knocks in flight. Each has a socket of its own while it waits, so that a reply belongs to one knock.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use spa_knock_core::knock::{Knock, ReplyStatus};
use spa_knock_core::wire::Datagram;

use super::network::Host;
use crate::net::{KNOCK_PORT, Key, Namespace};

/// How long a knock waits for a reply: longer than a member waits for its store.
const WAIT: Duration = Duration::from_millis(1_700);

/// Who receives a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// All members simultaneously.
    All,
    /// One member: the next one for each knock, as a balancer does.
    InTurn,
    /// This server.
    One(IpAddr),
}

/// Sends knocks from the client's address.
pub(super) struct Volley<'a> {
    pub(super) client: &'a Namespace,
    /// Used in turn.
    pub(super) keys: &'a [Key],
    pub(super) aim: Aim,
}

/// One knock and its replies.
#[derive(Debug, Clone)]
pub(super) struct Shot {
    pub(super) sent: Instant,
    /// When it was granted, and by which server.
    pub(super) granted: Option<(Instant, IpAddr)>,
    /// The statuses of all other replies that arrived before.
    pub(super) refused: Vec<ReplyStatus>,
}

impl Shot {
    /// Whether a reply has granted it.
    pub(super) fn is_granted(&self) -> bool {
        self.granted.is_some()
    }

    /// The time until the reply that has granted it.
    pub(super) fn took(&self) -> Option<Duration> {
        Some(self.granted?.0 - self.sent)
    }
}

/// A knock that waits.
struct Slot {
    socket: UdpSocket,
    current: Option<(Datagram, usize, Shot)>,
}

impl Volley<'_> {
    /// Sends `count` knocks, `in_flight` of them simultaneously. `make` makes each, by its number.
    pub(super) fn fire(&self, in_flight: usize, count: usize, make: impl Fn(usize) -> Knock) -> Vec<Shot> {
        self.fire_while(in_flight, make, |sent| sent < count)
    }

    /// Sends knocks as long as `goes_on` wants another one, after so many.
    pub(super) fn fire_while(
        &self,
        in_flight: usize,
        make: impl Fn(usize) -> Knock,
        mut goes_on: impl FnMut(usize) -> bool,
    ) -> Vec<Shot> {
        let mut slots: Vec<Slot> = (0..in_flight)
            .map(|_| {
                let socket = self.client.udp(Host::Client.address());
                socket.set_nonblocking(true).unwrap();
                Slot { socket, current: None }
            })
            .collect();
        let (mut shots, mut sent) = (Vec::new(), 0);
        loop {
            for slot in &mut slots {
                self.receive(slot);
                if let Some((.., shot)) = &slot.current
                    && (shot.is_granted() || self.is_over(shot))
                {
                    shots.extend(slot.current.take().map(|(.., shot)| shot));
                }
                if slot.current.is_none() && goes_on(sent) {
                    self.send(slot, sent, &make(sent));
                    sent += 1;
                }
            }
            let waiting: Vec<&Slot> = slots.iter().filter(|slot| slot.current.is_some()).collect();
            if waiting.is_empty() {
                return shots;
            }
            let mut fds: Vec<_> =
                waiting.iter().map(|slot| PollFd::new(slot.socket.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::from(20_u8)).unwrap();
        }
    }

    fn is_over(&self, shot: &Shot) -> bool {
        let members = if self.aim == Aim::All { Host::MEMBERS.len() } else { 1 };
        shot.refused.len() == members || shot.sent.elapsed() > WAIT
    }

    fn send(&self, slot: &mut Slot, number: usize, knock: &Knock) {
        let key = number % self.keys.len();
        let datagram = self.keys[key].seal(knock);
        let targets = match self.aim {
            Aim::All => Host::MEMBERS.map(Host::address).to_vec(),
            Aim::InTurn => vec![Host::MEMBERS[number / self.keys.len() % Host::MEMBERS.len()].address()],
            Aim::One(address) => vec![address],
        };
        let shot = Shot { sent: Instant::now(), granted: None, refused: Vec::new() };
        for target in targets {
            // A server that was killed has closed its port, which is an error of the next call.
            let _ = slot.socket.send_to(datagram.as_bytes(), (target, KNOCK_PORT));
        }
        slot.current = Some((datagram, key, shot));
    }

    fn receive(&self, slot: &mut Slot) {
        let mut bytes = [0; 2048];
        let Some((datagram, key, shot)) = &mut slot.current else { return };
        while let Ok((length, from)) = slot.socket.recv_from(&mut bytes) {
            // It can be a late reply to the knock before this one.
            let Some(reply) = self.keys[*key].try_open(&bytes[..length], datagram) else { continue };
            match reply.status {
                ReplyStatus::Granted => shot.granted = Some((Instant::now(), from.ip())),
                status => shot.refused.push(status),
            }
        }
    }
}

/// The longest time between two grants, and from the last one to the end.
pub(super) fn longest_gap(shots: &[Shot], end: Instant) -> Duration {
    let mut times: Vec<Instant> = shots.iter().filter_map(|shot| Some(shot.granted?.0)).collect();
    times.push(end);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("something was granted")
}

/// The time below which this share of all grants took, in percent.
pub(super) fn percentile(shots: &[Shot], percent: usize) -> Duration {
    let mut times: Vec<Duration> = shots.iter().filter_map(Shot::took).collect();
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

#[test]
fn the_longest_gap_and_the_percentiles_are_those_of_the_grants() {
    let start = Instant::now();
    let at = |millis: u64| start + Duration::from_millis(millis);
    let shot = |sent: u64, granted: Option<u64>| Shot {
        sent: at(sent),
        granted: granted.map(|millis| (at(millis), Host::Client.address())),
        refused: Vec::new(),
    };
    // Knocks are not granted in the order in which they were sent.
    let shots = [shot(10, Some(900)), shot(20, None), shot(0, Some(100)), shot(40, Some(140))];
    assert_eq!(longest_gap(&shots, at(1_000)), Duration::from_millis(760));
    assert_eq!(longest_gap(&shots, at(3_000)), Duration::from_millis(2_100));
    assert_eq!(percentile(&shots, 50), Duration::from_millis(100));
    assert_eq!(percentile(&shots, 99), Duration::from_millis(890));
}
