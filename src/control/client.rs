//! The commands' end of the control socket: sends a request to the daemon and reads its response.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::listener::RESPONSE_TIME;
use super::{Request, Response};
use crate::console::AdminError;
use crate::os::files;

/// The longest response, in bytes: all grant sets full, about 150 bytes per grant.
const RESPONSE_MAX: u64 = 256 << 20;

/// The result of a request to the daemon.
pub(crate) enum AskResult {
    /// The daemon responded.
    Reply(Response),
    /// No daemon runs, or none that uses this socket.
    NoDaemon,
}

/// Sends a request to the daemon at `path`.
///
/// # Errors
/// When a daemon listens, but cannot be reached or does not respond in time.
pub(crate) fn ask(path: &Path, request: &Request) -> Result<AskResult, AdminError> {
    ask_within(path, request, RESPONSE_TIME)
}

/// Sends a request and waits this long for the response.
///
/// # Errors
/// As [`ask`].
pub(crate) fn ask_within(
    path: &Path,
    request: &Request,
    patience: Duration,
) -> Result<AskResult, AdminError> {
    let failure = |error: &std::io::Error| {
        let reason = match error.kind() {
            ErrorKind::PermissionDenied => {
                format!("{}\nhint: run this as root, like the daemon", files::io_error_text(error))
            }
            ErrorKind::WouldBlock => format!(
                "no response from the daemon within {}; it may still carry out the request\n\
                 hint: if it hangs, for example on a disk or a program, restart it: systemctl restart spa-knockd",
                humantime::format_duration(patience)
            ),
            _ => files::io_error_text(error),
        };
        AdminError::run(format_args!("control socket {}: {reason}", path.display()))
    };
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(AskResult::NoDaemon);
        }
        Err(error) => return Err(failure(&error)),
    };
    let line = serde_json::to_string(request).map_err(AdminError::run)?;
    let mut response = String::new();
    stream
        .set_read_timeout(Some(patience))
        .and_then(|()| stream.set_write_timeout(Some(patience)))
        .and_then(|()| stream.write_all(format!("{line}\n").as_bytes()))
        .and_then(|()| stream.take(RESPONSE_MAX).read_to_string(&mut response))
        .map_err(|error| failure(&error))?;
    serde_json::from_str(response.trim_end()).map(AskResult::Reply).map_err(|_| {
        AdminError::run(format_args!(
            "control socket {}: no valid response from the daemon\nhint: see the daemon's log",
            path.display()
        ))
    })
}
