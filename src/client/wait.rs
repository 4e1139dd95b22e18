//! Waiting until the port behind the knock accepts, and saying so to a person who watches.

use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use super::failure::{Cause, Failure};
use super::report::Report;
use crate::os::clock;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long the first try waits. Each later one waits twice as long, so that short ones find a door that
/// has just opened, and long ones get through where the way is long.
const FIRST_TRY: Duration = Duration::from_millis(250);

/// The first connection that one of `doors` accepts, tried in their order, for at most `timeout`.
pub(super) fn for_connection(
    doors: &[SocketAddr],
    timeout: Duration,
    report: &Report,
) -> Result<TcpStream, Failure> {
    let start = clock::steady();
    let end = start.saturating_add(timeout);
    let mut patience = FIRST_TRY;
    let mut said = report.progress();
    loop {
        for door in doors {
            let now = clock::steady();
            if now >= end {
                drop(said);
                return Err(never(doors, timeout));
            }
            said.say(|| waiting(*door, now.saturating_sub(start)));
            if let Ok(stream) = TcpStream::connect_timeout(door, patience.min(end.saturating_sub(now))) {
                return Ok(stream);
            }
        }
        patience = patience.saturating_mul(2);
        sleep(PAUSE);
        // Also without a door to try.
        if clock::steady() >= end {
            drop(said);
            return Err(never(doors, timeout));
        }
    }
}

fn waiting(door: SocketAddr, since: Duration) -> String {
    format!("{}: waiting for tcp port {} ({} s)", door.ip(), door.port(), since.as_secs())
}

fn never(doors: &[SocketAddr], timeout: Duration) -> Failure {
    let addresses: Vec<_> = doors.iter().map(|door| door.ip().to_string()).collect();
    let reason = format!(
        "{}: knocked, but tcp port {} did not accept within {}",
        addresses.join(", "),
        doors.first().map_or(0, SocketAddr::port),
        humantime::format_duration(timeout)
    );
    Failure::new(Cause::NotAccepting, reason)
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
        let stream = for_connection(&doors, Duration::from_secs(20), &Report::PLAIN).unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
        opened.join().unwrap();
    }

    #[test]
    fn a_port_that_never_accepts_is_given_up() {
        // Below 1024: no test beside this one is given it.
        let port = 1;
        for doors in [&[SocketAddr::new(HERE, port)][..], &[]] {
            let start = clock::steady();
            let failure = for_connection(doors, Duration::from_millis(300), &Report::PLAIN).unwrap_err();
            assert_eq!(failure.cause(), Cause::NotAccepting);
            assert!(clock::steady() - start >= Duration::from_millis(300));
        }
    }
}
