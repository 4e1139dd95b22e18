//! Connects to the servers that have granted, each in a thread of its own; the first connection is used.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use super::target::KnockEvent;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::wait::{KnockAgain, for_connection, not_accepting, waiting};
use crate::client::report::Reporter;
use crate::os::clock;
use spa_knock_core::knock::Steady;

/// Connections under way. Dropping this ends the attempts.
pub(super) struct Connections {
    port: u16,
    patience: Duration,
    start: Steady,
    /// The addresses with a thread.
    begun: Vec<SocketAddr>,
    events: Sender<KnockEvent>,
    is_over: Arc<AtomicBool>,
}

impl Connections {
    /// Connections to TCP port `port`. Each is tried until `patience` is over, counted from now.
    pub(super) fn new(port: u16, patience: Duration, events: Sender<KnockEvent>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        Self { port, patience, start: clock::steady(), begun: Vec::new(), events, is_over }
    }

    /// Begins to connect to this server, unless it has been called for it before.
    pub(super) fn begin(&mut self, mut server: SocketAddr) {
        server.set_port(self.port);
        if self.begun.contains(&server) {
            return;
        }
        self.begun.push(server);
        let (end, events) = (self.end(), self.events.clone());
        let mut abandon = Abandon(Arc::clone(&self.is_over));
        let connect = move || {
            let left = end.since(clock::steady());
            // The error is the same for all, and made of all addresses.
            if let Ok(stream) = for_connection(&[server], left, Some(&mut abandon), &Reporter::SILENT) {
                let _ = events.send(KnockEvent::Connected(stream));
            }
        };
        // Without a thread there is no connection to this server, as if it did not accept one.
        let _ = thread::Builder::new().spawn(connect);
    }

    /// When the attempts end.
    pub(super) fn end(&self) -> Steady {
        self.start.plus(self.patience)
    }

    /// The text of the status line.
    pub(super) fn status(&self) -> String {
        let since = clock::steady().since(self.start);
        self.begun.last().map_or_else(String::new, |server| waiting(*server, since))
    }

    /// No server accepted a connection in time.
    pub(super) fn failure(&self) -> ClientError {
        not_accepting(&self.begun, self.patience)
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Ends an attempt once it is set.
struct Abandon(Arc<AtomicBool>);

impl KnockAgain for Abandon {
    fn deadline(&self) -> Option<Steady> {
        self.0.load(Ordering::Relaxed).then(clock::steady)
    }

    fn notice(&self) -> Option<String> {
        None
    }

    fn knock(&mut self) -> Result<(), ClientError> {
        Err(ClientError::new(ExitCause::NotAccepting, "another server has accepted the connection"))
    }
}
