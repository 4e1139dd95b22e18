//! Signals as flags and a descriptor that becomes readable.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use super::orphans;
use crate::os::poll::Polled;
use spa_knock_core::knock::Steady;

/// The signals that the daemon handles.
pub struct Signals {
    stop: Arc<AtomicBool>,
    interrupt: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    child_exit: Arc<AtomicBool>,
    wake: UnixStream,
}

impl Signals {
    /// Starts handling signals.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> io::Result<Self> {
        let (wake, write) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let signals = Self {
            stop: Arc::default(),
            interrupt: Arc::default(),
            reload: Arc::default(),
            child_exit: Arc::default(),
            wake,
        };
        let flags = [
            (SIGTERM, &signals.stop),
            (SIGINT, &signals.interrupt),
            (SIGINT, &signals.stop),
            (SIGHUP, &signals.reload),
            // Its owner checks it; an orphan has none.
            (SIGCHLD, &signals.child_exit),
        ];
        for (signal, flag) in flags {
            // The flag is set before the byte is written, so that the woken loop sees it.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(signals)
    }

    /// Whether SIGTERM or SIGINT has been received.
    #[must_use]
    pub fn stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether SIGINT has been received.
    #[must_use]
    pub fn interrupt(&self) -> bool {
        self.interrupt.load(Ordering::SeqCst)
    }

    /// Whether SIGHUP has been received since the last call.
    #[must_use]
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::SeqCst)
    }

    /// Drains the descriptor, and waits for orphans if a child has exited.
    pub fn drain(&mut self) {
        let mut bytes = [0; 64];
        while self.wake.read(&mut bytes).is_ok_and(|n| n > 0) {}
        if self.child_exit.swap(false, Ordering::SeqCst) {
            orphans::reap();
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Polled for Signals {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.push(self.as_fd());
    }

    fn deadline(&self) -> Option<Steady> {
        None
    }
}

/// Ignores the signals of the terminal and the service manager, in a child that exits when its channel is closed.
///
/// # Errors
/// When the system refuses.
pub fn ignore_all() -> io::Result<()> {
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    Ok(())
}
