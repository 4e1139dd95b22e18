//! Identifies the process at the other end of a local socket.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;

/// Whether the other end is root or our own user. An unknown user is not trusted.
#[must_use]
pub fn is_trusted(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

/// Whether the other end has closed the socket in both directions, so that no one reads a response.
#[must_use]
pub fn has_gone(stream: &UnixStream) -> bool {
    // poll(2) reports a hang-up even if no event is requested.
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let is_polled = poll(&mut polled, PollTimeout::ZERO).is_ok();
    let [fd] = polled;
    is_polled && fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_user_is_trusted() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(is_trusted(&one));
    }

    #[test]
    fn a_peer_that_only_stops_writing_has_not_gone() {
        let (one, other) = UnixStream::pair().unwrap();
        assert!(!has_gone(&one));
        other.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!has_gone(&one));
        drop(other);
        assert!(has_gone(&one));
    }
}
