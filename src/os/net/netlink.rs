//! A netlink socket of the netfilter family. It stays open, so that a grant needs neither a new process nor a
//! connection setup.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, sendto,
    setsockopt, socket,
};

/// The socket.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens and binds a socket. The kernel chooses its port number.
    ///
    /// # Errors
    /// When the system has no netfilter netlink.
    pub fn open() -> io::Result<Self> {
        Self::open_in(0)
    }

    /// Opens a socket that receives a message for every change in nftables.
    ///
    /// # Errors
    /// When the system has no netfilter netlink, or does not permit it.
    pub fn listen_to_nftables() -> io::Result<Self> {
        /// NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h, as a bit.
        const GROUP: u32 = 1 << 6;
        Self::open_in(GROUP)
    }

    fn open_in(groups: u32) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self(fd))
    }

    /// The port number by which the kernel identifies this socket.
    ///
    /// # Errors
    /// When the system does not provide it.
    pub fn port(&self) -> io::Result<u32> {
        Ok(getsockname::<NetlinkAddr>(self.0.as_raw_fd())?.pid())
    }

    /// Sends messages to the kernel, which processes them before this returns. They are sent as one piece, limited only
    /// by the socket's send buffer (`net.core.wmem_default`, 208 KiB). If that is too small, it is enlarged to the size
    /// of the messages; beyond `net.core.wmem_max`, this requires CAP_NET_ADMIN.
    ///
    /// # Errors
    /// When the kernel refuses them; it has not processed any of them then.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        match self.send_once(messages) {
            Err(Errno::EMSGSIZE) => {
                // The kernel doubles the size, which leaves room for its overhead.
                let length = messages.len();
                setsockopt(&self.0, SndBufForce, &length)
                    .or_else(|_| setsockopt(&self.0, SndBuf, &length))?;
                Ok(self.send_once(messages)?)
            }
            sent => Ok(sent?),
        }
    }

    fn send_once(&self, messages: &[u8]) -> nix::Result<()> {
        sendto(self.0.as_raw_fd(), messages, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map(drop)
    }

    /// Receives one datagram of messages, if there is one.
    ///
    /// # Errors
    /// When the socket fails, or messages were lost for lack of room.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
