//! The watcher: sees datagrams, passes on those that a client signed, and can do nothing else.

use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use super::messages::{MESSAGE, Order, Report, Sighting, Source};
use crate::capture::{Capture, CaptureError, Live, Next, Socket};
use crate::crypto::{Fingerprint, WatcherKeys};
use crate::gate::Watcher;
use crate::os::channel::{Channel, Received};
use crate::os::udp::UdpPort;
use crate::os::user::{self, Identity};
use crate::os::{clock, signals, wait};

use zeroize::Zeroizing;

/// How long the loop sleeps at most, and so how often the coming minute's hints are made ahead.
const TICK: Duration = Duration::from_secs(10);
/// Frames taken from one source before the others have their turn.
const BATCH: usize = 256;

/// Runs until the keeper closes its end of the channel.
#[must_use]
pub(super) fn main() -> ExitCode {
    crate::os::log::start("spa-knockd watch");
    let Ok(channel) = Channel::from_stdin() else { return ExitCode::FAILURE };
    if signals::ignore_all().is_err() {
        return ExitCode::FAILURE;
    }
    match Running::start(channel).and_then(|mut running| running.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended) => ExitCode::FAILURE,
    }
}

/// The watcher cannot go on; the keeper has been told why, if it is still there.
struct Ended;

struct Running {
    channel: Channel,
    captures: Vec<Box<dyn Capture>>,
    watcher: Watcher,
    /// What a new set of keys brings together, until it is whole.
    coming: Coming,
    prepared: Duration,
}

#[derive(Default)]
struct Coming {
    how: Option<(Source, u16, Duration)>,
    interfaces: Vec<String>,
    identity: Option<Identity>,
    clients: Vec<(Fingerprint, WatcherKeys)>,
}

impl Running {
    /// Receives the first orders and opens the captures.
    fn start(channel: Channel) -> Result<Self, Ended> {
        let mut running = Self {
            channel,
            captures: Vec::new(),
            watcher: Watcher::new(Duration::ZERO, []),
            coming: Coming::default(),
            prepared: clock::steady(),
        };
        let mut buffer = Zeroizing::new([0; MESSAGE]);
        while running.captures.is_empty() {
            match running.channel.recv(&mut *buffer) {
                Ok(Received::Message(length)) => running.obey(buffer.get(..length).unwrap_or_default())?,
                Ok(Received::Nothing) => {}
                Ok(Received::Closed) | Err(_) => return Err(Ended),
            }
        }
        running.report(&Report::Watching)?;
        Ok(running)
    }

    fn run(&mut self) -> Result<(), Ended> {
        loop {
            let mut fds: Vec<BorrowedFd<'_>> = vec![self.channel.as_fd()];
            fds.extend(self.captures.iter().map(|capture| capture.descriptor()));
            let ready = wait::readable(&fds, TICK).map_err(|_| Ended)?;
            let mut ready = ready.into_iter();
            if ready.next() == Some(true) && self.take_orders()? == Channels::Closed {
                let counts = self.watcher.counts();
                log::info!("ended; datagrams of a knock's length since the start: {counts}");
                return Ok(());
            }
            for (place, _) in ready.enumerate().filter(|(_, ready)| *ready) {
                self.take_datagrams(place)?;
            }
            let now = clock::now();
            if now.steady.saturating_sub(self.prepared) >= TICK {
                self.watcher.prepare(now.wall);
                self.prepared = now.steady;
            }
        }
    }

    fn take_orders(&mut self) -> Result<Channels, Ended> {
        let mut buffer = Zeroizing::new([0; MESSAGE]);
        loop {
            match self.channel.try_recv(&mut *buffer) {
                Ok(Received::Message(length)) => self.obey(buffer.get(..length).unwrap_or_default())?,
                Ok(Received::Nothing) => return Ok(Channels::Open),
                Ok(Received::Closed) => return Ok(Channels::Closed),
                Err(_) => return Err(Ended),
            }
        }
    }

    fn obey(&mut self, message: &[u8]) -> Result<(), Ended> {
        match Order::read(message).ok_or(Ended)? {
            Order::Watch { source, port, window } => {
                self.coming = Coming { how: Some((source, port, window)), ..Coming::default() };
            }
            Order::Interface(name) => self.coming.interfaces.push(name),
            Order::Become(identity) => self.coming.identity = Some(identity),
            Order::Key(fingerprint, keys) => self.coming.clients.push((fingerprint, keys)),
            Order::Go => {
                let coming = std::mem::take(&mut self.coming);
                let (source, port, window) = coming.how.ok_or(Ended)?;
                if self.captures.is_empty() {
                    self.captures = self.open(source, port, &coming.interfaces)?;
                    // From here on nothing needs root, and every byte that comes is a stranger's.
                    if let Some(identity) = coming.identity {
                        user::become_user(identity)
                            .map_err(|error| self.fail(format!("watcher: {error}")))?;
                    }
                }
                self.watcher.replace_clients(window, coming.clients);
                self.watcher.prepare(clock::wall());
            }
        }
        Ok(())
    }

    fn open(&self, source: Source, port: u16, interfaces: &[String]) -> Result<Vec<Box<dyn Capture>>, Ended> {
        let captures = match source {
            Source::Socket => UdpPort::from_stdout()
                .map(|socket| vec![boxed(Socket::new(socket, port))])
                .map_err(|error| error.to_string()),
            Source::Capture => live(interfaces, port).map_err(|error| error.to_string()),
        };
        captures.map_err(|reason| self.fail(reason))
    }

    fn take_datagrams(&mut self, place: usize) -> Result<(), Ended> {
        let Some(capture) = self.captures.get_mut(place) else { return Ok(()) };
        for _ in 0..BATCH {
            let segment = match capture.next() {
                Ok(Next::Datagram(segment)) => segment,
                Ok(Next::Other) => continue,
                Ok(Next::Empty) => return Ok(()),
                Err(error) => {
                    let reason = error.to_string();
                    return Err(self.fail(reason));
                }
            };
            let Ok(knock) = self.watcher.judge(segment.payload, clock::wall()) else { continue };
            let sighting = Sighting {
                source: segment.source,
                destination: segment.destination.ip(),
                interface: segment.interface.unwrap_or(0),
                knock,
            };
            // A keeper that is busy gets the client's next copy.
            match self.channel.try_send(&*Report::Knock(sighting).to_bytes()) {
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(Ended),
                _ => {}
            }
        }
        Ok(())
    }

    fn report(&self, report: &Report<'_>) -> Result<(), Ended> {
        self.channel.send(&*report.to_bytes()).map_err(|_| Ended)
    }

    fn fail(&self, reason: String) -> Ended {
        // If the keeper is gone too, nobody is left to be told.
        let _ = self.report(&Report::Failed(reason));
        Ended
    }
}

fn live(interfaces: &[String], port: u16) -> Result<Vec<Box<dyn Capture>>, CaptureError> {
    if interfaces.is_empty() {
        return Ok(vec![boxed(Live::open(None, port)?)]);
    }
    interfaces.iter().map(|name| Live::open(Some(name), port).map(boxed)).collect()
}

fn boxed(capture: impl Capture + 'static) -> Box<dyn Capture> {
    Box::new(capture)
}

#[derive(PartialEq, Eq)]
enum Channels {
    Open,
    Closed,
}
