//! The largest amount of data that a watcher must be able to hold within its memory limit.

use std::hash::RandomState;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use spa_knock::os::clock;
use spa_knock_core::auth::{KeyLimit, WatchedKey, Watcher};
use spa_knock_core::crypto::{Fingerprint, MacKey, Secret, WatcherKeys};
use spa_knock_core::knock::{KnockRange, Steady};
use spa_knock_core::wire::{DATAGRAM_MIN, hint};

use crate::works::report;

/// Number of clients that the limit allows for.
const CLIENTS: u32 = 10_000;
/// The largest window that a config can set.
const WINDOW: Duration = Duration::from_secs(600);
/// Number of tags that are remembered (`core/src/auth/watcher/duplicates.rs`).
const TAGS: u32 = 1 << 16;

/// Number of address pairs that are remembered, and of ports for each pair (`core/src/auth/watcher/flow_table.rs`).
const PAIRS: u32 = 1 << 16;
const PORTS: u32 = 24;

/// Fills a watcher with all of it. If memory runs out, this process is killed.
pub(crate) fn fill_watcher() {
    let mut watcher = Watcher::new(WINDOW, clients());
    watcher.watch_range(KnockRange::USUAL, RandomState::new());
    (0..PAIRS * PORTS).for_each(|number| record_hit(&mut watcher, number));
    watcher.prepare(clock::wall());
    // During a reload, the old and the new clients are in memory at the same time.
    watcher.replace_clients(WINDOW, clients());
    watcher.prepare(clock::wall());
    let passed = (0..TAGS).filter(|&number| watcher.judge(&signed(number), clock::now()).is_ok()).count();
    report("10,000 clients and 65,536 tags fit", passed == TAGS as usize);
}

fn record_hit(watcher: &mut Watcher, number: u32) {
    let source = SocketAddr::new(Ipv4Addr::from(number % PAIRS).into(), 4_000);
    let port = KnockRange::USUAL.low() + (number / PAIRS) as u16;
    watcher.record_hit(
        source,
        Ipv4Addr::LOCALHOST.into(),
        port,
        Steady::from_duration(Duration::from_secs(1)),
    );
}

fn clients() -> Vec<WatchedKey> {
    let client = |number: u32| {
        let mut fingerprint = [0; 8];
        fingerprint[..4].copy_from_slice(&number.to_be_bytes());
        let [hint, sign, selector] = [1, 2, 3].map(|label| Secret::from_bytes(&key(number, label)));
        let keys = WatcherKeys { hint, sign, selector: Some(selector) };
        WatchedKey { fingerprint: Fingerprint::from_bytes(fingerprint), keys, limit: KeyLimit::UNLIMITED }
    };
    (0..CLIENTS).map(client).collect()
}

fn key(client: u32, label: u8) -> [u8; 32] {
    let mut bytes = [label; 32];
    bytes[..4].copy_from_slice(&client.to_be_bytes());
    bytes
}

/// A new datagram of the first client for each number. Its encrypted part is invalid, but a watcher cannot read it.
fn signed(number: u32) -> Vec<u8> {
    let [hint_key, sign_key] = [1, 2].map(|label| MacKey::new(&key(0, label)));
    let mut bytes = hint(&hint_key, clock::wall().epoch()).to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.resize(DATAGRAM_MIN - 32, 0);
    let tag = sign_key.tag(&[&bytes]);
    bytes.extend(tag);
    bytes
}
