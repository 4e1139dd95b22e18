//! What a member knows of the store: everything once, then each change, and everything again when changes were lost.
//! Runs in a thread of its own in the store process.

use std::time::Duration;

use crate::client::{KeyValue, KeyWatch, Patience, StoreClient, StoreError, StoreFault, WatchEvent};
use crate::keys::{KeySpace, StoreKey};

/// A watch that is silent for this long is opened again, because its connection may be dead. A revoked client must be
/// refused everywhere within 2 s after the network is back.
pub const SILENCE: Duration = Duration::from_secs(1);

/// What has become known.
#[derive(Debug)]
pub enum MirrorEvent {
    /// All keys at this revision, instead of everything known before.
    Everything {
        /// The revision.
        revision: u64,
        /// The keys and values.
        keys: Vec<(StoreKey, KeyValue)>,
    },
    /// These changes, in order.
    Changes {
        /// Everything up to this revision is known now.
        revision: u64,
        /// The changed keys, with their new values.
        changes: Vec<(StoreKey, WatchEvent)>,
    },
    /// Nothing new, and the store answers.
    Idle,
    /// The store does not answer. Call again after a moment.
    Lost(StoreError),
}

/// Follows the watched keys of a fleet.
pub struct Mirror<'a> {
    client: &'a StoreClient,
    space: KeySpace,
    state: MirrorState,
}

enum MirrorState {
    /// Nothing is known, or too little.
    Empty,
    /// Everything before this revision is known, but no watch is open.
    Paused(u64),
    Open(KeyWatch),
}

impl<'a> Mirror<'a> {
    /// A mirror that knows nothing yet.
    #[must_use]
    pub const fn new(client: &'a StoreClient, space: KeySpace) -> Self {
        Self { client, space, state: MirrorState::Empty }
    }

    /// Waits for what happens next, at most about a second.
    pub fn wait(&mut self) -> MirrorEvent {
        let state = std::mem::replace(&mut self.state, MirrorState::Empty);
        match state {
            MirrorState::Empty => self.read_everything(),
            MirrorState::Paused(next) => match self.client.watch(&self.space.watched(), next, SILENCE) {
                Ok(watch) => self.follow(watch),
                Err(error) => self.lost(next, error),
            },
            MirrorState::Open(watch) => self.follow(watch),
        }
    }

    fn read_everything(&mut self) -> MirrorEvent {
        match self.client.read_all(&self.space.watched(), Patience::BACKGROUND) {
            Ok((revision, found)) => {
                self.state = MirrorState::Paused(revision.saturating_add(1));
                let known = |kv: KeyValue| Some((self.space.parse(&kv.key)?, kv));
                MirrorEvent::Everything { revision, keys: found.into_iter().filter_map(known).collect() }
            }
            Err(error) => MirrorEvent::Lost(error),
        }
    }

    fn follow(&mut self, mut watch: KeyWatch) -> MirrorEvent {
        let next = watch.next_revision();
        match watch.read() {
            Ok(progress) => {
                self.state = MirrorState::Open(watch);
                let known = |event: WatchEvent| Some((self.space.parse(&event.kv.key)?, event));
                let changes: Vec<_> = progress.events.into_iter().filter_map(known).collect();
                if changes.is_empty() {
                    MirrorEvent::Idle
                } else {
                    MirrorEvent::Changes { revision: progress.revision, changes }
                }
            }
            // Silence: whether the store still answers is known when the next watch is open.
            Err(error) if matches!(error.fault(), StoreFault::Timeout(_)) => {
                self.state = MirrorState::Paused(next);
                MirrorEvent::Idle
            }
            Err(error) => self.lost(next, error),
        }
    }

    fn lost(&mut self, next: u64, error: StoreError) -> MirrorEvent {
        let is_compacted = matches!(error.fault(), StoreFault::Compacted(_));
        self.state = if is_compacted { MirrorState::Empty } else { MirrorState::Paused(next) };
        if is_compacted { self.read_everything() } else { MirrorEvent::Lost(error) }
    }
}
