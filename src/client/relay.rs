//! Joins two streams in both directions. Each direction ends on its own: the end of one is passed on to its reader,
//! while the other continues.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use super::failure::{ClientError, ExitCause};
use super::panics::panicked;
use crate::os::files::io_error_text;
use crate::os::stdio::{self, OutputEnd};

/// Bytes moved per call: twice the default capacity of a pipe on Linux.
const BUFFER_SIZE: usize = 128 << 10;

/// Joins standard input and output to `stream` until both directions have ended, or the connection breaks.
///
/// Each direction has its own thread, which sleeps in a system call until there is data. So neither direction waits for
/// the other, and neither spins.
pub(super) fn join(stream: &TcpStream) -> Result<(), ClientError> {
    // Typed text must not wait for the acknowledgment of earlier text (RFC 896). If this fails, the connection is
    // slower.
    let _ = stream.set_nodelay(true);
    let own = |error: io::Error| {
        ClientError::new(ExitCause::Network, format!("standard input and output: {}", io_error_text(&error)))
    };
    let (mut input, mut output) = (stdio::input().map_err(own)?, stdio::output().map_err(own)?);
    let mut peer = stream.try_clone().map_err(own)?;
    let sending = thread::spawn(move || {
        let sent = pump(&mut input, &mut peer);
        // Fails if the connection is broken; then the other end cannot be notified anyway.
        let _ = peer.shutdown(Shutdown::Write);
        sent
    });
    match pump(&mut &*stream, &mut output) {
        Ok(()) => {}
        // The reader of our output has exited, as ssh does when the user ends it.
        Err(RelayError::Writing(error)) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
        Err(RelayError::Writing(error)) => return Err(own(error)),
        Err(RelayError::Reading(error)) => return Err(broken(&error)),
    }
    if stdio::end_output(output).map_err(own)? == OutputEnd::AtExit {
        // The program that started us waits for the end of our output, before it ends our input. What it has sent until now
        // is delivered.
        return Ok(());
    }
    // The other side has ended its output, but may still read.
    match sending.join() {
        Ok(Err(RelayError::Reading(error))) => Err(own(error)),
        Ok(Err(RelayError::Writing(error))) => Err(broken(&error)),
        Ok(Ok(())) => Ok(()),
        // Not all of the input may have been sent.
        Err(_) => Err(panicked("connection")),
    }
}

/// Data may be lost, so a broken connection must not look like a normal end.
fn broken(error: &io::Error) -> ClientError {
    ClientError::new(ExitCause::NotAccepting, format!("connection: {}", io_error_text(error)))
        .hint("try again; the connection was open, and the other side or a device on the path ended it")
}

#[derive(Debug)]
enum RelayError {
    Reading(io::Error),
    Writing(io::Error),
}

/// Copies data as it arrives, until the end of input.
fn pump(from: &mut impl Read, to: &mut impl Write) -> Result<(), RelayError> {
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(RelayError::Reading(error)),
        };
        to.write_all(buffer.get(..length).unwrap_or_default()).map_err(RelayError::Writing)?;
    }
}
