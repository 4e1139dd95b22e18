//! The other end of the control socket: how a command asks the daemon.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::listener::ANSWER_TIME;
use super::{Request, Response};
use crate::console::AdminError;
use crate::os::files;

/// The longest answer: every set of grants full, some 150 bytes each.
const ANSWER_MAX: u64 = 256 << 20;

/// What came of asking a daemon.
pub(crate) enum AskResult {
    /// It answered.
    Answer(Response),
    /// None runs, or none that uses this socket.
    Nobody,
}

/// Asks the daemon at `path`.
///
/// # Errors
/// When there is one, but it cannot be asked or does not answer.
pub(crate) fn ask(path: &Path, request: &Request) -> Result<AskResult, AdminError> {
    ask_within(path, request, ANSWER_TIME)
}

pub(super) fn ask_within(
    path: &Path,
    request: &Request,
    patience: Duration,
) -> Result<AskResult, AdminError> {
    let failure = |error: &std::io::Error| {
        let reason = match error.kind() {
            ErrorKind::PermissionDenied => {
                format!("{}\nhint: only root may ask a daemon that root runs", files::io_error_text(error))
            }
            ErrorKind::WouldBlock => format!(
                "the daemon has not answered within {}; if it has begun, it may still do it\n\
                 hint: it hangs, or waits for a disk or a program; systemctl restart spa-knockd ends that",
                humantime::format_duration(patience)
            ),
            _ => files::io_error_text(error),
        };
        AdminError::run(format_args!("control socket {}: {reason}", path.display()))
    };
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(AskResult::Nobody);
        }
        Err(error) => return Err(failure(&error)),
    };
    let line = serde_json::to_string(request).map_err(AdminError::run)?;
    let mut answer = String::new();
    stream
        .set_read_timeout(Some(patience))
        .and_then(|()| stream.set_write_timeout(Some(patience)))
        .and_then(|()| stream.write_all(format!("{line}\n").as_bytes()))
        .and_then(|()| stream.take(ANSWER_MAX).read_to_string(&mut answer))
        .map_err(|error| failure(&error))?;
    serde_json::from_str(answer.trim_end()).map(AskResult::Answer).map_err(|_| {
        AdminError::run(format_args!(
            "control socket {}: the daemon did not answer\nhint: its log says why",
            path.display()
        ))
    })
}
