//! Responses in transit: written as fast as the client reads, in pieces, so that the daemon never waits for a reader
//! and never holds the whole text of a long list.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

use super::listener::{PATIENCE, RESPONSE_TIME};
use super::{GrantLine, Response};
use spa_knock_core::knock::Steady;

/// Bytes of a response that are prepared at a time. A Unix socket buffers a few times as many.
const PIECE: usize = 64 << 10;

/// A response and the socket that it is written to.
pub(super) struct Responder {
    stream: UnixStream,
    rest: Rest,
    /// The bytes being written; the first `written` of them have been.
    piece: Vec<u8>,
    written: usize,
    begun: Steady,
    /// The time of the last successful write.
    progress: Steady,
}

/// The part of a response that is not prepared yet.
enum Rest {
    Nothing,
    Grants(Box<dyn Iterator<Item = GrantLine>>, First),
}

/// Whether an item is the first of its list.
#[derive(PartialEq, Eq)]
enum First {
    Yes,
    No,
}

impl Responder {
    /// A short response; `None` if it cannot be written as JSON.
    pub(super) fn short(stream: UnixStream, response: &Response, now: Steady) -> Option<Self> {
        let mut piece = serde_json::to_vec(response).ok()?;
        piece.push(b'\n');
        Some(Self { stream, rest: Rest::Nothing, piece, written: 0, begun: now, progress: now })
    }

    /// A list of grants; the text is the same as that of [`Response::Grants`].
    pub(super) fn grants(
        stream: UnixStream,
        grants: Box<dyn Iterator<Item = GrantLine>>,
        now: Steady,
    ) -> Self {
        let piece = b"{\"result\":\"grants\",\"grants\":[".to_vec();
        let rest = Rest::Grants(grants, First::Yes);
        Self { stream, rest, piece, written: 0, begun: now, progress: now }
    }

    /// Writes as much as the socket takes; returns whether more remains.
    pub(super) fn write_more(&mut self, now: Steady) -> bool {
        loop {
            let left = self.piece.get(self.written..).unwrap_or_default();
            if left.is_empty() {
                if !self.prepare_piece() {
                    return false;
                }
                continue;
            }
            match self.stream.write(left) {
                Ok(0) => return false,
                Ok(length) => {
                    self.written = self.written.saturating_add(length);
                    self.progress = now;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let waited = |since: Steady| now.since(since);
                    return waited(self.progress) < PATIENCE && waited(self.begun) < RESPONSE_TIME;
                }
                Err(_) => return false,
            }
        }
    }

    /// Prepares the next piece; returns whether there is one.
    fn prepare_piece(&mut self) -> bool {
        self.piece.clear();
        self.written = 0;
        let Rest::Grants(grants, first) = &mut self.rest else { return false };
        while self.piece.len() < PIECE {
            let Some(grant) = grants.next() else {
                self.piece.extend(b"]}\n");
                self.rest = Rest::Nothing;
                return true;
            };
            if *first == First::No {
                self.piece.push(b',');
            }
            *first = First::No;
            // Strings and numbers can always be serialized.
            let _ = serde_json::to_writer(&mut self.piece, &grant);
        }
        true
    }
}
