//! Serves `GET /metrics` on a loopback address or a Unix socket.

use std::os::fd::BorrowedFd;

use super::http::{HttpPage, HttpServer, PageStatus, Peers};
use crate::config::MetricsPlace;
use crate::os::files;
use crate::os::poll::Polled;
use spa_knock_core::knock::Steady;

/// The paths of the metrics.
const PATHS: &[&str] = &["/metrics"];

/// The server of the metrics.
pub(crate) struct Metrics {
    place: MetricsPlace,
    server: HttpServer,
}

impl Metrics {
    /// Starts listening. A Unix socket is accessible to its owner and group.
    ///
    /// # Errors
    /// The reason in human-readable form.
    pub(crate) fn open(place: MetricsPlace) -> Result<Self, String> {
        let server = match &place {
            // A loopback address, which only this host reaches.
            MetricsPlace::Tcp(address) => HttpServer::on_address(*address, Peers::All, PATHS)
                .map_err(|error| format!("server.metrics {address}: {}", files::io_error_text(&error)))?,
            MetricsPlace::Unix(path) => {
                HttpServer::on_path(path, PATHS).map_err(|error| format!("server.metrics: {error}"))?
            }
        };
        Ok(Self { place, server })
    }

    /// The address or path of the socket.
    pub(crate) const fn place(&self) -> &MetricsPlace {
        &self.place
    }

    /// Serves requests. Calls `page` only if the metrics are requested.
    pub(crate) fn run_due(&mut self, page: &mut dyn FnMut() -> String) {
        self.server.run_due(&mut || HttpPage { status: PageStatus::Available, body: page() });
    }
}

impl Polled for Metrics {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.server.fds(out);
    }

    fn deadline(&self) -> Option<Steady> {
        self.server.deadline()
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_unix_socket_serves_requests_and_is_removed_at_the_end() {
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
}
