//! Waiting for descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until one of them can be read (or has failed), at most `limit`; tells which.
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

/// Whether something can be written there within `limit`, or writing fails immediately.
#[must_use]
pub fn writable(to: &impl AsFd, limit: Duration) -> bool {
    let mut polled = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    let timeout = u16::try_from(limit.as_millis()).map_or(PollTimeout::MAX, PollTimeout::from);
    poll(&mut polled, timeout).is_ok_and(|ready| ready > 0)
}
