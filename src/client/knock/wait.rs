//! Waiting until the port behind the knock accepts, and saying so to a person who watches.

use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::Reporter;
use crate::os::clock;
use spa_knock_core::knock::Steady;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long the first try waits. Each later one waits twice as long, so that short ones find a door that
/// has just opened, and long ones get through where the way is long.
const FIRST_TRY: Duration = Duration::from_millis(250);
/// For how long a try waits at most: the kernel sends the first packet again after 1 s and after 3 s.
const LONGEST_TRY: Duration = Duration::from_secs(4);
/// When a person is informed that another knock follows.
const NOTICE: Duration = Duration::from_secs(1);

/// A knock without an answer, which can be made again while the port does not accept.
pub(in crate::client) trait KnockAgain {
    /// When the next knock is due; none if there is nothing left to try.
    fn deadline(&self) -> Option<Steady>;
    /// What to print while the next knock is waited for; none if it is soon.
    fn notice(&self) -> Option<String>;
    /// Knocks once more.
    fn knock(&mut self) -> Result<(), ClientError>;
}

/// The first connection that one of `doors` accepts, tried in their order, for at most `timeout`.
pub(in crate::client) fn for_connection(
    doors: &[SocketAddr],
    timeout: Duration,
    again: Option<&mut (dyn KnockAgain + '_)>,
    report: &Reporter,
) -> Result<TcpStream, ClientError> {
    let start = clock::steady();
    let end = start.plus(timeout);
    let mut wait = PortWait { doors, end, patience: FIRST_TRY, again, noticed: false };
    let mut args = report.progress();
    loop {
        for door in doors {
            let now = clock::steady();
            args.say(|| waiting(*door, now.since(start)));
            if let Ok(stream) = TcpStream::connect_timeout(door, wait.patience_at(now)) {
                return Ok(stream);
            }
            if clock::steady() >= end {
                drop(args);
                return Err(never(doors, timeout));
            }
        }
        wait.patience = wait.patience.saturating_mul(2).min(LONGEST_TRY);
        sleep(PAUSE);
        // Also without a door to try.
        if clock::steady() >= end {
            drop(args);
            return Err(never(doors, timeout));
        }
        wait.knock_again(start, &mut args, report)?;
    }
}

/// How long the next try may take, and when to knock again.
struct PortWait<'a, 'k> {
    doors: &'a [SocketAddr],
    end: Steady,
    patience: Duration,
    again: Option<&'a mut (dyn KnockAgain + 'k)>,
    noticed: bool,
}

impl PortWait<'_, '_> {
    /// For how long a try that begins now waits: not beyond the end, nor beyond the next knock.
    fn patience_at(&self, now: Steady) -> Duration {
        let due = self.again.as_ref().and_then(|again| again.deadline());
        let left = due.map_or(self.end, |due| due.min(self.end)).since(now);
        // Zero would be no try at all.
        self.patience.min(left).max(PAUSE)
    }

    fn knock_again(
        &mut self,
        start: Steady,
        args: &mut crate::client::report::ProgressLine,
        report: &Reporter,
    ) -> Result<(), ClientError> {
        let Some(again) = self.again.as_mut() else { return Ok(()) };
        let Some(due) = again.deadline() else { return Ok(()) };
        let now = clock::steady();
        if now >= due {
            self.patience = FIRST_TRY;
            self.noticed = false;
            return again.knock();
        }
        if !self.noticed
            && due < self.end
            && now.since(start) >= NOTICE
            && let Some(notice) = again.notice()
        {
            let port = self.doors.first().map_or(0, SocketAddr::port);
            args.clear();
            report.note(&format!("tcp port {port} does not accept yet; {notice}"));
            self.noticed = true;
        }
        Ok(())
    }
}

fn waiting(door: SocketAddr, since: Duration) -> String {
    format!("{}: waiting for tcp port {} ({} s)", door.ip(), door.port(), since.as_secs())
}

fn never(doors: &[SocketAddr], timeout: Duration) -> ClientError {
    let addresses: Vec<_> = doors.iter().map(|door| door.ip().to_string()).collect();
    let reason = format!(
        "{}: knocked, but tcp port {} did not accept within {}",
        addresses.join(", "),
        doors.first().map_or(0, SocketAddr::port),
        humantime::format_duration(timeout)
    );
    ClientError::new(ExitCause::NotAccepting, reason)
        .hint("check that the service runs, that the action opens this port, and for which address")
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
        let doors = [SocketAddr::new(HERE, 1), SocketAddr::new(HERE, port)];
        let stream = for_connection(&doors, Duration::from_secs(20), None, &Reporter::PLAIN).unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
        opened.join().unwrap();
    }

    #[test]
    fn a_port_that_never_accepts_is_given_up() {
        // Below 1024: no test beside this one is given it.
        let port = 1;
        for doors in [&[SocketAddr::new(HERE, port)][..], &[]] {
            let start = clock::steady();
            let failure =
                for_connection(doors, Duration::from_millis(300), None, &Reporter::PLAIN).unwrap_err();
            assert_eq!(failure.cause(), ExitCause::NotAccepting);
            assert!(clock::steady().since(start) >= Duration::from_millis(300));
        }
    }
}
