//! Waiting for descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock;
use spa_knock_core::knock::Steady;

/// What an event loop waits for. The work itself is a method `run_due` of each type.
pub trait Polled {
    /// Adds the descriptors that wake the loop when readable.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>);

    /// When `run_due` has work next; `None` if only descriptors wake it.
    fn deadline(&self) -> Option<Steady>;
}

impl<P: Polled> Polled for Option<P> {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        if let Some(polled) = self {
            polled.fds(out);
        }
    }

    fn deadline(&self) -> Option<Steady> {
        self.as_ref().and_then(P::deadline)
    }
}

/// Waits until one of these has work to do, at most `limit`.
///
/// # Errors
/// When the system cannot wait for them.
pub fn wait(all: &[&dyn Polled], limit: Duration) -> io::Result<()> {
    let mut fds = Vec::new();
    all.iter().for_each(|polled| polled.fds(&mut fds));
    let due = all.iter().filter_map(|polled| polled.deadline()).min();
    let left = due.map_or(limit, |due| due.since(clock::steady()));
    readable(&fds, left.min(limit)).map(drop)
}

/// Waits until one of these descriptors can be read or has failed, at most `limit`. Returns for each whether it is
/// ready.
///
/// # Errors
/// When the system cannot wait for them.
pub fn readable(fds: &[BorrowedFd<'_>], limit: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // Rounded up, or the last millisecond of a deadline would be spent spinning.
    let ms = limit.as_millis().saturating_add(u128::from(!limit.subsec_nanos().is_multiple_of(1_000_000)));
    let timeout = u16::try_from(ms).map_or_else(|_| PollTimeout::from(u16::MAX), PollTimeout::from);
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(polled.iter().map(|fd| fd.any().unwrap_or(false)).collect()),
        Err(error) => Err(error.into()),
    }
}

/// Waits, at most `limit`, until `to` can be written or has failed; returns whether that is so.
#[must_use]
pub fn writable(to: &impl AsFd, limit: Duration) -> bool {
    let mut polled = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    let timeout = u16::try_from(limit.as_millis()).map_or(PollTimeout::MAX, PollTimeout::from);
    poll(&mut polled, timeout).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    struct Source(Option<Steady>, UnixStream);

    impl Polled for Source {
        fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
            out.push(self.1.as_fd());
        }

        fn deadline(&self) -> Option<Steady> {
            self.0
        }
    }

    #[test]
    fn a_wait_ends_with_the_first_of_descriptor_deadline_and_limit() {
        const SHORT: Duration = Duration::from_millis(30);
        const LONG: Duration = Duration::from_secs(60);
        let (quiet, _writer) = UnixStream::pair().unwrap();
        let (ready, closed) = UnixStream::pair().unwrap();
        drop(closed);
        let ready = Source(None, ready);
        let waits = |source: &Source, limit| {
            let begun = clock::steady();
            wait(&[source, &None::<Source>], limit).unwrap();
            clock::steady().since(begun)
        };
        let mut source = Source(None, quiet);
        assert!((SHORT..LONG).contains(&waits(&source, SHORT)), "the limit");
        source.0 = Some(clock::steady().plus(LONG));
        assert!((SHORT..LONG).contains(&waits(&source, SHORT)), "a later deadline changes nothing");
        source.0 = Some(clock::steady().plus(SHORT));
        assert!(waits(&source, LONG) < LONG, "the deadline");
        assert!(clock::steady() >= source.0.unwrap(), "not before it");
        assert!(waits(&ready, LONG) < LONG, "the descriptor");
    }
}
