//! A connection to ssh-agent in a thread of its own, because not every system can end a call that waits for an agent.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;

use super::messages::{AnswerError, exchange};
use crate::os::clock;
use crate::os::net::agent_socket::AgentSocket;
use spa_knock_core::knock::Steady;

/// A connection that is used for one request after the other.
pub(super) struct Connection {
    requests: Sender<AgentRequest>,
    answers: Receiver<AgentAnswer>,
}

/// A request, and when its answer is of no use any more.
struct AgentRequest {
    bytes: Vec<u8>,
    end: Steady,
}

type AgentAnswer = Result<Vec<u8>, ConnectionError>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// No connection.
    #[error(transparent)]
    Connect(io::Error),
    /// The connection failed, or the agent closed it.
    #[error(transparent)]
    Io(io::Error),
    /// The agent did not answer in time.
    #[error("no answer in time")]
    Time,
    /// The answer is malformed.
    #[error(transparent)]
    Answer(AnswerError),
}

impl Connection {
    /// Starts to connect, and sends `request` as soon as there is a connection.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub(super) fn start(path: &Path, request: Vec<u8>, end: Steady) -> Result<Self, ConnectionError> {
        let (requests, received) = channel();
        let (sender, answers) = channel();
        let path = path.to_owned();
        thread::Builder::new()
            .spawn(move || serve(&path, &received, &sender))
            .map_err(ConnectionError::Connect)?;
        let connection = Self { requests, answers };
        connection.send(request, end);
        Ok(connection)
    }

    /// Sends another request. [`Self::answer`] reports if that is not possible.
    pub(super) fn send(&self, request: Vec<u8>, end: Steady) {
        let _ = self.requests.send(AgentRequest { bytes: request, end });
    }

    /// Waits for the answer until `until`; [`ConnectionError::Time`] if there is none yet.
    pub(super) fn answer(&self, until: Steady) -> AgentAnswer {
        match self.answers.recv_timeout(until.since(clock::steady())) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(ConnectionError::Time),
            Err(RecvTimeoutError::Disconnected) => {
                Err(ConnectionError::Io(io::ErrorKind::ConnectionAborted.into()))
            }
        }
    }
}

/// Connects and exchanges messages until there are no more requests, or one fails.
fn serve(path: &Path, requests: &Receiver<AgentRequest>, answers: &Sender<AgentAnswer>) {
    let mut socket = None;
    while let Ok(request) = requests.recv() {
        let answer = match &mut socket {
            Some(socket) => answer_to(socket, &request),
            None => AgentSocket::connect(path, request.end)
                .map_err(ConnectionError::Connect)
                .and_then(|connected| answer_to(socket.insert(connected), &request)),
        };
        let is_last = answer.is_err();
        if answers.send(answer).is_err() || is_last {
            return;
        }
    }
}

fn answer_to(socket: &mut AgentSocket, request: &AgentRequest) -> AgentAnswer {
    socket.set_end(request.end);
    match exchange(socket, &request.bytes) {
        Ok(answer) => answer.map_err(ConnectionError::Answer),
        Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
            Err(ConnectionError::Time)
        }
        Err(error) => Err(ConnectionError::Io(error)),
    }
}
