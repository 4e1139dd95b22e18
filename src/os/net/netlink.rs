//! A netlink socket of the netfilter family, held open so that no process and no set-up stands between a knock
//! and its grant.

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
    /// Opens and binds it; the kernel chooses its port.
    ///
    /// # Errors
    /// When the system has no netfilter netlink.
    pub fn open() -> io::Result<Self> {
        Self::open_in(0)
    }

    /// One that hears what anybody changes in nftables.
    ///
    /// # Errors
    /// When the system has no netfilter netlink, or we may not.
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

    /// The number by which the kernel names this socket to others.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn port(&self) -> io::Result<u32> {
        Ok(getsockname::<NetlinkAddr>(self.0.as_raw_fd())?.pid())
    }

    /// Hands messages to the kernel, which works on them before this returns: all in one piece, for which the socket's
    /// send buffer (`net.core.wmem_default`, 208 KiB) is the only bound. Where that is too small it is made as large as
    /// they are; beyond `net.core.wmem_max` that takes CAP_NET_ADMIN.
    ///
    /// # Errors
    /// When the kernel does not take them; it has seen none of them then.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        match self.send_once(messages) {
            Err(Errno::EMSGSIZE) => {
                // The kernel doubles it, which leaves room for what it counts besides.
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

    /// Takes one datagram of answers, if there is one.
    ///
    /// # Errors
    /// When the socket fails, or answers were lost for want of room.
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
