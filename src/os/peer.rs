//! Who is at the other end of a local socket.

use std::os::unix::net::UnixStream;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;

/// Whether the other end is root, or the user that we are. Whom the system does not name is nobody.
#[must_use]
pub fn is_trusted(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_trust_ourselves() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(is_trusted(&one));
    }
}
