//! Sends one TCP port hit: starts a connection and abandons it immediately.

use std::io;
use std::net::SocketAddr;

/// Sends exactly one SYN to `address`, from a port chosen by the system. The socket is closed immediately, so the SYN
/// is not repeated, and a response is ignored.
///
/// # Errors
/// When nothing was sent: no route, or a rule of this host forbids it.
#[cfg(unix)]
pub fn send(address: SocketAddr) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // Not with SOCK_NONBLOCK and SOCK_CLOEXEC, which macOS does not have.
    let fd = socket(family, SockType::Stream, SockFlag::empty(), None)?;
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(address)) {
        // On the loopback interface, the response arrives before the call returns.
        Ok(()) | Err(Errno::EINPROGRESS | Errno::ECONNREFUSED) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The same with the standard library alone, which requires waiting: the shortest possible time, 1 ms.
///
/// # Errors
/// When nothing was sent: no route, or a rule of this host forbids it.
#[cfg(not(unix))]
pub fn send(address: SocketAddr) -> io::Result<()> {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut, WouldBlock};

    match std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(1)) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), TimedOut | WouldBlock | ConnectionRefused | ConnectionReset) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_listener_sees_one_connection_and_a_closed_port_is_no_error() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        send(address).unwrap();
        listener.accept().unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        send(address).unwrap();
    }

    #[test]
    fn a_syn_that_cannot_be_sent_is_an_error() {
        // No TCP to a multicast address.
        assert!(send((Ipv4Addr::new(224, 0, 0, 1), 7000).into()).is_err());
    }
}
