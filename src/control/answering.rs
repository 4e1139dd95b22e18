//! Answers on their way: written as fast as they are read, a piece at a time, so that the daemon waits for no reader
//! and never holds the whole text of a long list.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

use super::listener::{ANSWER_TIME, PATIENCE};
use super::{GrantLine, Response};
use spa_knock_core::knock::Steady;

/// Bytes of an answer that are made at a time; a Unix socket takes a few times as many.
const PIECE: usize = 64 << 10;

/// An answer and who reads it.
pub(super) struct Responder {
    stream: UnixStream,
    rest: Rest,
    /// What is being written, and how much of it has been.
    piece: Vec<u8>,
    written: usize,
    begun: Steady,
    /// When something was written last.
    progress: Steady,
}

/// What of an answer has not been made yet.
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
    /// A short answer; none where it cannot be written as JSON.
    pub(super) fn short(stream: UnixStream, answer: &Response, now: Steady) -> Option<Self> {
        let mut piece = serde_json::to_vec(answer).ok()?;
        piece.push(b'\n');
        Some(Self { stream, rest: Rest::Nothing, piece, written: 0, begun: now, progress: now })
    }

    /// The same text as that of [`Response::Grants`].
    pub(super) fn grants(
        stream: UnixStream,
        grants: Box<dyn Iterator<Item = GrantLine>>,
        now: Steady,
    ) -> Self {
        let piece = b"{\"result\":\"grants\",\"grants\":[".to_vec();
        let rest = Rest::Grants(grants, First::Yes);
        Self { stream, rest, piece, written: 0, begun: now, progress: now }
    }

    /// Writes what the reader takes now; whether there is more to write.
    pub(super) fn go_on(&mut self, now: Steady) -> bool {
        loop {
            let left = self.piece.get(self.written..).unwrap_or_default();
            if left.is_empty() {
                if !self.make_piece() {
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
                    return waited(self.progress) < PATIENCE && waited(self.begun) < ANSWER_TIME;
                }
                Err(_) => return false,
            }
        }
    }

    /// The next piece; whether there is one.
    fn make_piece(&mut self) -> bool {
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
            // A line of strings and numbers can always be written.
            let _ = serde_json::to_writer(&mut self.piece, &grant);
        }
        true
    }
}
