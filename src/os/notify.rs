//! Reports the daemon's state to the service manager: sd_notify(3), a datagram to the socket that it names.

use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::poll::Polled;
use super::{clock, env};
use spa_knock_core::knock::Steady;

/// Minimum time between two watchdog notifications, however busy the event loop is.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A state to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// Started.
    Ready,
    /// The event loop is running.
    Alive,
    /// About to exit.
    Stopping,
}

/// Reports the state to the service manager, if there is one. Failures are ignored.
pub fn send(state: ServiceState) {
    if let Some(manager) = env::text("NOTIFY_SOCKET").and_then(|name| address(&name)) {
        send_to(&manager, state);
    }
}

/// The watchdog of the service manager, if it is enabled: sd_watchdog_enabled(3).
#[derive(Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// Half of the service manager's limit; `None` if the watchdog is off.
    every: Option<Duration>,
    /// When the last notification was sent; at first, when this value was created.
    last: Steady,
}

impl Watchdog {
    #[must_use]
    /// The watchdog settings for this process, from the environment.
    pub fn from_env() -> Self {
        let (limit, process) = (env::text("WATCHDOG_USEC"), env::text("WATCHDOG_PID"));
        Self::of(limit.as_deref(), process.as_deref(), std::process::id(), clock::steady())
    }

    fn of(limit: Option<&str>, process: Option<&str>, own_pid: u32, now: Steady) -> Self {
        let is_for_us = process.is_none_or(|process| process.parse() == Ok(own_pid));
        let limit: Option<u64> = limit.filter(|_| is_for_us).and_then(|limit| limit.parse().ok());
        let every = limit.filter(|&limit| limit > 0).map(|limit| Duration::from_micros(limit.div_ceil(2)));
        Self { every, last: now }
    }

    /// Sends a notification, unless the last one is recent.
    pub fn run_due(&mut self, now: Steady) {
        if self.is_stale(now) {
            send(ServiceState::Alive);
            self.last = now;
        }
    }

    fn is_stale(&self, now: Steady) -> bool {
        self.every.is_some_and(|every| now.since(self.last) >= every.min(INTERVAL_MIN))
    }
}

impl Polled for Watchdog {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    /// The latest time for the next notification.
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

/// Parses a path, or a name in the abstract namespace after an `@`.
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
    fn a_manager_receives_each_state_by_path_and_by_abstract_name() {
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
                let mut message = [0; 32];
                let length = supervisor.recv(&mut message).unwrap();
                assert_eq!(&message[..length], text.as_bytes(), "{name}");
            }
        }
    }

    #[test]
    fn the_watchdog_is_on_for_this_process_with_a_limit_above_zero() {
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
    fn a_notification_is_due_after_half_of_the_limit_and_sent_at_most_once_a_second() {
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
