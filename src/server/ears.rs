//! What knocks are heard and answered with: the bound port, and a watcher that is replaced when it dies, loses an
//! interface or is not believed any more.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::console::Failure;
use super::messages::{MESSAGE, Missing, Seen, WayBack};
use super::run::Loaded;
use super::watcher_process::{Gone, Post, WatcherProcess};
use crate::config::CaptureKind;
use crate::os::udp::{Incoming, UdpPort};
use crate::os::{clock, files};

/// Before another watcher is started: at first, and at most.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(30);

/// The port and its watcher.
pub(super) struct Ears {
    post: Post,
    /// Bound for as long as the daemon runs, or the host would answer that nobody listens.
    socket: UdpPort,
    /// Missing while another one is on its way.
    watcher: Option<WatcherProcess>,
    /// It hears until another one does, even if that one hears less.
    distrusted: bool,
    restart: Restart,
    /// Of watchers that have been replaced.
    before: Seen,
    /// How often another one took over as one died, lost an interface or was not believed.
    restarts: u64,
}

/// When another watcher is started: later each time, unless the last one lived for a while.
struct Restart {
    /// None = all is well.
    due: Option<Duration>,
    last: Duration,
    delay: Duration,
}

impl Restart {
    fn new() -> Self {
        Self { due: None, last: clock::steady(), delay: Duration::ZERO }
    }

    fn postpone(&mut self) {
        let now = clock::steady();
        let lived_well = now.saturating_sub(self.last) > RESTART_MAX.saturating_mul(2);
        self.delay = if lived_well {
            RESTART_FIRST
        } else {
            self.delay.saturating_mul(2).clamp(RESTART_FIRST, RESTART_MAX)
        };
        self.due = Some(now.saturating_add(self.delay));
    }

    /// What is due stays due: a watcher that asks for this again and again must not put off its own end.
    fn postpone_unless_due(&mut self) {
        if self.due.is_none() {
            self.postpone();
        }
    }
}

impl Ears {
    /// Binds the port and starts a watcher.
    ///
    /// # Errors
    /// When the port is taken or the watcher does not watch.
    pub(super) fn open(loaded: &Loaded) -> Result<Self, Failure> {
        let post = loaded.post()?;
        let socket = bind(loaded)?;
        let watcher = start(loaded, &post, &socket, Missing::Fails).map_err(Failure::run)?;
        Ok(Self {
            post,
            socket,
            watcher: Some(watcher),
            distrusted: false,
            restart: Restart::new(),
            before: Seen::default(),
            restarts: 0,
        })
    }

    /// Readable when the watcher has something to report.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watcher.as_ref().map(AsFd::as_fd)
    }

    /// Takes one report of the watcher, if there is one.
    ///
    /// # Errors
    /// When the watcher is gone.
    pub(super) fn try_recv(&self, buffer: &mut [u8; MESSAGE]) -> Result<Option<usize>, Gone> {
        self.watcher.as_ref().map_or(Ok(None), |watcher| watcher.try_recv(buffer))
    }

    /// Sends an answer from the address that was knocked at.
    ///
    /// # Errors
    /// When the system does not take it.
    pub(super) fn answer(&self, bytes: &[u8], way: WayBack) -> std::io::Result<()> {
        self.socket.send(bytes, way.from, way.to, way.interface)
    }

    /// When `mind` has something to do.
    pub(super) const fn due(&self) -> Option<Duration> {
        self.restart.due
    }

    /// The watcher, if there is one.
    pub(super) const fn watcher(&mut self) -> Option<&mut WatcherProcess> {
        self.watcher.as_mut()
    }

    /// Since when the watcher watches, on the steady clock.
    pub(super) fn since(&self) -> Option<Duration> {
        self.watcher.as_ref().map(WatcherProcess::since)
    }

    /// How often the watcher had to be replaced.
    pub(super) const fn restarts(&self) -> u64 {
        self.restarts
    }

    /// What all watchers together have seen, as far as they have said so.
    pub(super) fn seen(&self) -> Seen {
        let now = self.watcher.as_ref().map(WatcherProcess::seen).unwrap_or_default();
        self.before.plus(now)
    }

    /// Ends a watcher; what it has seen still counts.
    pub(super) fn retire(&mut self, old: WatcherProcess) {
        self.before = self.before.plus(old.seen());
        drop(old);
    }

    /// The watcher is gone, or goes now.
    pub(super) fn lose(&mut self, why: &str) {
        if let Some(old) = self.watcher.take() {
            self.retire(old);
        }
        self.restart.postpone();
        log::error!("{why}\nstarting another watcher in {} ms", self.restart.delay.as_millis());
    }

    /// The watcher goes on with the interfaces that are left; one that watches all of them is tried for.
    pub(super) fn miss(&mut self, why: &str) {
        // Told once, not at each try that finds nothing changed.
        if self.restart.delay < RESTART_MAX {
            log::error!("{why}\nwatching the rest, and trying this one again");
        }
        self.restart.postpone_unless_due();
    }

    /// The watcher is not believed any more.
    pub(super) fn distrust(&mut self) {
        self.distrusted = true;
        self.restart.due = Some(clock::steady());
    }

    /// Starts another watcher where one is due; returns the old one, which may have passed on what counts.
    pub(super) fn mind(&mut self, loaded: &Loaded) -> Option<WatcherProcess> {
        let now = clock::steady();
        if self.restart.due.is_none_or(|due| now < due) {
            return None;
        }
        self.restart = Restart { due: None, last: now, delay: self.restart.delay };
        // While a watcher that is believed watches some interfaces, only one that watches all is better.
        let is_good = self.watcher.is_some() && !self.distrusted;
        let missing = if is_good { Missing::Fails } else { Missing::IsLost };
        match start(loaded, &self.post, &self.socket, missing) {
            Ok(watcher) => {
                log::info!("watching again");
                self.restarts = self.restarts.saturating_add(1);
                self.distrusted = false;
                return self.watcher.replace(watcher);
            }
            Err(_) if self.watcher.is_some() => self.restart.postpone(),
            Err(reason) => self.lose(&reason),
        }
        None
    }

    /// New keys for the watcher, or another watcher where it must watch elsewhere; returns the old one then.
    ///
    /// # Errors
    /// When it cannot watch there; it goes on where it was.
    pub(super) fn change(&mut self, new: &Loaded) -> Result<Option<WatcherProcess>, Failure> {
        let post = new.post()?;
        if self.post == post {
            if let Some(watcher) = &mut self.watcher
                && watcher.instruct(&post, new.config.window, new.watched_keys()).is_err()
            {
                self.lose("the watcher does not listen");
            }
            return Ok(None);
        }
        if self.post.port() != post.port() {
            let next = Self { before: self.before, restarts: self.restarts, ..Self::open(new)? };
            return Ok(std::mem::replace(self, next).watcher);
        }
        let watcher = start(new, &post, &self.socket, Missing::Fails).map_err(Failure::run)?;
        self.post = post;
        self.distrusted = false;
        self.restart = Restart::new();
        Ok(self.watcher.replace(watcher))
    }
}

fn bind(loaded: &Loaded) -> Result<UdpPort, Failure> {
    let incoming = match loaded.config.capture {
        CaptureKind::Pcap => Incoming::Unread,
        CaptureKind::Udp => Incoming::Received,
    };
    let port = loaded.config.port;
    UdpPort::bind(port, incoming).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("\nhint: 'ss -ulnp sport = :{port}' shows who has it; server.port sets another one")
            }
            _ => String::new(),
        };
        Failure::run(format_args!("UDP port {port}: {}{hint}", files::plain(&error)))
    })
}

fn start(loaded: &Loaded, post: &Post, socket: &UdpPort, missing: Missing) -> Result<WatcherProcess, String> {
    WatcherProcess::start(post, missing, loaded.config.window, socket, loaded.watched_keys())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_that_keeps_losing_interfaces_does_not_put_off_the_one_that_replaces_it() {
        let mut restart = Restart::new();
        restart.postpone_unless_due();
        let due = restart.due;
        assert!(due.is_some());
        for _ in 0..100 {
            restart.postpone_unless_due();
        }
        assert_eq!((restart.due, restart.delay), (due, RESTART_FIRST));
    }
}
