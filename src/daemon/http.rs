//! Serves one page over HTTP/1.1, from the daemon's event loop, with one request per connection. Size, number and
//! duration of connections are bounded, so that no peer can block the daemon. Implements only the part of HTTP that this
//! needs. What the page is, `metrics.rs` and `health.rs` decide.

mod socket;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use crate::control;
use crate::os::poll::Polled;
use crate::os::{clock, files};
pub(super) use socket::Peers;
use socket::{Listener, Stream};
use spa_knock_core::knock::Steady;

/// The longest accepted request in bytes, including headers.
const REQUEST_MAX: usize = 4096;
/// The largest number of connections. A further one replaces the oldest, so that no peer can occupy all of them.
const CONNECTIONS_MAX: usize = 16;
/// The longest duration of a connection.
const CONNECTION_MAX_AGE: Duration = Duration::from_secs(2);
/// The interval between attempts to send when the socket buffer is full.
const SEND_RETRY: Duration = Duration::from_millis(20);
/// The number of reads per connection and turn of the loop.
const READS_MAX: usize = 8;

/// A listening socket and its connections.
pub(super) struct HttpServer {
    listener: Listener,
    /// The paths of the page.
    paths: &'static [&'static str],
    connections: Vec<HttpConnection>,
}

/// What a server returns for its paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpPage {
    pub(super) status: PageStatus,
    pub(super) body: String,
}

/// The status of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageStatus {
    /// 200.
    Available,
    /// 503.
    Unavailable,
}

struct HttpConnection {
    stream: Stream,
    paths: &'static [&'static str],
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
    /// The page.
    Page,
    /// 400: not a valid request, or too long.
    Bad,
    /// 404: unknown path.
    NotFound,
    /// 405: only GET is supported.
    NotAllowed,
}

impl HttpServer {
    /// Starts listening on a TCP address.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn on_address(
        address: SocketAddr,
        peers: Peers,
        paths: &'static [&'static str],
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener: Listener::Tcp(listener, peers), paths, connections: Vec::new() })
    }

    /// Starts listening on a Unix socket, which is accessible to its owner and group.
    ///
    /// # Errors
    /// When the system refuses, or another process listens there.
    pub(super) fn on_path(path: &Path, paths: &'static [&'static str]) -> Result<Self, files::FileError> {
        let listener = control::listen(path)?;
        files::share_with_group(path)?;
        Ok(Self { listener: Listener::Unix(listener), paths, connections: Vec::new() })
    }

    /// Changes whose connections are served from now on.
    pub(super) fn set_peers(&mut self, peers: Peers) {
        if let Listener::Tcp(_, old) = &mut self.listener {
            *old = peers;
        }
    }

    /// Accepts connections, reads requests and sends responses. Calls `page` only if the page is requested.
    pub(super) fn run_due(&mut self, page: &mut dyn FnMut() -> HttpPage) {
        for _ in 0..CONNECTIONS_MAX {
            let Ok(accepted) = self.listener.accept() else { break };
            let Some(stream) = accepted else { continue };
            if self.connections.len() >= CONNECTIONS_MAX {
                self.connections.remove(0);
            }
            self.connections.push(HttpConnection::new(stream, self.paths));
        }
        let now = clock::steady();
        self.connections.retain_mut(|connection| connection.run_due(now, page).is_some());
    }
}

impl Polled for HttpServer {
    /// Readable when a client connects, sends or disconnects.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.push(match &self.listener {
            Listener::Tcp(listener, _) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        });
        out.extend(self.connections.iter().filter_map(HttpConnection::descriptor));
    }

    fn deadline(&self) -> Option<Steady> {
        let now = clock::steady();
        self.connections.iter().map(|connection| connection.deadline(now)).min()
    }
}

impl HttpConnection {
    fn new(stream: Stream, paths: &'static [&'static str]) -> Self {
        Self { stream, paths, since: clock::steady(), request: Vec::new(), stage: HttpStage::Reading }
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
    fn run_due(&mut self, now: Steady, page: &mut dyn FnMut() -> HttpPage) -> Option<()> {
        if now.since(self.since) >= CONNECTION_MAX_AGE {
            return None;
        }
        if matches!(self.stage, HttpStage::Reading) {
            self.read(page)?;
        }
        self.write()?;
        if matches!(self.stage, HttpStage::Closing) { self.drain() } else { Some(()) }
    }

    fn read(&mut self, page: &mut dyn FnMut() -> HttpPage) -> Option<()> {
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
            if let Some(verdict) = judge(&self.request, self.paths) {
                self.request = Vec::new();
                self.stage = HttpStage::Writing { response: response(verdict, self.paths, page), sent: 0 };
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
fn judge(bytes: &[u8], paths: &[&str]) -> Option<HttpResult> {
    const END: &[u8] = b"\r\n\r\n";
    let too_long = bytes.len() > REQUEST_MAX;
    let Some(end) = bytes.windows(END.len()).position(|window| window == END) else {
        return too_long.then_some(HttpResult::Bad);
    };
    if end.saturating_add(END.len()) > REQUEST_MAX {
        return Some(HttpResult::Bad);
    }
    let head = bytes.get(..end).and_then(|head| std::str::from_utf8(head).ok());
    Some(head.and_then(|head| parse(head, paths)).unwrap_or(HttpResult::Bad))
}

/// Evaluates a complete request head without the empty line; none if it is not a valid request.
fn parse(head: &str, paths: &[&str]) -> Option<HttpResult> {
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
    Some(match method {
        _ if !paths.contains(&path) => HttpResult::NotFound,
        "GET" => HttpResult::Page,
        _ => HttpResult::NotAllowed,
    })
}

fn is_field(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(field, _)| field.eq_ignore_ascii_case(name))
}

fn response(verdict: HttpResult, paths: &[&str], page: &mut dyn FnMut() -> HttpPage) -> Vec<u8> {
    let (status, more, body) = match verdict {
        HttpResult::Page => {
            let HttpPage { status, body } = page();
            let status = match status {
                PageStatus::Available => "200 OK",
                PageStatus::Unavailable => "503 Service Unavailable",
            };
            (status, "", body)
        }
        HttpResult::Bad => ("400 Bad Request", "", "bad request\n".to_owned()),
        HttpResult::NotFound => ("404 Not Found", "", format!("not found; served: {}\n", paths.join(", "))),
        HttpResult::NotAllowed => {
            ("405 Method Not Allowed", "Allow: GET\r\n", "only GET is allowed\n".to_owned())
        }
    };
    // The version of Prometheus' exposition format, which is a parameter that plain text may have.
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{more}Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use proptest::prelude::*;

    use super::*;

    const PATHS: &[&str] = &["/metrics", "/"];

    fn page(body: &str) -> HttpPage {
        HttpPage { status: PageStatus::Available, body: body.to_owned() }
    }

    #[test]
    fn a_request_is_evaluated_once_it_is_complete() {
        let long = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(5_000));
        for (request, verdict) in [
            ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9842\r\n\r\n", Some(HttpResult::Page)),
            ("GET /metrics HTTP/1.1\r\nhost:a\r\nAccept: */*\r\n\r\n", Some(HttpResult::Page)),
            ("GET /metrics?name=x HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::Page)),
            ("GET /metrics HTTP/1.0\r\n\r\n", Some(HttpResult::Page)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::Page)),
            ("GET /other HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::NotFound)),
            ("PUT /other HTTP/1.1\r\nHost: a\r\n\r\n", Some(HttpResult::NotFound)),
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
            assert_eq!(judge(request.as_bytes(), PATHS), verdict, "{request}");
        }
    }

    #[test]
    fn a_response_has_its_length_and_closes_the_connection() {
        let text = |verdict| String::from_utf8(response(verdict, PATHS, &mut || page("page\n"))).unwrap();
        assert_eq!(
            text(HttpResult::Page),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
             Content-Length: 5\r\nConnection: close\r\n\r\npage\n"
        );
        assert!(
            text(HttpResult::NotAllowed).starts_with("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n")
        );
        let not_found = text(HttpResult::NotFound);
        assert!(not_found.starts_with("HTTP/1.1 404 "), "{not_found}");
        assert!(not_found.ends_with("\r\n\r\nnot found; served: /metrics, /\n"), "{not_found}");
        assert!(text(HttpResult::Bad).starts_with("HTTP/1.1 400 "));
        let mut unavailable = || HttpPage { status: PageStatus::Unavailable, body: "gate off\n".to_owned() };
        let text = String::from_utf8(response(HttpResult::Page, PATHS, &mut unavailable)).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\ngate off\n"), "{text}");
    }

    fn server(peers: Peers) -> HttpServer {
        HttpServer::on_address("127.0.0.1:0".parse().unwrap(), peers, PATHS).unwrap()
    }

    fn connect(server: &HttpServer) -> TcpStream {
        let Listener::Tcp(listener, _) = &server.listener else { panic!("a Unix socket") };
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    #[test]
    fn a_request_in_pieces_gets_a_response_when_it_is_complete() {
        let mut server = server(Peers::All);
        let mut stream = connect(&server);
        let mut pages = 0;
        for piece in ["GET /met", "rics HTTP/1.1\r\nHost: a\r\n", "\r\n"] {
            assert_eq!(pages, 0, "no page is generated before the request is complete");
            stream.write_all(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            server.run_due(&mut || {
                pages += 1;
                page("page\n")
            });
        }
        let mut received = String::new();
        stream.read_to_string(&mut received).unwrap();
        assert!(received.ends_with("\r\n\r\npage\n"), "{received}");
        assert_eq!(server.connections.len(), 1);
        drop(stream);
        std::thread::sleep(Duration::from_millis(20));
        server.run_due(&mut || page(""));
        assert!(server.connections.is_empty());
    }

    #[test]
    fn a_page_larger_than_the_socket_buffers_arrives_completely() {
        let mut server = server(Peers::All);
        let mut stream = connect(&server);
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let reading = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received.len()
        });
        while !reading.is_finished() {
            server.run_due(&mut || page(&"x".repeat(8 << 20)));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(reading.join().unwrap() > 8 << 20);
    }

    #[test]
    fn silent_connections_are_limited_time_out_and_do_not_block_others() {
        let mut server = server(Peers::All);
        let silent: Vec<_> = (0..40).map(|_| connect(&server)).collect();
        let mut scraper = connect(&server);
        scraper.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        scraper.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for _ in 0..3 {
            server.run_due(&mut || page("page\n"));
            assert_eq!(server.connections.len(), CONNECTIONS_MAX);
        }
        let mut received = String::new();
        scraper.read_to_string(&mut received).unwrap();
        assert!(received.ends_with("\r\n\r\npage\n"), "{received}");
        assert!(server.deadline().unwrap() <= clock::steady().plus(CONNECTION_MAX_AGE));
        let expired = clock::steady().plus(CONNECTION_MAX_AGE);
        server.connections.retain_mut(|connection| connection.run_due(expired, &mut || page("")).is_some());
        assert!(server.connections.is_empty());
        drop(silent);
    }

    #[test]
    fn a_connection_from_another_address_is_closed_without_a_byte() {
        const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
        let exchange = |server: &mut HttpServer| {
            let mut stream = connect(server);
            stream.write_all(REQUEST).unwrap();
            server.run_due(&mut || page("page\n"));
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut received = Vec::new();
            // A reset is an error, and no byte either.
            let _ = stream.read_to_end(&mut received);
            received
        };
        let from = |prefix: &str| Peers::From(vec![prefix.parse().unwrap()]);
        let mut server = server(from("127.0.0.2"));
        assert_eq!(exchange(&mut server), b"");
        assert!(server.connections.is_empty());
        server.set_peers(from("127.0.0.0/8"));
        assert!(exchange(&mut server).ends_with(b"page\n"));
        for (prefix, address, is_served) in [
            ("10.0.0.0/16", "10.0.255.255", true),
            ("10.0.0.0/16", "::ffff:10.0.0.1", true),
            ("10.0.0.0/16", "10.1.0.0", false),
            ("10.0.0.0/16", "::ffff:10.1.0.0", false),
            ("fd00::/64", "fd00::1", true),
            ("fd00::/64", "fd00:0:0:1::1", false),
        ] {
            assert_eq!(from(prefix).contain(address.parse().unwrap()), is_served, "{prefix} {address}");
        }
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
            let verdict = judge(&request, PATHS);
            if request.len() > REQUEST_MAX || !end.is_empty() {
                prop_assert!(verdict.is_some());
            }
        }
    }
}
