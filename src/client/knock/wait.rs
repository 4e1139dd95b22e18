//! Waits until a port accepts connections after the knock, and shows the progress.

use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::Reporter;
use crate::os::clock;
use spa_knock_core::knock::Steady;

/// Time between two rounds of connection attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Timeout of the first attempt. Each round waits twice as long as the one before: short attempts find a port that has
/// just opened, long ones succeed if the round trip is long.
const FIRST_ATTEMPT: Duration = Duration::from_millis(250);
/// Maximum timeout of an attempt: the kernel resends the first packet after 1 s and after 3 s.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(4);
/// When to announce that another knock follows.
const NOTICE: Duration = Duration::from_secs(1);

/// A knock without a reply that can be repeated while the port does not accept connections.
pub(in crate::client) trait KnockAgain {
    /// When the next knock is due; none if there is nothing left to try.
    fn deadline(&self) -> Option<Steady>;
    /// What to print while waiting for the next knock; none if it follows soon.
    fn notice(&self) -> Option<String>;
    /// Knocks once more.
    fn knock(&mut self) -> Result<(), ClientError>;
}

/// Tries to connect to `ports`, in this order and repeatedly, for at most `timeout`; returns the first connection that
/// succeeds.
///
/// # Errors
/// If none of them accepts in time.
pub(in crate::client) fn for_connection(
    ports: &[SocketAddr],
    timeout: Duration,
    again: Option<&mut (dyn KnockAgain + '_)>,
    report: &Reporter,
) -> Result<TcpStream, ClientError> {
    let start = clock::steady();
    let end = start.plus(timeout);
    let mut wait = PortWait { ports, end, patience: FIRST_ATTEMPT, again, noticed: false };
    let mut progress = report.progress();
    loop {
        for address in ports {
            let now = clock::steady();
            progress.show(|| waiting(*address, now.since(start)));
            if let Ok(stream) = TcpStream::connect_timeout(address, wait.patience_at(now)) {
                return Ok(stream);
            }
            if clock::steady() >= end {
                drop(progress);
                return Err(not_accepting(ports, timeout));
            }
        }
        wait.patience = wait.patience.saturating_mul(2).min(LONGEST_ATTEMPT);
        sleep(PAUSE);
        // Also if there is no address to try.
        if clock::steady() >= end {
            drop(progress);
            return Err(not_accepting(ports, timeout));
        }
        wait.knock_again(start, &mut progress, report)?;
    }
}

/// How long the next attempt may take, and when to knock again.
struct PortWait<'a, 'k> {
    ports: &'a [SocketAddr],
    end: Steady,
    patience: Duration,
    again: Option<&'a mut (dyn KnockAgain + 'k)>,
    noticed: bool,
}

impl PortWait<'_, '_> {
    /// Timeout of an attempt that begins now: it ends before the deadline and before the next knock.
    fn patience_at(&self, now: Steady) -> Duration {
        let due = self.again.as_ref().and_then(|again| again.deadline());
        let left = due.map_or(self.end, |due| due.min(self.end)).since(now);
        // A timeout of zero is an error.
        self.patience.min(left).max(PAUSE)
    }

    fn knock_again(
        &mut self,
        start: Steady,
        progress: &mut crate::client::report::ProgressLine,
        report: &Reporter,
    ) -> Result<(), ClientError> {
        let Some(again) = self.again.as_mut() else { return Ok(()) };
        let Some(due) = again.deadline() else { return Ok(()) };
        let now = clock::steady();
        if now >= due {
            self.patience = FIRST_ATTEMPT;
            self.noticed = false;
            return again.knock();
        }
        if !self.noticed
            && due < self.end
            && now.since(start) >= NOTICE
            && let Some(notice) = again.notice()
        {
            let port = self.ports.first().map_or(0, SocketAddr::port);
            progress.clear();
            report.note(&format!("tcp port {port} does not accept connections yet; {notice}"));
            self.noticed = true;
        }
        Ok(())
    }
}

/// The text of the status line.
pub(in crate::client) fn waiting(address: SocketAddr, since: Duration) -> String {
    format!("{}: waiting for tcp port {} ({} s)", address.ip(), address.port(), since.as_secs())
}

/// No port accepted a connection in time.
pub(in crate::client) fn not_accepting(ports: &[SocketAddr], timeout: Duration) -> ClientError {
    let addresses: Vec<_> = ports.iter().map(|address| address.ip().to_string()).collect();
    let reason = format!(
        "{}: knocked, but tcp port {} did not accept a connection within {}",
        addresses.join(", "),
        ports.first().map_or(0, SocketAddr::port),
        humantime::format_duration(timeout)
    );
    ClientError::new(ExitCause::NotAccepting, reason)
        .hint("check that the service is running and that the action opens this port; run `spa-knockd check` on the server: another \
             firewall may drop it")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn the_wait_ends_when_the_port_accepts() {
        let port = TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port();
        let opened = thread::spawn(move || {
            sleep(Duration::from_millis(250));
            TcpListener::bind((HERE, port)).unwrap()
        });
        let ports = [SocketAddr::new(HERE, 1), SocketAddr::new(HERE, port)];
        let stream = for_connection(&ports, Duration::from_secs(20), None, &Reporter::PLAIN).unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
        opened.join().unwrap();
    }

    #[test]
    fn waiting_for_a_port_that_never_accepts_fails_after_the_timeout() {
        // Below 1024: the kernel assigns it to no other test.
        let port = 1;
        for ports in [&[SocketAddr::new(HERE, port)][..], &[]] {
            let start = clock::steady();
            let failure =
                for_connection(ports, Duration::from_millis(300), None, &Reporter::PLAIN).unwrap_err();
            assert_eq!(failure.cause(), ExitCause::NotAccepting);
            assert!(clock::steady().since(start) >= Duration::from_millis(300));
        }
    }
}
