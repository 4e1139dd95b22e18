//! Who is at the other end of a local socket.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;

/// Whether the other end is root, or the user that we are. Whom the system does not name is nobody.
#[must_use]
pub fn is_trusted(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

/// Whether the other end has closed the socket for both directions: nobody there reads an answer.
#[must_use]
pub fn has_gone(stream: &UnixStream) -> bool {
    // A hang-up is told without being asked for.
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let told = poll(&mut polled, PollTimeout::ZERO).is_ok();
    let [fd] = polled;
    told && fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_trust_ourselves() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(is_trusted(&one));
    }

    #[test]
    fn who_only_stops_writing_is_still_there() {
        let (one, other) = UnixStream::pair().unwrap();
        assert!(!has_gone(&one));
        other.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!has_gone(&one));
        drop(other);
        assert!(has_gone(&one));
    }
}
