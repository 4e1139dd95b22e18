//! Doors for the targets in `fuzz/` to what is private here: bytes in, bytes and public values out. Not there in any
//! other build.

use std::net::{IpAddr, SocketAddr};

use crate::ipc::{self, FromWatcher, ReceivedKnock, ToShell, ToWatcher};
use spa_knock_core::auth::Authentic;

pub use crate::state::fuzzing::{JournalText, append_acceptance, lease_again, read_journal, write_journal};

/// Bytes of every message between keeper and watcher.
pub const MESSAGE: usize = ipc::MESSAGE;

/// The watcher's message about a signed knock.
#[must_use]
pub fn report(knock: Authentic<'_>, source: SocketAddr, destination: IpAddr, interface: u32) -> Vec<u8> {
    FromWatcher::Knock(ReceivedKnock { source, destination, interface, knock }).to_bytes().to_vec()
}

/// The knock that a message of the watcher tells of, and where it says that it came from.
#[must_use]
pub fn reported(message: &[u8]) -> Option<(Authentic<'_>, SocketAddr)> {
    let FromWatcher::Knock(ReceivedKnock { source, knock, .. }) = FromWatcher::read(message)? else {
        return None;
    };
    Some((knock, source))
}

/// A message of the watcher, read and written again.
#[must_use]
pub fn report_again(message: &[u8]) -> Option<Vec<u8>> {
    FromWatcher::read(message).map(|report| report.to_bytes().to_vec())
}

/// A message of the keeper, read and written again.
#[must_use]
pub fn order_again(message: &[u8]) -> Option<Vec<u8>> {
    let shell = ToShell::read(message).map(|order| order.to_bytes());
    let own = || ToWatcher::read(message).map(|order| order.to_bytes());
    shell.or_else(own).map(|bytes| bytes.to_vec())
}
