//! The daemon's end of the control socket: bounded in size, number and time.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::answering::Responder;
use super::{GrantLine, Request, Response};
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};
use crate::os::net::peer;
use crate::os::poll::Polled;
use spa_knock_core::knock::Steady;

/// The longest request, in bytes.
const REQUEST_MAX: usize = 4096;
/// Interval between two attempts to write more of a response.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);
/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;
/// How long a request, or a pause in reading a response, may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a response may take: as long as a reload, which starts a watcher and runs nft.
pub(super) const RESPONSE_TIME: Duration = Duration::from_secs(25);

/// The daemon's end of the control socket.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    partial: Vec<PartialRequest>,
    responders: Vec<Responder>,
}

/// A connection whose request is incomplete.
struct PartialRequest {
    stream: UnixStream,
    since: Steady,
    bytes: Vec<u8>,
}

/// Whether a process listens at `path`.
pub(crate) fn is_open(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Listens at `path`, and replaces the socket of a daemon that was killed. Creates a missing directory.
///
/// # Errors
/// When another process listens there, or the socket cannot be created.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, FileError> {
    if let Some(folder) = path.parent() {
        files::create_folder(folder, FileMode::Public)?;
    }
    if is_open(path) {
        let error = std::io::Error::from(ErrorKind::AddrInUse);
        return Err(FileError::io(path, &error));
    }
    match files::remove(path) {
        Err(error) if !error.missing => return Err(error),
        _ => {}
    }
    let io = |error: std::io::Error| FileError::io(path, &error);
    let listener = UnixListener::bind(path).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    Ok(listener)
}

/// A connection that waits for its response.
pub(crate) struct Requester(UnixStream);

impl Requester {
    /// Whether the other end is closed, so that no one reads a response.
    pub(crate) fn has_gone(&self) -> bool {
        peer::has_gone(&self.0)
    }
}

impl Control {
    /// Listens at `path`, for root and the daemon's own user only.
    ///
    /// # Errors
    /// When another daemon listens there, or the socket cannot be created.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let listener = listen(path)?;
        let control = Self { listener, path: path.to_owned(), partial: Vec::new(), responders: Vec::new() };
        files::make_private(path)?;
        Ok(control)
    }

    /// Whether one more connection is accepted.
    fn has_room(&self) -> bool {
        self.partial.len().saturating_add(self.responders.len()) < CONNECTIONS_MAX
    }

    /// Sends a response. A reader that is too slow does not get it.
    pub(crate) fn respond(&mut self, requester: Requester, response: &Response) {
        let now = clock::steady();
        self.begin(Responder::short(requester.0, response, now), now);
    }

    /// Sends a list that may be long.
    pub(crate) fn respond_with_grants(
        &mut self,
        requester: Requester,
        grants: Box<dyn Iterator<Item = GrantLine>>,
    ) {
        let now = clock::steady();
        self.begin(Some(Responder::grants(requester.0, grants, now)), now);
    }

    fn begin(&mut self, responder: Option<Responder>, now: Steady) {
        if let Some(mut responder) = responder
            && responder.write_more(now)
        {
            self.responders.push(responder);
        }
    }

    /// Accepts connections, reads and writes; returns the requests that are complete.
    pub(crate) fn run_due(&mut self) -> Vec<(Requester, Request)> {
        self.run_due_at(clock::steady())
    }

    fn run_due_at(&mut self, now: Steady) -> Vec<(Requester, Request)> {
        self.responders.retain_mut(|responder| responder.write_more(now));
        while self.has_room()
            && let Ok((stream, _)) = self.listener.accept()
        {
            if peer::is_trusted(&stream) && stream.set_nonblocking(true).is_ok() {
                self.partial.push(PartialRequest { stream, since: now, bytes: Vec::new() });
            }
        }
        let mut requests = Vec::new();
        for mut partial in std::mem::take(&mut self.partial) {
            match partial.read(now) {
                Some(true) => match partial.finish() {
                    (requester, Ok(request)) => requests.push((requester, request)),
                    (requester, Err(reason)) => self.respond(requester, &Response::Failed { reason }),
                },
                Some(false) => self.partial.push(partial),
                None => {}
            }
        }
        requests
    }
}

impl Polled for Control {
    /// Readable when a client connects or sends.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.has_room().then(|| self.listener.as_fd()));
        out.extend(self.partial.iter().map(|partial| partial.stream.as_fd()));
    }

    /// When a silent client is disconnected, or the next part of a response is due.
    fn deadline(&self) -> Option<Steady> {
        let silent = self.partial.iter().map(|partial| partial.since.plus(PATIENCE)).min();
        let writing = self.responders.first().map(|_| clock::steady().plus(WRITE_INTERVAL));
        silent.into_iter().chain(writing).min()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // If it cannot be removed, nothing listens there, and the next daemon removes it.
        let _ = files::remove(&self.path);
    }
}

impl PartialRequest {
    /// Whether the request is complete; `None` if the connection must be closed.
    fn read(&mut self, now: Steady) -> Option<bool> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => {
                    self.bytes.extend(buffer.iter().take(length));
                    if self.bytes.contains(&b'\n') {
                        // A client that has closed the connection has reported a failure: the request must not be
                        // carried out afterwards.
                        return (!peer::has_gone(&self.stream)).then_some(true);
                    }
                    if self.bytes.len() > REQUEST_MAX {
                        return None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let is_in_time = now.since(self.since) < PATIENCE;
                    return is_in_time.then_some(false);
                }
                Err(_) => return None,
            }
        }
    }

    fn finish(self) -> (Requester, Result<Request, String>) {
        let request = serde_json::from_slice(self.bytes.trim_ascii_end());
        (Requester(self.stream), request.map_err(|error| format!("control: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use std::io::Write;

    use super::super::client::{AskResult, ask, ask_within};
    use super::*;

    fn request_after_responding(control: &mut Control, response: &Response) -> Request {
        for _ in 0..500 {
            if let Some((requester, request)) = control.run_due().pop() {
                control.respond(requester, response);
                return request;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("no request arrived");
    }

    #[test]
    fn a_request_gets_a_response_and_a_stale_socket_is_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("run/control.sock");
        assert!(matches!(ask(&path, &Request::Reload {}), Ok(AskResult::NoDaemon)));
        std::mem::forget(Control::open(&path).unwrap());
        assert!(Control::open(&path).is_err(), "another daemon listens there");
        let path = scratch.path().join("run/other.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(
            matches!(ask(&path, &Request::Reload {}), Ok(AskResult::NoDaemon)),
            "the socket of a daemon that was killed"
        );

        let mut control = Control::open(&path).unwrap();
        let request = Request::PreviousUses { client: "laptop".to_owned() };
        let client = thread::spawn({
            let (path, request) = (path.clone(), request.clone());
            move || ask(&path, &request).map_err(|failure| failure.text())
        });
        assert_eq!(request_after_responding(&mut control, &Response::Count { count: 3 }), request);
        assert!(matches!(client.join().unwrap(), Ok(AskResult::Reply(Response::Count { count: 3 }))));
        drop(control);
        assert!(!files::exists(&path));
    }

    #[test]
    fn a_client_without_a_response_gets_an_error_and_its_request_is_not_carried_out_later() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let mut control = Control::open(&path).unwrap();
        let Err(failure) = ask_within(&path, &Request::Reload {}, Duration::from_millis(50)) else {
            panic!("there was a response")
        };
        let text = failure.text();
        assert!(text.contains("no response from the daemon within 50ms"), "{text}");
        assert!(
            text.contains("hint: if it hangs") && text.contains("systemctl restart spa-knockd"),
            "{text}"
        );
        assert!((0..5).all(|_| control.run_due().is_empty()));
        assert!(control.partial.is_empty());
    }

    #[test]
    fn a_client_that_disconnects_while_others_wait_is_noticed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let mut control = Control::open(&path).unwrap();
        let mut clients: Vec<UnixStream> = (0..2).map(|_| UnixStream::connect(&path).unwrap()).collect();
        clients.iter_mut().for_each(|client| client.write_all(b"{\"request\":\"status\"}\n").unwrap());
        let requests = control.run_due();
        assert_eq!(requests.len(), 2);
        drop(clients.pop());
        let gone: Vec<bool> = requests.iter().map(|(requester, _)| requester.has_gone()).collect();
        assert_eq!(gone, [false, true]);
    }

    #[test]
    fn a_long_list_is_sent_completely_and_a_reader_that_stops_is_disconnected() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let mut control = Control::open(&path).unwrap();
        let line = |n: u64| GrantLine {
            grant: format!("{n:08x}"),
            client: "x".repeat(32),
            action: "y".repeat(32),
            from: "2001:db8::1".to_owned(),
            opens: "tcp/22".to_owned(),
            seconds: n,
        };
        let ask_for_grants = || {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(b"{\"request\":\"grants\"}\n").unwrap();
            stream
        };
        // More than a socket buffers.
        let _stuck = ask_for_grants();
        let client = thread::spawn({
            let path = path.clone();
            move || ask(&path, &Request::Grants {}).map_err(|failure| failure.text())
        });
        let mut responses = 0;
        let start = clock::steady();
        // By a clock that has stopped, so that a slow machine does not end the patience with the reader that stops.
        while !client.is_finished() {
            assert!(clock::steady().since(start) < Duration::from_secs(60));
            for (requester, _) in control.run_due_at(start) {
                control.respond_with_grants(requester, Box::new((0..20_000).map(line)));
                responses += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let Ok(AskResult::Reply(Response::Grants { grants })) = client.join().unwrap() else {
            panic!("no grants")
        };
        assert_eq!((grants.len(), responses), (20_000, 2));
        assert_eq!(grants.last(), Some(&line(19_999)));
        assert_eq!(control.responders.len(), 1, "one client does not read");
        assert!(control.deadline().unwrap() <= clock::steady().plus(WRITE_INTERVAL));
        assert!(control.run_due_at(clock::steady().plus(PATIENCE)).is_empty());
        assert!(control.responders.is_empty(), "disconnected");
    }

    #[test]
    fn an_invalid_or_overlong_request_is_rejected_and_a_silent_client_is_disconnected() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let mut control = Control::open(&path).unwrap();
        for (request, result) in [
            ("{\"request\":\"format-disk\"}\n", "failed"),
            ("{\"request\":\"reload\",\"and\":1}\n", "failed"),
            ("reload\n", "failed"),
            (&*"x".repeat(REQUEST_MAX + 1024), ""),
        ] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            for _ in 0..5 {
                assert!(control.run_due().is_empty(), "{request}");
            }
            let mut response = String::new();
            let _ = stream.read_to_string(&mut response);
            assert!(
                response.contains(result) && response.is_empty() == result.is_empty(),
                "{request}: {response}"
            );
        }
        // Silent clients block others only briefly, and the number of connections is limited.
        let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
        assert!(control.run_due().is_empty());
        assert_eq!(control.partial.len(), CONNECTIONS_MAX);
        let mut fds = Vec::new();
        control.fds(&mut fds);
        assert_eq!(fds.len(), CONNECTIONS_MAX, "a connection that is not accepted does not wake the daemon");
        assert!(control.deadline().unwrap() <= clock::steady().plus(PATIENCE));
        assert!(control.run_due_at(clock::steady().plus(PATIENCE)).is_empty());
        assert_eq!(control.partial.len(), 0, "disconnected");
        drop(silent);
        assert!((0..5).all(|_| control.run_due().is_empty()));
        assert!(control.partial.is_empty());
    }
}
