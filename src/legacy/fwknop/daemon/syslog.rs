//! Sends the log of a daemon in the background to syslog.

use std::io::{BufRead, BufReader, PipeReader};
use std::os::unix::net::UnixDatagram;

use crate::os::clock;

const SYSLOG: &str = "/dev/log";
/// LOG_DAEMON and LOG_INFO (RFC 3164).
const PRIORITY: u8 = 30;

/// Redirects standard error, to which the log is written, to syslog under this identity.
///
/// # Errors
/// If the system refuses.
pub(super) fn redirect_log(identity: &str) -> std::io::Result<()> {
    let (reader, writer) = std::io::pipe()?;
    nix::unistd::dup2_stderr(&writer)?;
    let identity = identity.to_owned();
    std::thread::Builder::new().name("syslog".to_owned()).spawn(move || forward(reader, &identity))?;
    Ok(())
}

/// Forwards lines until the process exits. Lines that syslog does not accept are lost.
fn forward(reader: PipeReader, identity: &str) {
    let mut lines = BufReader::new(reader);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line);
        // The lines begin with the program's name.
        let text = text.trim_end().trim_start_matches("fwknopd: ").to_owned();
        let stamp = clock::local(clock::wall(), "%b %e %H:%M:%S");
        let datagram = format!("<{PRIORITY}>{stamp} {identity}: {text}");
        let send = |socket: UnixDatagram| socket.send_to(datagram.as_bytes(), SYSLOG);
        let _ = UnixDatagram::unbound().and_then(send);
        line.clear();
    }
}
