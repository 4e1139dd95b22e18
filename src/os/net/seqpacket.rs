//! A channel for complete messages between two of our processes, over a SEQPACKET socket pair.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{self, SendTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, getsockopt, recv, send, setsockopt, socketpair,
};
use nix::sys::time::TimeVal;

/// One end of the channel. Closing it informs the other end.
pub struct Channel(OwnedFd);

/// Outcome of receiving.
#[derive(Debug, PartialEq, Eq)]
pub enum ReceiveResult {
    /// A message with this length in bytes.
    Message(usize),
    /// No message yet.
    Nothing,
    /// The other end is closed.
    Closed,
}

/// Timeout of a blocking send, in seconds, after which the other end counts as dead.
const SEND_TIMEOUT_S: i64 = 2;

impl Channel {
    /// Creates both ends. Neither survives an exec unless it is passed on explicitly.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&ours, SendTimeout, &TimeVal::new(SEND_TIMEOUT_S, 0))?;
        Ok((Self(ours), theirs))
    }

    /// The end that the parent process passed as standard input.
    ///
    /// # Errors
    /// When standard input is not such a socket.
    pub fn from_stdin() -> io::Result<Self> {
        let stdin = io::stdin();
        match getsockopt(&stdin, sockopt::SockType) {
            Ok(SockType::SeqPacket) => stdin.as_fd().try_clone_to_owned().map(Self),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Sends one message, waiting up to two seconds for room.
    ///
    /// # Errors
    /// When the other end is closed or does not read.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        self.send_with(message, MsgFlags::MSG_NOSIGNAL)
    }

    /// Sends one message if there is room for it now.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; otherwise, the other end is closed.
    pub fn try_send(&self, message: &[u8]) -> io::Result<()> {
        self.send_with(message, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<ReceiveResult> {
        self.recv_with(buffer, MsgFlags::empty())
    }

    /// Receives one message if there is one now.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<ReceiveResult> {
        self.recv_with(buffer, MsgFlags::MSG_DONTWAIT)
    }

    fn send_with(&self, message: &[u8], flags: MsgFlags) -> io::Result<()> {
        loop {
            match send(self.0.as_raw_fd(), message, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn recv_with(&self, buffer: &mut [u8], flags: MsgFlags) -> io::Result<ReceiveResult> {
        loop {
            match recv(self.0.as_raw_fd(), buffer, flags) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(ReceiveResult::Closed),
                Ok(length) => return Ok(ReceiveResult::Message(length)),
                Err(Errno::EAGAIN) => return Ok(ReceiveResult::Nothing),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_complete_and_a_closed_end_is_reported() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel(theirs);
        let mut buffer = [0; 16];
        assert_eq!(ours.try_recv(&mut buffer).unwrap(), ReceiveResult::Nothing);
        theirs.send(b"one").unwrap();
        theirs.try_send(b"three").unwrap();
        assert_eq!(ours.recv(&mut buffer).unwrap(), ReceiveResult::Message(3));
        assert_eq!(ours.try_recv(&mut buffer).unwrap(), ReceiveResult::Message(5));
        drop(theirs);
        assert_eq!(ours.try_recv(&mut buffer).unwrap(), ReceiveResult::Closed);
        assert!(ours.send(b"x").is_err());
    }

    #[test]
    fn a_full_channel_does_not_block_try_send() {
        let (ours, theirs) = Channel::pair().unwrap();
        let error = (0..100_000).find_map(|_| ours.try_send(&[0; 512]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
    }
}
