//! Gives the targets in `fuzz/` access to private code: they pass bytes and get bytes or public values. Exists only in
//! fuzzing builds.

use std::net::{IpAddr, SocketAddr};

use crate::ipc::{self, FromWatcher, ReceivedKnock, ToShell, ToWatcher};
use spa_knock_core::auth::Authentic;

pub use crate::state::fuzzing::{JournalText, append_acceptance, lease_again, read_journal, write_journal};

/// Size in bytes of every message between keeper and watcher.
pub const MESSAGE: usize = ipc::MESSAGE;

/// Encodes the watcher's message about a knock datagram.
#[must_use]
pub fn report(knock: Authentic<'_>, source: SocketAddr, destination: IpAddr, interface: u32) -> Vec<u8> {
    FromWatcher::Knock(ReceivedKnock { source, destination, interface, knock }).to_bytes().to_vec()
}

/// Decodes a watcher's message about a knock datagram: the knock and its source address.
#[must_use]
pub fn reported(message: &[u8]) -> Option<(Authentic<'_>, SocketAddr)> {
    let FromWatcher::Knock(ReceivedKnock { source, knock, .. }) = FromWatcher::read(message)? else {
        return None;
    };
    Some((knock, source))
}

/// Decodes a watcher's message and encodes it again.
#[must_use]
pub fn report_again(message: &[u8]) -> Option<Vec<u8>> {
    FromWatcher::read(message).map(|report| report.to_bytes().to_vec())
}

/// Decodes a keeper's message and encodes it again.
#[must_use]
pub fn order_again(message: &[u8]) -> Option<Vec<u8>> {
    let shell = ToShell::read(message).map(|order| order.to_bytes());
    let own = || ToWatcher::read(message).map(|order| order.to_bytes());
    shell.or_else(own).map(|bytes| bytes.to_vec())
}
