//! The channel to the keeper, for several threads: each message is sent as a whole.

use std::os::fd::{AsFd, BorrowedFd};

use crate::fleet::ipc::{self, FromStore, ToStore};
use crate::os::net::seqpacket::{Channel, ReceiveResult};

/// So many times a message waits two seconds for room. A keeper that reads nothing for that long is about to replace this
/// process anyway.
const TRIES: usize = 5;

/// The own end of the channel.
pub(super) struct KeeperChannel(Channel);

/// The keeper has closed its end, or does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeeperGone;

impl KeeperChannel {
    pub(super) const fn new(channel: Channel) -> Self {
        Self(channel)
    }

    /// Sends a message; waits for room.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub(super) fn send(&self, message: &FromStore) -> Result<(), KeeperGone> {
        let bytes = ipc::to_bytes(message);
        for _ in 0..TRIES {
            match self.0.send(&bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                sent => return sent.map_err(|_| KeeperGone),
            }
        }
        Err(KeeperGone)
    }

    /// Sends a message if there is room for it. That the keeper is gone is noticed elsewhere.
    pub(super) fn try_send(&self, message: &FromStore) {
        let _ = self.0.try_send(&ipc::to_bytes(message));
    }

    /// Waits for a message; none if it is invalid.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub(super) fn recv(&self, buffer: &mut [u8]) -> Result<Option<ToStore>, KeeperGone> {
        match self.0.recv(buffer) {
            Ok(ReceiveResult::Message(length)) => Ok(buffer.get(..length).and_then(ipc::read)),
            Ok(ReceiveResult::Nothing | ReceiveResult::Closed) | Err(_) => Err(KeeperGone),
        }
    }

    /// Readable when the keeper has sent a message.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for KeeperChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
