//! The sockets of the HTTP server: TCP or Unix.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use spa_knock_core::knock::Prefix;

/// A listening socket.
pub(super) enum Listener {
    Tcp(TcpListener, Peers),
    Unix(UnixListener),
}

/// Whose TCP connections are served. Those of others are closed without a byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::daemon) enum Peers {
    /// Everyone who can reach the address.
    All,
    /// Only these addresses.
    From(Vec<Prefix>),
}

/// A connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Accepts a connection; none if its peer is not served, whose connection is closed.
    pub(super) fn accept(&self) -> std::io::Result<Option<Stream>> {
        match self {
            Self::Tcp(listener, peers) => {
                let (stream, peer) = listener.accept()?;
                if !peers.contain(peer.ip()) {
                    return Ok(None);
                }
                stream.set_nonblocking(true).map(|()| Some(Stream::Tcp(stream)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true).map(|()| Some(Stream::Unix(stream)))
            }
        }
    }
}

impl Peers {
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            // A socket for both IP versions reports IPv4 addresses as IPv6 (RFC 4291, section 2.5.5.2).
            Self::From(prefixes) => prefixes.iter().any(|prefix| prefix.contains(address.to_canonical())),
        }
    }
}

impl Stream {
    /// Ends the connection in the direction of the client.
    pub(super) fn end(&self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
