//! The bound knock port, which sends replies, and the watcher, which is replaced when it exits, hangs, loses an
//! interface or is not trusted any more.

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
use crate::os::process::privileges::Identity;
use crate::os::{clock, files, host};
use spa_knock_core::knock::Steady;

/// How often to retry binding a port that another process uses.
const BIND_EVERY: Duration = Duration::from_secs(5);

/// The port and its watcher.
pub(crate) struct WatcherSupervisor {
    program: Rc<Program>,
    watch_config: WatchConfig,
    /// Bound as long as the daemon runs; otherwise the host would answer knocks with ICMP "port unreachable". None
    /// while another process uses the port: captures work anyway, but replies cannot be sent from another port.
    socket: Option<UdpPort>,
    /// When to retry binding the port.
    bind_due: Steady,
    /// None while a restart is scheduled.
    watcher: Option<WatcherProcess>,
    /// The watcher is not trusted. It watches until another one does, even if that one misses interfaces.
    is_distrusted: bool,
    restart: Restart,
    /// Statistics of watchers that have been replaced.
    before: WatcherStats,
    /// How often a watcher was replaced because it exited, hung, lost an interface or was not trusted.
    restarts: u64,
}

/// What may be missing when the first watcher is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing: the gate has never been closed, so a failure locks no one out and shows what is wrong.
    First,
    /// Interfaces: the gate is already closed, and only a daemon can open it.
    Later,
}

impl WatcherSupervisor {
    /// Binds the port and starts a watcher.
    ///
    /// # Errors
    /// If the watcher cannot watch, or the port is in use and the watcher needs it to receive.
    pub(crate) fn open(program: &Rc<Program>, setup: &Setup, start: Start) -> Result<Self, AdminError> {
        let watch_config = watch_config_of(setup)?;
        warn_of_nobody(&setup.config.user, watch_config.identity());
        let socket = match bind(setup) {
            Ok(socket) => Some(socket),
            Err(failure) if setup.config.capture == CaptureKind::Udp => return Err(failure),
            Err(failure) => {
                log::warn!("{}\nknocks are captured, but get no reply; retrying the port", failure.text());
                None
            }
        };
        let mut supervisor = Self {
            program: Rc::clone(program),
            watch_config,
            socket,
            bind_due: clock::steady(),
            watcher: None,
            is_distrusted: false,
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
                log::error!(
                    "{reason}\nno knock is received until an interface is available; checking for one"
                );
                supervisor.restart.look_later();
            }
            Err(reason) => return Err(AdminError::run(reason)),
        }
        Ok(supervisor)
    }

    /// Receives one report of the watcher, if there is one.
    ///
    /// # Errors
    /// If the watcher has exited.
    pub(crate) fn try_recv(&mut self, buffer: &mut [u8; MESSAGE]) -> Result<Option<usize>, Disconnected> {
        self.watcher.as_mut().map_or(Ok(None), |watcher| watcher.try_recv(buffer))
    }

    /// Sends a reply from the address that was knocked at.
    ///
    /// # Errors
    /// If the system cannot send it, or another process uses the port.
    pub(crate) fn send_reply(&self, bytes: &[u8], path: ReplyPath) -> std::io::Result<()> {
        let Some(socket) = &self.socket else { return Err(std::io::ErrorKind::AddrInUse.into()) };
        socket.send(bytes, path.from, path.to, path.interface)
    }

    /// Whether replies can be sent.
    pub(crate) const fn replies(&self) -> bool {
        self.socket.is_some()
    }

    /// The interfaces that are not captured on because they do not exist or are down.
    pub(crate) fn missing_interfaces(&self) -> Vec<String> {
        self.watch_config.missing_interfaces().into_iter().map(str::to_owned).collect()
    }

    /// The watcher, if there is one.
    pub(crate) const fn watcher(&mut self) -> Option<&mut WatcherProcess> {
        self.watcher.as_mut()
    }

    /// When the watcher was started.
    pub(crate) fn since(&self) -> Option<Steady> {
        self.watcher.as_ref().map(|watcher| watcher.child().since())
    }

    /// Time since the watcher's last report.
    pub(crate) fn report_age(&self) -> Option<Duration> {
        self.watcher.as_ref().map(|watcher| watcher.child().silence(clock::steady()))
    }

    /// Number of times the watcher was replaced.
    pub(crate) const fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The statistics of all watchers together, as of their last reports.
    pub(crate) fn stats(&self) -> WatcherStats {
        let now = self.watcher.as_ref().map(WatcherProcess::stats).unwrap_or_default();
        self.before.plus(now)
    }

    /// Ends a watcher, and keeps its statistics.
    pub(crate) fn retire(&mut self, old: WatcherProcess) {
        self.before = self.before.plus(old.stats());
        drop(old);
    }

    /// Handles a watcher that has exited, or ends one that does not work; schedules a restart.
    pub(crate) fn on_exit(&mut self, reason: &str) {
        if let Some(old) = self.watcher.take() {
            self.retire(old);
        }
        self.restart.postpone();
        log::error!("{reason}\nstarting another watcher in {} ms", self.restart.delay().as_millis());
    }

    /// The watcher continues with the other interfaces; schedules attempts to watch all of them again.
    pub(crate) fn on_interface_lost(&mut self, reason: &str) {
        // Logged once, not at each attempt that finds nothing changed.
        if !self.restart.is_longest() {
            log::error!("{reason}\nwatching the rest; retrying this one");
        }
        self.restart.postpone_unless_due();
    }

    /// The watcher is not trusted any more: schedules its replacement.
    pub(crate) fn replace_untrusted(&mut self) {
        self.is_distrusted = true;
        self.restart.hurry();
    }

    /// Starts another watcher if one is due. Returns the old one, whose channel may still contain valid knocks.
    pub(crate) fn run_due(&mut self, setup: &Setup) -> Option<WatcherProcess> {
        self.bind_again(setup);
        self.replace_if_silent();
        if !self.restart.take_due() {
            return None;
        }
        // While a trusted watcher watches some interfaces, only one that watches all of them is better.
        let is_good = self.watcher.is_some() && !self.is_distrusted;
        let waits = if is_good {
            !self.watch_config.missing_interfaces().is_empty()
        } else {
            self.watch_config.misses_everything()
        };
        if waits && (is_good || self.watcher.is_none()) {
            // A process would fail because of the missing interfaces, which a cheap check has found.
            self.restart.look_later();
            return None;
        }
        let missing = if is_good { OnMissingInterface::Fail } else { OnMissingInterface::Continue };
        match self.start(setup, missing) {
            Ok(watcher) => {
                log::info!("watching again");
                self.restarts = self.restarts.saturating_add(1);
                self.is_distrusted = false;
                return self.watcher.replace(watcher);
            }
            Err(_) if self.watcher.is_some() => self.restart.postpone(),
            Err(reason) => self.on_exit(&reason),
        }
        None
    }

    /// Replaces a watcher that hangs.
    fn replace_if_silent(&mut self) {
        let silent = child::take_silent(&mut self.watcher, WatcherProcess::child_mut);
        let Some((old, seconds)) = silent else { return };
        log::error!("the watcher has reported nothing for {seconds} s; replacing it");
        self.retire(old);
        self.restart.hurry();
    }

    /// Retries binding the port, until the process that uses it is gone.
    fn bind_again(&mut self, setup: &Setup) {
        let now = clock::steady();
        if self.socket.is_some() || now < self.bind_due {
            return;
        }
        self.bind_due = now.plus(BIND_EVERY);
        if let Ok(socket) = bind(setup) {
            log::info!("UDP port {}: bound; knocks get replies again", setup.config.port);
            self.socket = Some(socket);
        }
    }

    /// Sends new keys to the watcher, or starts another watcher if the capture or the port has changed. Returns the old
    /// one in that case.
    ///
    /// # Errors
    /// If the new watcher cannot watch; the old one continues.
    pub(crate) fn reconfigure(&mut self, new: &Setup) -> Result<Option<WatcherProcess>, AdminError> {
        let watch_config = watch_config_of(new)?;
        if self.watch_config == watch_config {
            if let Some(watcher) = &mut self.watcher
                && watcher.replace_keys(&watch_config, new.config.window, new.watched_keys()).is_err()
            {
                self.on_exit("watcher: does not accept its new keys");
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
        self.is_distrusted = false;
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
    /// Readable when the watcher has sent a report.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.watcher.as_ref().map(AsFd::as_fd));
    }

    fn deadline(&self) -> Option<Steady> {
        let silent = self.watcher.as_ref().map(|watcher| watcher.child().silence_deadline());
        let bind = self.socket.is_none().then_some(self.bind_due);
        self.restart.deadline().into_iter().chain(silent).chain(bind).min()
    }
}

/// Warns if the watcher runs as nobody: processes of the same user can stop it, and others may run as nobody too.
pub(crate) fn warn_of_nobody(user: &str, identity: Option<Identity>) {
    if identity.is_some() && !host::has_user(user) {
        log::warn!(
            "server.user: user {user} does not exist: the watcher runs as nobody, and other processes of that user can stop it\nhint: {}",
            host::command_for_user(user)
        );
    }
}

fn watch_config_of(setup: &Setup) -> Result<WatchConfig, AdminError> {
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
                format!("\nhint: find the process that uses it with 'ss -ulnp sport = :{port}', or set another server.port")
            }
            // A start has the privilege; `check` reports it if not.
            std::io::ErrorKind::PermissionDenied => {
                "\nhint: use a port from 1024, or restart spa-knockd, which has dropped the privilege for this one"
                    .to_owned()
            }
            _ => String::new(),
        };
        AdminError::run(format_args!("UDP port {port}: {}{hint}", files::io_error_text(&error)))
    })
}
