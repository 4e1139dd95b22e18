//! Port sequences as the watcher sees them: who may have touched what, passed on one after the other and not too fast.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};

use super::authenticate::Signer;
use super::flow_table::{FlowId, FlowTable};
use super::selectors::{SelectorMatch, Selectors};
use crate::auth::keeper::proof::PortSequence;
use crate::auth::policy::rate::{Rate, RecentActs};
use crate::crypto::MacKey;
use crate::knock::{KnockRange, Now, Steady, Timestamp};

/// What the keeper gets to look at. Who sees a client's ports can send them from many addresses.
const RATE: Rate = Rate::a_second(1_000);
/// Pairs that wait to be looked at: a second's worth. What finds no room is told again with its next packet.
const WAITING_MAX: usize = 1_000;

/// All that is known of sequences.
pub(in crate::auth) struct SequenceQueue {
    knock_range: KnockRange,
    pairs: FlowTable,
    selectors: Selectors,
    /// Pairs that have touched a port in every slice, and where their last packet came from.
    waiting: VecDeque<(FlowId, SocketAddr)>,
    /// Of the pair that has its turn: what is still to be passed on.
    found: Candidate,
    passed: RecentActs,
}

#[derive(Default)]
struct Candidate {
    source: Option<SocketAddr>,
    ports: Vec<u16>,
    named: Vec<SelectorMatch>,
}

impl SequenceQueue {
    /// Nothing is known yet.
    pub(in crate::auth) fn new(knock_range: KnockRange, hash: RandomState) -> Self {
        Self {
            knock_range,
            pairs: FlowTable::new(knock_range, hash),
            selectors: Selectors::default(),
            waiting: VecDeque::new(),
            found: Candidate::default(),
            passed: RecentActs::default(),
        }
    }

    /// A port was touched.
    pub(in crate::auth) fn record_hit(&mut self, source: SocketAddr, to: IpAddr, port: u16, now: Steady) {
        let Some(name) = self.pairs.record_hit(source.ip(), to, port, now) else { return };
        // Its own copies come close behind each other.
        if self.waiting.len() < WAITING_MAX && self.waiting.back().is_none_or(|(last, _)| *last != name) {
            self.waiting.push_back((name, source));
        }
    }

    /// The next one that may be passed on, while there are not too many, and the place of the client that it names.
    pub(in crate::auth) fn next(&mut self, clients: &[Signer], now: Now) -> Option<(usize, PortSequence)> {
        while self.found.named.is_empty() {
            let (name, source) = self.waiting.pop_front()?;
            let Some(ports) = self.pairs.take(name, now.steady) else { continue };
            let named = self.selectors.find(&ports, now.wall, self.knock_range, keys(clients));
            self.found = Candidate { source: Some(source), ports, named };
        }
        if !self.passed.has_room(RATE, now.steady) {
            return None;
        }
        let SelectorMatch { client, step } = self.found.named.pop()?;
        let fingerprint = clients.get(client)?.fingerprint;
        let ports = self.found.ports.clone();
        Some((client, PortSequence { fingerprint, step, source: self.found.source?, ports }))
    }

    /// One was passed on.
    pub(in crate::auth) fn count_passed(&mut self, now: Steady) {
        self.passed.count(now);
    }

    /// Whether some wait.
    pub(in crate::auth) fn are_waiting(&self) -> bool {
        !(self.waiting.is_empty() && self.found.named.is_empty())
    }

    /// The clients are others now.
    pub(in crate::auth) fn forget_clients(&mut self) {
        self.selectors = Selectors::default();
        self.found = Candidate::default();
    }

    /// Work that no packet should wait for.
    pub(in crate::auth) fn prepare(&mut self, clients: &[Signer], now: Timestamp) {
        self.selectors.prepare(now, self.knock_range, keys(clients));
    }
}

fn keys(clients: &[Signer]) -> impl Iterator<Item = &MacKey> + Clone {
    clients.iter().map(|client| &client.selector)
}
