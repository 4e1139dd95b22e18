//! Serves `GET /metrics` over HTTP/1.1 on a loopback address or a Unix socket, from the daemon's event loop, with one
//! request per connection. Size, number and duration of connections are bounded, so that no local user can block the
//! daemon. Implements only the part of HTTP that this needs.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::config::MetricsPlace;
use crate::control;
use crate::os::poll::Polled;
use crate::os::{clock, files};
use spa_knock_core::knock::Steady;

/// The longest accepted request in bytes, including headers.
const REQUEST_MAX: usize = 4096;
/// The largest number of connections. A further one replaces the oldest, so that no local user can occupy all of them.
const CONNECTIONS_MAX: usize = 16;
/// The longest duration of a connection.
const CONNECTION_MAX_AGE: Duration = Duration::from_secs(2);
/// The interval between attempts to send when the socket buffer is full.
const SEND_RETRY: Duration = Duration::from_millis(20);
/// The number of reads per connection and turn of the loop.
const READS_MAX: usize = 8;

/// The listening socket and its connections.
pub(crate) struct Metrics {
    place: MetricsPlace,
    listener: Listener,
    connections: Vec<HttpConnection>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

struct HttpConnection {
    stream: Stream,
    since: Steady,
    request: Vec<u8>,
    stage: HttpStage,
}

/// The stage of an HTTP exchange.
enum HttpStage {
    /// The request is incomplete.
    Reading,
    /// The response is being sent; `sent` is the number of bytes sent so far.
    Writing { response: Vec<u8>, sent: usize },
    /// The response is sent. Closing immediately could reset the connection before the client, if it is still sending,
    /// has read the response (RFC 9112, section 9.6).
    Closing,
}

/// The kind of response to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HttpResult {
    /// The metrics.
    Page,
    /// 400: not a valid request, or too long.
    Bad,
    /// 404: unknown path.
    NotFound,
    /// 405: only GET is supported.
    NotAllowed,
}

impl Metrics {
    /// Starts listening. A Unix socket is accessible to its owner and group.
    ///
    /// # Errors
    /// The reason in human-readable form.
    pub(crate) fn open(place: MetricsPlace) -> Result<Self, String> {
        let listener = match &place {
            MetricsPlace::Tcp(address) => {
                let listener = TcpListener::bind(address).and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    Ok(listener)
                });
                let plain = |error| format!("server.metrics {address}: {}", files::io_error_text(&error));
                Listener::Tcp(listener.map_err(plain)?)
            }
            MetricsPlace::Unix(path) => {
                let text = |error: files::FileError| format!("server.metrics: {error}");
                let listener = control::listen(path).map_err(text)?;
                files::share_with_group(path).map_err(text)?;
                Listener::Unix(listener)
            }
        };
        Ok(Self { place, listener, connections: Vec::new() })
    }

    /// The address or path of the socket.
    pub(crate) const fn place(&self) -> &MetricsPlace {
        &self.place
    }

    /// Accepts connections, reads requests and sends responses. Calls `page` only if the metrics are requested.
    pub(crate) fn run_due(&mut self, page: &mut dyn FnMut() -> String) {
        for _ in 0..CONNECTIONS_MAX {
            let Ok(stream) = self.listener.accept() else { break };
            if self.connections.len() >= CONNECTIONS_MAX {
                self.connections.remove(0);
            }
            self.connections.push(HttpConnection::new(stream));
        }
        let now = clock::steady();
        self.connections.retain_mut(|connection| connection.run_due(now, page).is_some());
    }
}

impl Polled for Metrics {
    /// Readable when a client connects, sends or disconnects.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.push(match &self.listener {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        });
        out.extend(self.connections.iter().filter_map(HttpConnection::descriptor));
    }

    fn deadline(&self) -> Option<Steady> {
        let now = clock::steady();
        self.connections.iter().map(|connection| connection.deadline(now)).min()
    }
}

impl Listener {
    fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true).map(|()| Stream::Tcp(stream))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true).map(|()| Stream::Unix(stream))
            }
        }
    }
}

impl Stream {
    fn end(&self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        if let MetricsPlace::Unix(path) = &self.place {
            // If this fails, the next daemon removes the socket.
            let _ = files::remove(path);
        }
    }
}

impl HttpConnection {
    fn new(stream: Stream) -> Self {
        Self { stream, since: clock::steady(), request: Vec::new(), stage: HttpStage::Reading }
    }

    /// Readable when the client sends. None while a response is being sent: the client's input waits until then.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (!matches!(self.stage, HttpStage::Writing { .. })).then(|| self.stream.as_fd())
    }

    fn deadline(&self, now: Steady) -> Steady {
        let end = self.since.plus(CONNECTION_MAX_AGE);
        match self.stage {
            HttpStage::Writing { .. } => end.min(now.plus(SEND_RETRY)),
            HttpStage::Reading | HttpStage::Closing => end,
        }
    }

    /// Continues the exchange. Returns none when the connection must be closed.
    fn run_due(&mut self, now: Steady, page: &mut dyn FnMut() -> String) -> Option<()> {
        if now.since(self.since) >= CONNECTION_MAX_AGE {
            return None;
        }
        if matches!(self.stage, HttpStage::Reading) {
            self.read(page)?;
        }
        self.write()?;
        if matches!(self.stage, HttpStage::Closing) { self.drain() } else { Some(()) }
    }

    fn read(&mut self, page: &mut dyn FnMut() -> String) -> Option<()> {
        let mut buffer = [0; 1024];
        for _ in 0..READS_MAX {
            let length = match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
            self.request.extend(buffer.iter().take(length));
            if let Some(verdict) = judge(&self.request) {
                self.request = Vec::new();
                self.stage = HttpStage::Writing { response: response(verdict, page), sent: 0 };
                return Some(());
            }
        }
        Some(())
    }

    fn write(&mut self) -> Option<()> {
        let HttpStage::Writing { response, sent } = &mut self.stage else { return Some(()) };
        while let Some(rest) = response.get(*sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return None,
                Ok(length) => *sent = sent.saturating_add(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        self.stage = HttpStage::Closing;
        self.stream.end().ok()
    }

    /// Waits for the client to close the connection; discards what it still sends.
    fn drain(&mut self) -> Option<()> {
        let mut buffer = [0; 1024];
        for _ in 0..READS_MAX {
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(())
    }
}

/// Evaluates a request (RFC 9112, sections 2 and 3); none while it is incomplete.
fn judge(bytes: &[u8]) -> Option<HttpResult> {
    const END: &[u8] = b"\r\n\r\n";
    let too_long = bytes.len() > REQUEST_MAX;
    let Some(end) = bytes.windows(END.len()).position(|window| window == END) else {
        return too_long.then_some(HttpResult::Bad);
    };
    if end.saturating_add(END.len()) > REQUEST_MAX {
        return Some(HttpResult::Bad);
    }
    let head = bytes.get(..end).and_then(|head| std::str::from_utf8(head).ok());
    Some(head.and_then(parse).unwrap_or(HttpResult::Bad))
}

/// Evaluates a complete request head without the empty line; none if it is not a valid request.
fn parse(head: &str) -> Option<HttpResult> {
    let mut lines = head.split("\r\n");
    let mut parts = lines.next()?.split(' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let hosts = lines.filter(|line| is_field(line, "host")).count();
    match version {
        "HTTP/1.1" if hosts == 1 => {}
        "HTTP/1.0" => {}
        _ => return None,
    }
    if !target.starts_with('/') {
        return None;
    }
    // The query is ignored.
    let path = target.split('?').next()?;
    Some(match (path, method) {
        ("/metrics", "GET") => HttpResult::Page,
        ("/metrics", _) => HttpResult::NotAllowed,
        _ => HttpResult::NotFound,
    })
}

fn is_field(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(field, _)| field.eq_ignore_ascii_case(name))
}

fn response(verdict: HttpResult, page: &mut dyn FnMut() -> String) -> Vec<u8> {
    let (status, more, body) = match verdict {
        HttpResult::Page => ("200 OK", "", page()),
        HttpResult::Bad => ("400 Bad Request", "", "bad request\n".to_owned()),
        HttpResult::NotFound => ("404 Not Found", "", "the only path is /metrics\n".to_owned()),
        HttpResult::NotAllowed => {
            ("405 Method Not Allowed", "Allow: GET\r\n", "only GET is allowed\n".to_owned())
        }
    };
    // The version of the exposition format. The error texts use the same content type.
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{more}Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_evaluated_once_it_is_complete() {
        let long = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(5_000));
        for (request, verdict) in [
            ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9842\r\n\r\n", Some(HttpResult::Page)),
            ("GET /metrics HTTP/1.1\r\nhost:a\r\nAccept: */*\r\n\r\n", Some(HttpResult::Page)),
            ("GET /metrics?name=x HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::Page)),
            ("GET /metrics HTTP/1.0\r\n\r\n", Some(HttpResult::Page)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::NotFound)),
            ("GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::NotFound)),
            ("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::NotAllowed)),
            ("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::NotAllowed)),
            ("GET /metrics HTTP/1.1\r\n\r\n", Some(HttpResult::Bad)),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Some(HttpResult::Bad)),
            ("GET /metrics HTTP/2\r\nHost: a\r\n\r\n", Some(HttpResult::Bad)),
            ("GET  /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::Bad)),
            ("get /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::Bad)),
            ("GET metrics HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::Bad)),
            ("\r\n\r\n", Some(HttpResult::Bad)),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n", None),
            ("", None),
            (&long[..4_096], None),
            (&long[..4_097], Some(HttpResult::Bad)),
            (&long, Some(HttpResult::Bad)),
        ] {
            assert_eq!(judge(request.as_bytes()), verdict, "{request}");
        }
    }

    #[test]
    fn a_response_has_its_length_and_closes_the_connection() {
        let text = |verdict| String::from_utf8(response(verdict, &mut || "page\n".to_owned())).unwrap();
        assert_eq!(
            text(HttpResult::Page),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
             Content-Length: 5\r\nConnection: close\r\n\r\npage\n"
        );
        assert!(
            text(HttpResult::NotAllowed).starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n")
        );
        assert!(text(HttpResult::NotFound).starts_with("HTTP/1.1 404 "));
        assert!(text(HttpResult::Bad).starts_with("HTTP/1.1 400 "));
    }

    fn metrics() -> Metrics {
        Metrics::open(MetricsPlace::Tcp("127.0.0.1:0".parse().unwrap())).unwrap()
    }

    fn connect(metrics: &Metrics) -> TcpStream {
        let Listener::Tcp(listener) = &metrics.listener else { panic!("a Unix socket") };
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    #[test]
    fn a_request_in_pieces_gets_a_response_when_it_is_complete() {
        let mut metrics = metrics();
        let mut stream = connect(&metrics);
        let mut pages = 0;
        for piece in ["GET /met", "rics HTTP/1.1\r\nHost: a\r\n", "\r\n"] {
            assert_eq!(pages, 0, "no page is generated before the request is complete");
            stream.write_all(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            metrics.run_due(&mut || {
                pages += 1;
                "page\n".to_owned()
            });
        }
        let mut received = String::new();
        stream.read_to_string(&mut received).unwrap();
        assert!(received.ends_with("\r\n\r\npage\n"), "{received}");
        assert_eq!(metrics.connections.len(), 1);
        drop(stream);
        std::thread::sleep(Duration::from_millis(20));
        metrics.run_due(&mut String::new);
        assert!(metrics.connections.is_empty());
    }

    #[test]
    fn a_page_larger_than_the_socket_buffers_arrives_completely() {
        let mut metrics = metrics();
        let mut stream = connect(&metrics);
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let reading = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received.len()
        });
        while !reading.is_finished() {
            metrics.run_due(&mut || "x".repeat(8 << 20));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(reading.join().unwrap() > 8 << 20);
    }

    #[test]
    fn silent_connections_are_limited_time_out_and_do_not_block_others() {
        let mut metrics = metrics();
        let silent: Vec<_> = (0..40).map(|_| connect(&metrics)).collect();
        let mut scraper = connect(&metrics);
        scraper.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        scraper.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for _ in 0..3 {
            metrics.run_due(&mut || "page\n".to_owned());
            assert_eq!(metrics.connections.len(), CONNECTIONS_MAX);
        }
        let mut received = String::new();
        scraper.read_to_string(&mut received).unwrap();
        assert!(received.ends_with("\r\n\r\npage\n"), "{received}");
        assert!(metrics.deadline().unwrap() <= clock::steady().plus(CONNECTION_MAX_AGE));
        let expired = clock::steady().plus(CONNECTION_MAX_AGE);
        metrics.connections.retain_mut(|connection| connection.run_due(expired, &mut String::new).is_some());
        assert!(metrics.connections.is_empty());
        drop(silent);
    }

    #[test]
    fn a_unix_socket_serves_requests_and_is_removed_at_the_end() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("made/metrics.sock");
        let mut metrics = Metrics::open(MetricsPlace::Unix(path.clone())).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        assert!(Metrics::open(MetricsPlace::Unix(path.clone())).is_err(), "the path is in use");
        metrics.run_due(&mut String::new);
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        metrics.run_due(&mut || "page\n".to_owned());
        let mut received = String::new();
        stream.read_to_string(&mut received).unwrap();
        assert!(received.ends_with("\r\n\r\npage\n"), "{received}");
        drop(metrics);
        assert!(!path.exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn any_bytes_get_a_verdict_or_are_incomplete(
            start in prop::sample::select(vec![
                "", "GET /metrics HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.0\r\n", "GET /", "\r\n",
            ]),
            bytes in proptest::collection::vec(any::<u8>(), 0..5_000),
            end in prop::sample::select(vec!["", "\r\n\r\n"]),
        ) {
            let request = [start.as_bytes(), &bytes, end.as_bytes()].concat();
            let verdict = judge(&request);
            if request.len() > REQUEST_MAX || !end.is_empty() {
                prop_assert!(verdict.is_some());
            }
        }
    }
}
