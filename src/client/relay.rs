//! Two streams joined both ways. Each way ends for itself: the end of one is told to its reader, while the other
//! goes on.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use super::failure::{ClientError, ExitCause};
use crate::os::files::io_error_text;
use crate::os::stdio;

/// What is moved at once: as much as Linux lets a pipe hold twice over.
const PIECE: usize = 128 << 10;

/// Joins standard input and output to `stream` until both ways have ended, or the connection has broken.
///
/// Each way is a thread that sleeps in the system until there is something for it, so that neither waits for the
/// other and neither spins.
pub(super) fn join(stream: &TcpStream) -> Result<(), ClientError> {
    // What is typed should not wait for what was typed before it (RFC 896); where that cannot be had, it is slower.
    let _ = stream.set_nodelay(true);
    let own = |error: io::Error| {
        ClientError::new(ExitCause::Network, format!("standard input and output: {}", io_error_text(&error)))
    };
    let (mut input, mut output) = (stdio::input().map_err(own)?, stdio::output().map_err(own)?);
    let mut there = stream.try_clone().map_err(own)?;
    let sending = thread::spawn(move || {
        let sent = pump(&mut input, &mut there);
        // Where it is broken already, there is nobody left to tell.
        let _ = there.shutdown(Shutdown::Write);
        sent
    });
    match pump(&mut &*stream, &mut output) {
        Ok(()) => {}
        // Who reads our output has gone, as ssh does when it is told to.
        Err(RelayError::Writing(error)) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
        Err(RelayError::Writing(error)) => return Err(own(error)),
        Err(RelayError::Reading(error)) => return Err(cut(&error)),
    }
    stdio::end_output(output).map_err(own)?;
    // The other side may still listen, though it has nothing more to say.
    match sending.join() {
        Ok(Err(RelayError::Reading(error))) => Err(own(error)),
        Ok(Err(RelayError::Writing(error))) => Err(cut(&error)),
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

/// Something is lost: it must not look like an end.
fn cut(error: &io::Error) -> ClientError {
    ClientError::new(ExitCause::NotAccepting, format!("connection: {}", io_error_text(error)))
        .hint("it was open, and the other side, or something on the way, has ended it")
}

#[derive(Debug)]
enum RelayError {
    Reading(io::Error),
    Writing(io::Error),
}

/// Moves all that comes, as it comes, until its end.
fn pump(from: &mut impl Read, to: &mut impl Write) -> Result<(), RelayError> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(RelayError::Reading(error)),
        };
        to.write_all(piece.get(..length).unwrap_or_default()).map_err(RelayError::Writing)?;
    }
}
