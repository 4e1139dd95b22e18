//! `ENABLE_TCP_SERVER`: accepts connections, so that clients send their packet, and closes them. The watcher captures the
//! packet; nothing is read here.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use super::allowance::Allowance;
use crate::os::poll::Polled;
use spa_knock_core::knock::Steady;

/// Connections per second, and in a burst. More of them wait, and then the kernel refuses new ones.
const CONNECTIONS: u32 = 200;
const BURST: u32 = 100;

/// A port that accepts connections.
pub(super) struct AcceptingPort {
    listener: TcpListener,
    connections: Allowance,
    /// Until when no connection is accepted.
    pause: Option<Steady>,
}

impl AcceptingPort {
    /// Listens on a port, over both IP versions where the host has them.
    ///
    /// # Errors
    /// When the port is in use, or the system refuses.
    pub(super) fn open(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connections: Allowance::new(BURST, CONNECTIONS), pause: None })
    }

    /// Accepts and closes the connections that wait.
    pub(super) fn run_due(&mut self, now: Steady) {
        if self.pause.is_some_and(|end| end > now) {
            return;
        }
        self.pause = None;
        while self.connections.take(1, now) {
            if self.listener.accept().is_err() {
                return;
            }
        }
        self.pause = Some(now.plus(std::time::Duration::from_millis(50)));
    }
}

impl Polled for AcceptingPort {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        if self.pause.is_none() {
            out.push(self.listener.as_fd());
        }
    }

    fn deadline(&self) -> Option<Steady> {
        self.pause
    }
}
