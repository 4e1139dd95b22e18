//! The socket on the knock port. Replies leave from the address that the knock was sent to, for IPv4 and IPv6. Where
//! capturing is not permitted, it also receives knocks.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, Ipv6V6Only, RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn,
    SockaddrIn6, SockaddrStorage, bind, getsockname, getsockopt, recvmsg, sendmsg, setsockopt, socket,
};

use spa_knock_core::knock::{canonical, mapped};

/// Size of the receive buffer in bytes, which the kernel doubles for its own needs: over 3,000 knocks.
const BUFFER: usize = 2 << 20;

/// The socket, bound to the knock port on every address.
pub struct UdpPort {
    fd: OwnedFd,
    family: UdpFamily,
    /// For the packet info of a received datagram.
    control: Vec<u8>,
}

/// What happens to datagrams that arrive at the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveMode {
    /// They are received.
    Received,
    /// They are captured elsewhere. The socket only keeps the host from sending "port unreachable".
    Unread,
}

/// A received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedDatagram {
    /// Its length in the buffer.
    pub length: usize,
    /// The sender's address.
    pub source: SocketAddr,
    /// Our address that it was sent to.
    pub destination: IpAddr,
    /// The index of the receiving interface.
    pub interface: u32,
}

/// One socket serves both IP versions, unless the host has no IPv6 at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UdpFamily {
    Both,
    V4,
}

impl UdpPort {
    /// Binds the port.
    ///
    /// # Errors
    /// When the port is taken or the system refuses.
    pub fn bind(port: u16, incoming: ReceiveMode) -> io::Result<Self> {
        let open = |family| {
            socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
        };
        let (fd, family) = match open(AddressFamily::Inet6) {
            Err(Errno::EAFNOSUPPORT) => (open(AddressFamily::Inet)?, UdpFamily::V4),
            fd => (fd?, UdpFamily::Both),
        };
        match family {
            UdpFamily::Both => {
                setsockopt(&fd, Ipv6V6Only, &false)?;
                setsockopt(&fd, Ipv6RecvPacketInfo, &true)?;
                bind(
                    fd.as_raw_fd(),
                    &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)),
                )?;
            }
            UdpFamily::V4 => {
                setsockopt(&fd, Ipv4PacketInfo, &true)?;
                bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
            }
        }
        match incoming {
            // The kernel's minimum: queued datagrams are never read.
            ReceiveMode::Unread => setsockopt(&fd, RcvBuf, &0)?,
            // Without the right to exceed the system's limit, as much as that permits.
            ReceiveMode::Received => {
                setsockopt(&fd, RcvBufForce, &BUFFER).or_else(|_| setsockopt(&fd, RcvBuf, &BUFFER))?;
            }
        }
        Ok(Self::of(fd, family))
    }

    fn of(fd: OwnedFd, family: UdpFamily) -> Self {
        Self { fd, family, control: nix::cmsg_space!(in6_pktinfo, in_pktinfo) }
    }

    /// The socket that the parent process passed as standard output.
    ///
    /// # Errors
    /// When standard output is not a socket.
    pub fn from_stdout() -> io::Result<Self> {
        let fd = io::stdout().as_fd().try_clone_to_owned()?;
        let own: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        let family = if own.as_sockaddr_in6().is_some() { UdpFamily::Both } else { UdpFamily::V4 };
        Ok(Self::of(fd, family))
    }

    /// Whether the receive buffer has its full size.
    #[must_use]
    pub fn is_large(&self) -> bool {
        getsockopt(&self.fd, RcvBuf).is_ok_and(|size| size >= BUFFER)
    }

    /// A second handle to the same socket, for another process of ours.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Sends a datagram from the address `from`, over the interface with this index if the destination requires one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn send(&self, bytes: &[u8], from: IpAddr, to: SocketAddr, interface: u32) -> io::Result<()> {
        let data = [IoSlice::new(bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match self.family {
            UdpFamily::Both => {
                let address = SockaddrIn6::from(with_scope(to, interface));
                let octets = mapped(from).octets();
                let local = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: octets }, ipi6_ifindex: 0 };
                let control = [ControlMessage::Ipv6PacketInfo(&local)];
                sendmsg(self.fd.as_raw_fd(), &data, &control, flags, Some(&address))?;
            }
            UdpFamily::V4 => {
                let (IpAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
                    return Err(Errno::EAFNOSUPPORT.into());
                };
                let local = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                    ipi_addr: in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&local)];
                sendmsg(self.fd.as_raw_fd(), &data, &control, flags, Some(&SockaddrIn::from(to)))?;
            }
        }
        Ok(())
    }

    /// Receives one datagram, if there is one. A datagram longer than the buffer is truncated.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn try_recv(&mut self, buffer: &mut [u8]) -> io::Result<Option<ReceivedDatagram>> {
        let Self { fd, control, .. } = self;
        let mut data = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut data, Some(control), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(source) = message.address.as_ref().and_then(socket_address) else { return Ok(None) };
        let local = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some((Ipv6Addr::from(info.ipi6_addr.s6_addr).into(), info.ipi6_ifindex))
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let address = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                Some((address.into(), u32::try_from(info.ipi_ifindex).unwrap_or(0)))
            }
            _ => None,
        });
        let Some((destination, interface)) = local else { return Ok(None) };
        Ok(Some(ReceivedDatagram {
            length: message.bytes,
            source,
            destination: canonical(destination),
            interface,
        }))
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn with_scope(to: SocketAddr, interface: u32) -> SocketAddrV6 {
    let ip = mapped(to.ip());
    // Only link-local addresses need a scope.
    let scope = if ip.is_unicast_link_local() { interface } else { 0 };
    SocketAddrV6::new(ip, to.port(), 0, scope)
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|a| SocketAddr::new(a.ip().into(), a.port()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::new(canonical(a.ip().into()), a.port())))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    #[test]
    fn replies_leave_from_the_address_that_received_the_knock() {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = UdpPort::bind(port, ReceiveMode::Received).unwrap();
        for (own, knocked) in [("127.0.0.1:0", "127.0.0.5"), ("[::1]:0", "::1")] {
            let client = UdpSocket::bind(own).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let knocked: IpAddr = knocked.parse().unwrap();
            client.send_to(b"knock", (knocked, port)).unwrap();
            let mut buffer = [0; 64];
            let arrival = server.try_recv(&mut buffer).unwrap().expect("on loopback, it arrives immediately");
            assert_eq!(&buffer[..arrival.length], b"knock");
            assert_eq!((arrival.source, arrival.destination), (client.local_addr().unwrap(), knocked));
            server.send(b"reply", arrival.destination, arrival.source, arrival.interface).unwrap();
            let (length, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (b"reply".as_slice(), SocketAddr::new(knocked, port)));
        }
        assert_eq!(server.try_recv(&mut [0; 8]).unwrap(), None);
        assert!(UdpPort::bind(port, ReceiveMode::Unread).is_err(), "the port is taken");
    }
}
