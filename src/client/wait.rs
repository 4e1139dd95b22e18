//! Waiting until the port behind the knock accepts.

use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use super::failure::{Cause, Failure};
use crate::os::clock;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long the first try waits. Each later one waits twice as long, so that short ones find a door that
/// has just opened, and long ones get through where the way is long.
const FIRST_TRY: Duration = Duration::from_millis(250);

/// Waits until TCP port `door` accepts a connection, for at most `timeout`.
pub(super) fn until_accepting(door: SocketAddr, timeout: Duration) -> Result<(), Failure> {
    let end = clock::steady().saturating_add(timeout);
    let mut patience = FIRST_TRY;
    loop {
        let left = end.saturating_sub(clock::steady());
        if left.is_zero() {
            return Err(never(door, timeout));
        }
        if TcpStream::connect_timeout(&door, patience.min(left)).is_ok() {
            return Ok(());
        }
        patience = patience.saturating_mul(2);
        sleep(PAUSE.min(end.saturating_sub(clock::steady())));
    }
}

fn never(door: SocketAddr, timeout: Duration) -> Failure {
    let reason = format!(
        "{}: knocked, but tcp port {} did not accept within {}",
        door.ip(),
        door.port(),
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
        assert!(until_accepting(SocketAddr::new(HERE, port), Duration::from_secs(20)).is_ok());
        opened.join().unwrap();
    }

    #[test]
    fn a_port_that_never_accepts_is_given_up() {
        // Below 1024: no test beside this one is given it.
        let port = 1;
        let start = clock::steady();
        let failure = until_accepting(SocketAddr::new(HERE, port), Duration::from_millis(300)).unwrap_err();
        assert_eq!(failure.cause(), Cause::NotAccepting);
        assert!(clock::steady() - start >= Duration::from_millis(300));
    }
}
