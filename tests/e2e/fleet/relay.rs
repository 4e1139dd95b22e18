//! What a balancer, a network and an attacker can do to datagrams together: each one is delivered to all members
//! simultaneously, or one by one in another order, again, and late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::network::{COUNT, Host};
use super::schedule::Dice;
use crate::net::{KNOCK_PORT, Namespace};

/// A copy that waits: when, in which order, for which member.
type WaitingCopy = Reverse<(Instant, usize, usize, Arc<[u8]>)>;

/// Delivers datagrams from the client's address.
pub(super) struct Relay {
    /// Replies go to the port that a datagram came from.
    sockets: Vec<UdpSocket>,
    dice: Dice,
    waiting: BinaryHeap<WaitingCopy>,
    /// How late the latest copies are.
    latest: Duration,
    /// Number of copies so far.
    copies: usize,
}

impl Relay {
    /// A relay in this namespace. A few copies arrive as late as `latest`.
    pub(super) fn new(client: &Namespace, seed: u64, latest: Duration) -> Self {
        let sockets = (0..4).map(|_| client.udp(Host::Client.address())).collect();
        Self { sockets, dice: Dice::new(seed), waiting: BinaryHeap::new(), latest, copies: 0 }
    }

    /// Plans the deliveries of a datagram, and begins.
    pub(super) fn deliver(&mut self, datagram: &[u8]) {
        let (now, bytes) = (Instant::now(), Arc::from(datagram));
        let none = Duration::ZERO;
        let mut delays = match self.dice.below(100) {
            // All members receive it simultaneously.
            0..60 => vec![[none; COUNT]],
            // One after the other.
            60..80 => vec![[0; COUNT].map(|_| self.dice.millis(0..300))],
            // One member receives it much later, still within the window, when the others have long forgotten it.
            80..90 => {
                let mut delays = [none; COUNT];
                let late = self.dice.below(COUNT);
                delays[late] = self.dice.millis(1_000..25_000);
                vec![delays]
            }
            // Each at some time.
            _ => vec![[0; COUNT].map(|_| self.dice.millis(0..15_000))],
        };
        // The client and others send it again.
        if self.dice.percent(30) {
            delays.push([self.dice.millis(1..1_500); COUNT]);
        }
        if self.dice.percent(20) {
            delays.push([0; COUNT].map(|_| self.dice.millis(1_000..28_000)));
        }
        if self.dice.percent(3) {
            let latest = u64::try_from(self.latest.as_millis()).unwrap();
            delays.push([0; COUNT].map(|_| self.dice.millis(latest / 4..latest)));
        }
        for delays in delays {
            let mut members: Vec<usize> = (0..COUNT).collect();
            self.dice.shuffle(&mut members);
            for member in members {
                self.copies += 1;
                let due = now + delays[member];
                self.waiting.push(Reverse((due, self.copies, member, Arc::clone(&bytes))));
            }
        }
        self.run_due();
    }

    /// Sends the copies that are due.
    pub(super) fn run_due(&mut self) {
        let now = Instant::now();
        while self.waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, number, member, bytes))) = self.waiting.pop() else { return };
            let socket = &self.sockets[number % self.sockets.len()];
            // A server that was killed has closed its port, which is an error of the next call.
            let _ = socket.send_to(&bytes, (Host::Member(member).address(), KNOCK_PORT));
        }
    }

    /// Waits until this time, and delivers what becomes due.
    pub(super) fn run_until(&mut self, end: Instant) {
        loop {
            self.run_due();
            let now = Instant::now();
            if now >= end {
                return;
            }
            let due = self.waiting.peek().map_or(end, |Reverse((due, ..))| (*due).min(end));
            std::thread::sleep((due - now.min(due)).min(Duration::from_millis(20)));
        }
    }

    /// When the last copy is due.
    pub(super) fn last_due(&self) -> Option<Instant> {
        self.waiting.iter().map(|Reverse((due, ..))| *due).max()
    }

    /// Number of planned deliveries so far.
    pub(super) fn copies(&self) -> usize {
        self.copies
    }
}

#[test]
fn each_member_receives_each_datagram_and_some_again_late_and_out_of_order() {
    use super::network::FleetNetwork;

    // Until the members' hardware addresses are known, a host keeps about 100 packets for each.
    const DATAGRAMS: u8 = 80;
    let Some(network) = FleetNetwork::new() else { return };
    let receivers = Host::MEMBERS.map(|host| {
        let socket = network.of(host).enter(|| UdpSocket::bind((host.address(), KNOCK_PORT))).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    });
    let mut relay = Relay::new(&network.client, 3, Duration::from_secs(2));
    let start = Instant::now();
    for number in 0..DATAGRAMS {
        relay.deliver(&[number]);
    }
    // What is due within minutes, so that the test need not wait.
    let early: Vec<_> = std::mem::take(&mut relay.waiting).into_vec();
    let planned = early.iter().map(|Reverse((due, ..))| *due - start).max().unwrap();
    assert!(planned > Duration::from_secs(20), "{planned:?}");
    relay.waiting = early
        .into_iter()
        .map(|Reverse((due, number, member, bytes))| {
            Reverse((start + (due.saturating_duration_since(start)) / 100, number, member, bytes))
        })
        .collect();
    relay.run_until(relay.last_due().unwrap());
    std::thread::sleep(Duration::from_millis(50));
    let mut received = 0;
    for socket in receivers {
        let mut order = Vec::new();
        let mut byte = [0];
        while socket.recv(&mut byte).is_ok() {
            order.push(byte[0]);
        }
        received += order.len();
        let mut distinct = order.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), usize::from(DATAGRAMS), "each datagram");
        assert!(order.len() > usize::from(DATAGRAMS) + 20, "some again: {}", order.len());
        assert!(order.windows(2).filter(|pair| pair[0] > pair[1]).count() > 10, "out of order");
    }
    assert_eq!(received, relay.copies());
}
