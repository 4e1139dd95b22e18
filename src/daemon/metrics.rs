//! `GET /metrics` over HTTP/1.1, on a loopback address or a Unix socket: one request a connection, answered from the daemon's own
//! loop. Bounded in size, number and time, so that nobody on this host can hold the daemon up; knows nothing of HTTP
//! that this does not need.

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

/// The longest request, its headers included.
const REQUEST_MAX: usize = 4096;
/// How many connections there may be at a time: one more takes the place of the oldest, so that no local user can hold
/// all of them.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries to send what the other end did not take.
const SEND_AGAIN: Duration = Duration::from_millis(20);
/// What is taken from one connection in one turn.
const READS_MAX: usize = 8;

/// The listening socket and those who ask.
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

/// How far an exchange has come.
enum HttpStage {
    /// The request is not whole yet.
    Reading,
    /// So much of the answer is still to be sent.
    Writing { answer: Vec<u8>, sent: usize },
    /// All has been sent. Closing at once could take it back from who is still sending (RFC 9112, section 9.6).
    Closing,
}

/// What is answered to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HttpResult {
    /// The metrics.
    Page,
    /// 400: it is no request, or too long.
    Bad,
    /// 404: there is nothing of this name.
    NotFound,
    /// 405: this can only be read.
    NotAllowed,
}

impl Metrics {
    /// Listens there. A Unix socket is for its owner and its group.
    ///
    /// # Errors
    /// Why that is not possible, for people.
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

    /// Where it listens.
    pub(crate) const fn place(&self) -> &MetricsPlace {
        &self.place
    }

    /// Hears and answers; `page` is made only if somebody asks for it now.
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
    /// Readable when somebody connects, asks or leaves.
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
            // What is left, the next daemon removes.
            let _ = files::remove(path);
        }
    }
}

impl HttpConnection {
    fn new(stream: Stream) -> Self {
        Self { stream, since: clock::steady(), request: Vec::new(), stage: HttpStage::Reading }
    }

    /// Readable when there is something to hear; what is said to one who does not listen himself waits.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (!matches!(self.stage, HttpStage::Writing { .. })).then(|| self.stream.as_fd())
    }

    fn deadline(&self, now: Steady) -> Steady {
        let end = self.since.plus(PATIENCE);
        match self.stage {
            HttpStage::Writing { .. } => end.min(now.plus(SEND_AGAIN)),
            HttpStage::Reading | HttpStage::Closing => end,
        }
    }

    /// Goes on with the exchange; none when it is over.
    fn run_due(&mut self, now: Steady, page: &mut dyn FnMut() -> String) -> Option<()> {
        if now.since(self.since) >= PATIENCE {
            return None;
        }
        if matches!(self.stage, HttpStage::Reading) {
            self.read(page)?;
        }
        self.write()?;
        if matches!(self.stage, HttpStage::Closing) { self.leave() } else { Some(()) }
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
                self.stage = HttpStage::Writing { answer: answer(verdict, page), sent: 0 };
                return Some(());
            }
        }
        Some(())
    }

    fn write(&mut self) -> Option<()> {
        let HttpStage::Writing { answer, sent } = &mut self.stage else { return Some(()) };
        while let Some(rest) = answer.get(*sent..).filter(|rest| !rest.is_empty()) {
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

    /// Waits for the other end to close; what it still says is not listened to.
    fn leave(&mut self) -> Option<()> {
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

/// What a request asks for (RFC 9112, sections 2 and 3); none while it is not whole.
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
    Some(head.and_then(read).unwrap_or(HttpResult::Bad))
}

/// The same for a whole head without the empty line; none for what is no request.
fn read(head: &str) -> Option<HttpResult> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) {
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
    // A query changes nothing.
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

fn answer(verdict: HttpResult, page: &mut dyn FnMut() -> String) -> Vec<u8> {
    let (status, more, body) = match verdict {
        HttpResult::Page => ("200 OK", "", page()),
        HttpResult::Bad => ("400 Bad Request", "", "bad request\n".to_owned()),
        HttpResult::NotFound => ("404 Not Found", "", "only /metrics is here\n".to_owned()),
        HttpResult::NotAllowed => {
            ("405 Method Not Allowed", "Allow: GET\r\n", "only GET is allowed\n".to_owned())
        }
    };
    // The version of the exposition format; the other texts are plain too.
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
    fn a_request_is_judged_once_it_is_whole() {
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
    fn an_answer_says_how_long_it_is_and_that_it_is_the_last() {
        let text = |verdict| String::from_utf8(answer(verdict, &mut || "page\n".to_owned())).unwrap();
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
    fn a_request_in_pieces_is_answered_when_it_is_whole() {
        let mut metrics = metrics();
        let mut stream = connect(&metrics);
        let mut pages = 0;
        for piece in ["GET /met", "rics HTTP/1.1\r\nHost: a\r\n", "\r\n"] {
            assert_eq!(pages, 0, "no page is made before it is asked for");
            stream.write_all(piece.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            metrics.run_due(&mut || {
                pages += 1;
                "page\n".to_owned()
            });
        }
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert!(heard.ends_with("\r\n\r\npage\n"), "{heard}");
        assert_eq!(metrics.connections.len(), 1);
        drop(stream);
        std::thread::sleep(Duration::from_millis(20));
        metrics.run_due(&mut String::new);
        assert!(metrics.connections.is_empty());
    }

    #[test]
    fn a_page_larger_than_the_sockets_buffers_arrives_whole() {
        let mut metrics = metrics();
        let mut stream = connect(&metrics);
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let reading = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            heard.len()
        });
        while !reading.is_finished() {
            metrics.run_due(&mut || "x".repeat(8 << 20));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(reading.join().unwrap() > 8 << 20);
    }

    #[test]
    fn those_who_say_nothing_are_few_leave_soon_and_keep_no_other_out() {
        let mut metrics = metrics();
        let silent: Vec<_> = (0..40).map(|_| connect(&metrics)).collect();
        let mut scraper = connect(&metrics);
        scraper.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        scraper.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for _ in 0..3 {
            metrics.run_due(&mut || "page\n".to_owned());
            assert_eq!(metrics.connections.len(), CONNECTIONS_MAX);
        }
        let mut heard = String::new();
        scraper.read_to_string(&mut heard).unwrap();
        assert!(heard.ends_with("\r\n\r\npage\n"), "{heard}");
        assert!(metrics.deadline().unwrap() <= clock::steady().plus(PATIENCE));
        let over = clock::steady().plus(PATIENCE);
        metrics.connections.retain_mut(|connection| connection.run_due(over, &mut String::new).is_some());
        assert!(metrics.connections.is_empty());
        drop(silent);
    }

    #[test]
    fn a_unix_socket_is_answered_at_and_removed_in_the_end() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("made/metrics.sock");
        let mut metrics = Metrics::open(MetricsPlace::Unix(path.clone())).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        assert!(Metrics::open(MetricsPlace::Unix(path.clone())).is_err(), "another one listens there");
        metrics.run_due(&mut String::new);
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        metrics.run_due(&mut || "page\n".to_owned());
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert!(heard.ends_with("\r\n\r\npage\n"), "{heard}");
        drop(metrics);
        assert!(!path.exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn any_bytes_get_a_verdict_or_are_waited_for(
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
