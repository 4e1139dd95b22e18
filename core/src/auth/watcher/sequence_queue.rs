//! Port sequences in the watcher: candidates are queued and passed to the keeper one by one, at a limited rate.

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

/// The limit for the keeper. Anyone who observes a client's ports can send them from many addresses.
const RATE: Rate = Rate::a_second(1_000);
/// Maximum number of queued pairs: a second's worth. A pair that finds no room is reported again by its next packet.
const WAITING_MAX: usize = 1_000;

/// The state of all port sequences.
pub(in crate::auth) struct SequenceQueue {
    knock_range: KnockRange,
    flows: FlowTable,
    selectors: Selectors,
    /// Pairs with a hit in every slice, and the source of their last packet.
    waiting: VecDeque<(FlowId, SocketAddr)>,
    /// The pair that is being passed on.
    current: Candidate,
    passed: RecentActs,
}

#[derive(Default)]
struct Candidate {
    source: Option<SocketAddr>,
    ports: Vec<u16>,
    matches: Vec<SelectorMatch>,
}

impl SequenceQueue {
    /// An empty queue.
    pub(in crate::auth) fn new(knock_range: KnockRange, hash: RandomState) -> Self {
        Self {
            knock_range,
            flows: FlowTable::new(knock_range, hash),
            selectors: Selectors::default(),
            waiting: VecDeque::new(),
            current: Candidate::default(),
            passed: RecentActs::default(),
        }
    }

    /// Records a port hit.
    pub(in crate::auth) fn record_hit(&mut self, source: SocketAddr, to: IpAddr, port: u16, now: Steady) {
        let Some(id) = self.flows.record_hit(source.ip(), to, port, now) else { return };
        // The resends of a sequence arrive directly after each other.
        if self.waiting.len() < WAITING_MAX && self.waiting.back().is_none_or(|(last, _)| *last != id) {
            self.waiting.push_back((id, source));
        }
    }

    /// The next sequence that may be passed on, with the index of its client, unless the rate is exhausted.
    pub(in crate::auth) fn next(&mut self, clients: &[Signer], now: Now) -> Option<(usize, PortSequence)> {
        while self.current.matches.is_empty() {
            let (id, source) = self.waiting.pop_front()?;
            let Some(ports) = self.flows.take(id, now.steady) else { continue };
            let matches = self.selectors.find(&ports, now.wall, self.knock_range, keys(clients));
            self.current = Candidate { source: Some(source), ports, matches };
        }
        if !self.passed.has_room(RATE, now.steady) {
            return None;
        }
        let SelectorMatch { client, step } = self.current.matches.pop()?;
        let fingerprint = clients.get(client)?.fingerprint;
        let ports = self.current.ports.clone();
        Some((client, PortSequence { fingerprint, step, source: self.current.source?, ports }))
    }

    /// Counts a sequence that was passed on.
    pub(in crate::auth) fn count_passed(&mut self, now: Steady) {
        self.passed.count(now);
    }

    /// Whether sequences are waiting.
    pub(in crate::auth) fn are_waiting(&self) -> bool {
        !(self.waiting.is_empty() && self.current.matches.is_empty())
    }

    /// Forgets what was derived from the replaced clients.
    pub(in crate::auth) fn forget_clients(&mut self) {
        self.selectors = Selectors::default();
        self.current = Candidate::default();
    }

    /// Prepares the next time step in advance.
    pub(in crate::auth) fn prepare(&mut self, clients: &[Signer], now: Timestamp) {
        self.selectors.prepare(now, self.knock_range, keys(clients));
    }
}

/// The clients that can send port sequences, with their indices.
fn keys(clients: &[Signer]) -> impl Iterator<Item = (usize, &MacKey)> + Clone {
    clients.iter().enumerate().filter_map(|(index, client)| Some((index, client.selector.as_ref()?)))
}
