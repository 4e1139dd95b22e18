//! What knocks are heard and answered with: the bound port, and a watcher that is replaced when it dies, loses an
//! interface or is not believed any more.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use super::child::{self, Disconnected};
use super::program::Program;
use super::restart::Restart;
use super::watcher_process::{WatchConfig, WatcherProcess};
use crate::capture::CaptureKind;
use crate::config::setup::Setup;
use crate::console::AdminError;
use crate::ipc::{MESSAGE, OnMissingInterface, ReplyPath, WatcherStats};
use crate::os::net::udp::{ReceiveMode, UdpPort};
use crate::os::poll::Polled;
use crate::os::process::privileges::{self, Identity};
use crate::os::{clock, files, host};
use spa_knock_core::knock::Steady;

/// How often a port that another process has is tried again.
const BIND_EVERY: Duration = Duration::from_secs(5);

/// The port and its watcher.
pub(crate) struct WatcherSupervisor {
    program: Rc<Program>,
    watch_config: WatchConfig,
    /// Bound for as long as the daemon runs, or the host would answer that nobody listens. None while another process
    /// has the port: captures work without it, but replies leave from no other port.
    socket: Option<UdpPort>,
    /// When the port is tried again.
    bind_due: Steady,
    /// Missing while restarting.
    watcher: Option<WatcherProcess>,
    /// It hears until another one does, even if that one hears less.
    distrusted: bool,
    restart: Restart,
    /// Of watchers that have been replaced.
    before: WatcherStats,
    /// How often another one took over as one died, lost an interface or was not believed.
    restarts: u64,
}

/// What may be missing when the watcher is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing: the gate has never been closed, so a failure locks no one out and shows what is wrong.
    First,
    /// Interfaces: the gate is closed already, and only a daemon can open it.
    Later,
}

impl WatcherSupervisor {
    /// Binds the port and starts a watcher.
    ///
    /// # Errors
    /// When the watcher does not watch, or the port that it receives from is taken.
    pub(crate) fn open(program: &Rc<Program>, setup: &Setup, start: Start) -> Result<Self, AdminError> {
        let watch_config = watch_post(setup)?;
        warn_of_nobody(&setup.config.user, watch_config.identity());
        let lacking = privileges::lacking(watch_config.identity());
        if !lacking.is_empty() {
            return Err(AdminError::run(format_args!("watcher: {}", host::lacking(&lacking))));
        }
        let socket = match bind(setup) {
            Ok(socket) => Some(socket),
            Err(failure) if setup.config.capture == CaptureKind::Udp => return Err(failure),
            Err(failure) => {
                log::warn!(
                    "{}\nknocks are captured, but get no reply; trying the port again",
                    failure.text()
                );
                None
            }
        };
        let mut supervisor = Self {
            program: Rc::clone(program),
            watch_config,
            socket,
            bind_due: clock::steady(),
            watcher: None,
            distrusted: false,
            restart: Restart::new(),
            before: WatcherStats::default(),
            restarts: 0,
        };
        let missing = match start {
            Start::First => OnMissingInterface::Fail,
            Start::Later => OnMissingInterface::Continue,
        };
        match supervisor.start(setup, missing) {
            Ok(watcher) => supervisor.watcher = Some(watcher),
            Err(reason) if start == Start::Later && supervisor.watch_config.misses_everything() => {
                log::error!("{reason}\nno knock is seen until an interface is there; looking for it");
                supervisor.restart.look_later();
            }
            Err(reason) => return Err(AdminError::run(reason)),
        }
        Ok(supervisor)
    }

    /// Takes one report of the watcher, if there is one.
    ///
    /// # Errors
    /// When the watcher is gone.
    pub(crate) fn try_recv(&mut self, buffer: &mut [u8; MESSAGE]) -> Result<Option<usize>, Disconnected> {
        self.watcher.as_mut().map_or(Ok(None), |watcher| watcher.try_recv(buffer))
    }

    /// Sends an answer from the address that was knocked at.
    ///
    /// # Errors
    /// When the system does not take it, or another process has the port.
    pub(crate) fn answer(&self, bytes: &[u8], way: ReplyPath) -> std::io::Result<()> {
        let Some(socket) = &self.socket else { return Err(std::io::ErrorKind::AddrInUse.into()) };
        socket.send(bytes, way.from, way.to, way.interface)
    }

    /// Whether replies can be sent.
    pub(crate) const fn replies(&self) -> bool {
        self.socket.is_some()
    }

    /// The interfaces that are not captured on because they are not there, or down.
    pub(crate) fn missing_interfaces(&self) -> Vec<String> {
        self.watch_config.missing_interfaces().into_iter().map(str::to_owned).collect()
    }

    /// The watcher, if there is one.
    pub(crate) const fn watcher(&mut self) -> Option<&mut WatcherProcess> {
        self.watcher.as_mut()
    }

    /// Since when the watcher watches.
    pub(crate) fn since(&self) -> Option<Steady> {
        self.watcher.as_ref().map(|watcher| watcher.child().since())
    }

    /// How long ago the watcher last reported.
    pub(crate) fn report_age(&self) -> Option<Duration> {
        self.watcher.as_ref().map(|watcher| watcher.child().silence(clock::steady()))
    }

    /// How often the watcher had to be replaced.
    pub(crate) const fn restarts(&self) -> u64 {
        self.restarts
    }

    /// What all watchers together have seen, as far as they have said so.
    pub(crate) fn seen(&self) -> WatcherStats {
        let now = self.watcher.as_ref().map(WatcherProcess::seen).unwrap_or_default();
        self.before.plus(now)
    }

    /// Ends a watcher; what it has seen still counts.
    pub(crate) fn retire(&mut self, old: WatcherProcess) {
        self.before = self.before.plus(old.seen());
        drop(old);
    }

    /// The watcher is gone, or goes now.
    pub(crate) fn on_exit(&mut self, why: &str) {
        if let Some(old) = self.watcher.take() {
            self.retire(old);
        }
        self.restart.postpone();
        log::error!("{why}\nstarting another watcher in {} ms", self.restart.delay().as_millis());
    }

    /// The watcher goes on with the interfaces that are left; one that watches all of them is tried for.
    pub(crate) fn on_interface_lost(&mut self, why: &str) {
        // Told once, not at each try that finds nothing changed.
        if !self.restart.is_longest() {
            log::error!("{why}\nwatching the rest, and trying this one again");
        }
        self.restart.postpone_unless_due();
    }

    /// The watcher is not believed any more.
    pub(crate) fn replace_untrusted(&mut self) {
        self.distrusted = true;
        self.restart.hurry();
    }

    /// Starts another watcher where one is due; returns the old one, which may have passed on what counts.
    pub(crate) fn run_due(&mut self, setup: &Setup) -> Option<WatcherProcess> {
        self.bind_again(setup);
        self.replace_if_silent();
        if !self.restart.take_due() {
            return None;
        }
        // While a watcher that is believed watches some interfaces, only one that watches all is better.
        let is_good = self.watcher.is_some() && !self.distrusted;
        let waits = if is_good {
            !self.watch_config.missing_interfaces().is_empty()
        } else {
            self.watch_config.misses_everything()
        };
        if waits && (is_good || self.watcher.is_none()) {
            // No process is started to find out what a look shows.
            self.restart.look_later();
            return None;
        }
        let missing = if is_good { OnMissingInterface::Fail } else { OnMissingInterface::Continue };
        match self.start(setup, missing) {
            Ok(watcher) => {
                log::info!("watching again");
                self.restarts = self.restarts.saturating_add(1);
                self.distrusted = false;
                return self.watcher.replace(watcher);
            }
            Err(_) if self.watcher.is_some() => self.restart.postpone(),
            Err(reason) => self.on_exit(&reason),
        }
        None
    }

    /// A watcher that hangs is replaced.
    fn replace_if_silent(&mut self) {
        let silent = child::take_silent(&mut self.watcher, WatcherProcess::child_mut);
        let Some((old, seconds)) = silent else { return };
        log::error!("the watcher has reported nothing for {seconds} s; replacing it");
        self.retire(old);
        self.restart.hurry();
    }

    /// Binds the port once the process that had it is gone.
    fn bind_again(&mut self, setup: &Setup) {
        let now = clock::steady();
        if self.socket.is_some() || now < self.bind_due {
            return;
        }
        self.bind_due = now.plus(BIND_EVERY);
        if let Ok(socket) = bind(setup) {
            log::info!("UDP port {}: ours now; knocks get replies again", setup.config.port);
            self.socket = Some(socket);
        }
    }

    /// New keys for the watcher, or another watcher where it must watch elsewhere; returns the old one then.
    ///
    /// # Errors
    /// When it cannot watch there; it goes on where it was.
    pub(crate) fn reconfigure(&mut self, new: &Setup) -> Result<Option<WatcherProcess>, AdminError> {
        let watch_config = watch_post(new)?;
        if self.watch_config == watch_config {
            if let Some(watcher) = &mut self.watcher
                && watcher.instruct(&watch_config, new.config.window, new.watched_keys()).is_err()
            {
                self.on_exit("the watcher does not listen");
            }
            return Ok(None);
        }
        let socket = match self.watch_config.port() == watch_config.port() {
            true => None,
            false => Some(bind(new)?),
        };
        let watcher = WatcherProcess::start(
            &self.program,
            &watch_config,
            OnMissingInterface::Fail,
            new.config.window,
            socket.as_ref().or(self.socket.as_ref()),
            new.watched_keys(),
        )
        .map_err(AdminError::run)?;
        if socket.is_some() {
            self.socket = socket;
        }
        self.watch_config = watch_config;
        self.distrusted = false;
        self.restart = Restart::new();
        Ok(self.watcher.replace(watcher))
    }

    fn start(&self, setup: &Setup, missing: OnMissingInterface) -> Result<WatcherProcess, String> {
        WatcherProcess::start(
            &self.program,
            &self.watch_config,
            missing,
            setup.config.window,
            self.socket.as_ref(),
            setup.watched_keys(),
        )
    }
}

impl Polled for WatcherSupervisor {
    /// Readable when the watcher has something to report.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.watcher.as_ref().map(AsFd::as_fd));
    }

    fn deadline(&self) -> Option<Steady> {
        let silent = self.watcher.as_ref().map(|watcher| watcher.child().silence_deadline());
        let bind = self.socket.is_none().then_some(self.bind_due);
        self.restart.deadline().into_iter().chain(silent).chain(bind).min()
    }
}

/// Processes of the same user can stop the watcher, and there may be others that run as nobody.
pub(crate) fn warn_of_nobody(user: &str, identity: Option<Identity>) {
    if identity.is_some() && !host::has_user(user) {
        log::warn!(
            "server.user: there is no user {user}: the watcher runs as nobody, whose other processes can stop it\n\
             hint: useradd --system --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin {user}"
        );
    }
}

/// What the watcher watches.
fn watch_post(setup: &Setup) -> Result<WatchConfig, AdminError> {
    WatchConfig::of(&setup.config)
        .map_err(|error| AdminError::run(format_args!("server.user: {}", files::io_error_text(&error))))
}

fn bind(setup: &Setup) -> Result<UdpPort, AdminError> {
    let incoming = match setup.config.capture {
        CaptureKind::Pcap => ReceiveMode::Unread,
        CaptureKind::Udp => ReceiveMode::Received,
    };
    let port = setup.config.port;
    UdpPort::bind(port, incoming).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("\nhint: 'ss -ulnp sport = :{port}' shows who has it; server.port sets another one")
            }
            _ => String::new(),
        };
        AdminError::run(format_args!("UDP port {port}: {}{hint}", files::io_error_text(&error)))
    })
}
