//! Telling the service manager how we are: sd_notify(3), a datagram to the socket that it names.

use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::poll::Polled;
use super::{clock, env};
use spa_knock_core::knock::Steady;

/// Signs of life are no more frequent than this, however busy we are.
const SIGNS_APART: Duration = Duration::from_secs(1);

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// Started.
    Ready,
    /// The loop still turns.
    Alive,
    /// About to end.
    Stopping,
}

/// Tells the service manager, if there is one. It is no error that it does not hear us.
pub fn send(state: ServiceState) {
    if let Some(manager) = env::text("NOTIFY_SOCKET").and_then(|name| address(&name)) {
        send_to(&manager, state);
    }
}

/// The signs of life that a service manager waits for, if it does: sd_watchdog_enabled(3).
#[derive(Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// Half of what it waits at most; none = it does not.
    every: Option<Duration>,
    /// When the last sign was given; at first, when this was made.
    last: Steady,
}

impl Watchdog {
    /// What the service manager asked of this very process.
    #[must_use]
    pub fn asked() -> Self {
        let (limit, process) = (env::text("WATCHDOG_USEC"), env::text("WATCHDOG_PID"));
        Self::of(limit.as_deref(), process.as_deref(), std::process::id(), clock::steady())
    }

    fn of(limit: Option<&str>, process: Option<&str>, us: u32, now: Steady) -> Self {
        let meant = process.is_none_or(|process| process.parse() == Ok(us));
        let limit: Option<u64> = limit.filter(|_| meant).and_then(|limit| limit.parse().ok());
        let every = limit.filter(|&limit| limit > 0).map(|limit| Duration::from_micros(limit.div_ceil(2)));
        Self { every, last: now }
    }

    /// Gives a sign of life, unless the last one is fresh.
    pub fn run_due(&mut self, now: Steady) {
        if self.is_stale(now) {
            send(ServiceState::Alive);
            self.last = now;
        }
    }

    fn is_stale(&self, now: Steady) -> bool {
        self.every.is_some_and(|every| now.since(self.last) >= every.min(SIGNS_APART))
    }
}

impl Polled for Watchdog {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    /// When the next sign is due at the latest.
    fn deadline(&self) -> Option<Steady> {
        self.every.map(|every| self.last.plus(every))
    }
}

fn send_to(manager: &SocketAddr, state: ServiceState) {
    let text = match state {
        ServiceState::Ready => "READY=1",
        ServiceState::Alive => "WATCHDOG=1",
        ServiceState::Stopping => "STOPPING=1",
    };
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to_addr(text.as_bytes(), manager);
    }
}

/// A path, or a name in the abstract namespace behind an `@`.
fn address(name: &str) -> Option<SocketAddr> {
    match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name).ok(),
        None => SocketAddr::from_pathname(name).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(ms: u64) -> Steady {
        Steady::from_duration(Duration::from_millis(ms))
    }

    #[test]
    fn a_manager_hears_each_state_by_path_and_by_abstract_name() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("notify");
        for name in [path.to_str().unwrap().to_owned(), format!("@spa-knock-test-{}", std::process::id())] {
            let manager = address(&name).unwrap();
            let supervisor = UnixDatagram::bind_addr(&manager).unwrap();
            for (state, text) in [
                (ServiceState::Ready, "READY=1"),
                (ServiceState::Alive, "WATCHDOG=1"),
                (ServiceState::Stopping, "STOPPING=1"),
            ] {
                send_to(&manager, state);
                let mut heard = [0; 32];
                let length = supervisor.recv(&mut heard).unwrap();
                assert_eq!(&heard[..length], text.as_bytes(), "{name}");
            }
        }
    }

    #[test]
    fn signs_of_life_are_asked_of_this_process_with_a_limit_above_zero() {
        let half = |ms| Some(Duration::from_millis(ms));
        for (limit, process, every) in [
            (Some("3000000"), None, half(1_500)),
            (Some("3000000"), Some("7"), half(1_500)),
            (Some("3000000"), Some("8"), None),
            (Some("3000000"), Some("x"), None),
            (Some("0"), None, None),
            (Some("-1"), None, None),
            (None, None, None),
            (None, Some("7"), None),
        ] {
            assert_eq!(Watchdog::of(limit, process, 7, at(0)).every, every, "{limit:?} {process:?}");
        }
    }

    #[test]
    fn a_sign_is_due_by_half_of_the_limit_and_given_at_most_once_a_second() {
        let seconds = |seconds: u64| at(seconds * 1_000);
        let mut watchdog = Watchdog::of(Some("60000000"), None, 7, at(0));
        watchdog.run_due(seconds(100));
        assert_eq!(watchdog.deadline(), Some(seconds(130)));
        assert_eq!((watchdog.is_stale(at(100_999)), watchdog.is_stale(seconds(101))), (false, true));
        let hasty = Watchdog::of(Some("200000"), None, 7, seconds(100));
        assert!(hasty.is_stale(at(100_100)), "half of its limit is less than a second");
        let silent = Watchdog::of(None, None, 7, at(0));
        assert_eq!((silent.deadline(), silent.is_stale(seconds(100))), (None, false));
    }
}
