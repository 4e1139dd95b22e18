//! fwknop's stanzas in `spa-knockd run`, and statistics about their use.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::usage::{BusiestUsers, UsageStats};
use crate::capture::CaptureKind;
use crate::config::{self, ConfigErrors, Interfaces, LEGACY_CLIENTS, Problem, ServerConfig, SourceLocation};
use crate::console::AdminError;
use crate::control::status::FwknopState;
use crate::firewall::FirewallMode;
use crate::ipc::OnMissingInterface;
use crate::legacy::fwknop::{FwknopConfig, FwknopService, FwknopWatchConfig, NextStanzas, reset_memory};
use crate::legacy::grants::LegacyOutcome;
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::os::process::privileges;
use crate::os::{clock, files};
use crate::state::{self, StateError};
use crate::supervisor::child::CaptureConfig;
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::Start;
use spa_knock_core::auth::Via;
use spa_knock_core::knock::{Now, PortSpec, Protocol, Steady};

/// Subdirectory of the state directory for accepted packets and closing commands.
const FOLDER: &str = "fwknop";

/// The content of access.conf, and of fwknopd.conf beside it.
pub(crate) type FwknopFiles = Rc<FwknopConfig>;

/// Reads the access.conf that `config` names. `None` if it names none.
///
/// # Errors
/// The errors in it, with their lines.
pub(super) fn load(config: &ServerConfig) -> Result<Option<FwknopFiles>, ConfigErrors> {
    let Some(path) = config.legacy.as_ref().and_then(|legacy| legacy.fwknop.as_ref()) else {
        return Ok(None);
    };
    if !files::exists(path) {
        let place = config.places.of(&["legacy", "fwknop"]).clone();
        let message = format!("legacy.fwknop: {}: no such file or directory", path.display());
        let hint = Some("correct the path, or remove the line".to_owned());
        return Err(ConfigErrors::of(vec![Problem { place, message, hint }]));
    }
    let fwknop = FwknopConfig::read(path)?;
    let udp = fwknop.server.ports.udp.as_ref();
    let mut problems = Vec::new();
    let mut problem = |message: String, hint: &str| {
        let place = SourceLocation::file(path);
        problems.push(Problem { place, message, hint: Some(hint.to_owned()) });
    };
    if config.capture == CaptureKind::Udp {
        let number = udp.map_or(0, |ports| *ports.start());
        if number == config.port {
            problem(
                format!(
                    "UDP port {number} is also server.port, and with capture = \"udp\" each needs its own"
                ),
                "set ENABLE_UDP_SERVER Y and another UDPSERV_PORT in fwknopd.conf, and that port in the clients; or set capture = \"pcap\"",
            );
        }
        let received = PortSpec::new(Protocol::Udp, number).filter(|_| config.mode == FirewallMode::Guard);
        if let Some(closed) =
            received.and_then(|port| config.guarded().find(|ports| ports.contain(port.into())))
        {
            problem(
                format!(
                    "UDP port {number} is closed by {closed} in [firewall], so that no packet would arrive"
                ),
                "leave it out there; split a range around it",
            );
        }
        if fwknop.server.http
            || fwknop.server.tcp_server.is_some()
            || udp.is_none_or(|ports| ports.start() != ports.end())
        {
            problem(
                "packets over TCP, or to several ports, must be captured".to_owned(),
                "set capture = \"pcap\" in [server], or ENABLE_UDP_SERVER Y without TCP in fwknopd.conf",
            );
        }
    }
    if problems.is_empty() { Ok(Some(Rc::new(fwknop))) } else { Err(ConfigErrors::of(problems)) }
}

/// Replaces the memory of accepted packets, if `[legacy]` has stanzas: what `spa-knockd state reset` does for knocks.
///
/// # Errors
/// If a daemon runs, the config has errors, or the memory cannot be written.
pub(crate) fn reset_fwknop(config: &Path, forget: bool) -> Result<(), AdminError> {
    let config = config::load(config)?;
    let folder = config.state_dir.join(FOLDER);
    let Some(access) = config.legacy.as_ref().and_then(|legacy| legacy.fwknop.as_ref()) else {
        return Ok(());
    };
    if !files::exists(&folder) {
        return Ok(());
    }
    let _lock = state::lock(&config.state_dir)?;
    reset_memory(&folder, FwknopConfig::read(access)?.window(), forget)
}

/// The stanzas, if there are any.
pub(super) struct FwknopStanzas {
    program: Rc<Result<Program, FileError>>,
    folder: PathBuf,
    /// Also `Some` if an earlier daemon has left closing commands.
    service: Option<FwknopService>,
    usage: UsageStats,
}

/// The stanzas of a new config.
pub(super) struct NextFwknopStanzas(Option<NextStanzas>);

impl FwknopStanzas {
    /// Starts a watcher for the stanzas, and loads the closing commands that an earlier daemon has left.
    ///
    /// # Errors
    /// If the watcher does not start or the commands cannot be read.
    pub(super) fn start(
        program: &Rc<Result<Program, FileError>>,
        config: &ServerConfig,
        fwknop: Option<&FwknopFiles>,
        start: Start,
    ) -> Result<Self, AdminError> {
        let folder = config.state_dir.join(FOLDER);
        let usage = UsageStats::new(clock::steady());
        let mut stanzas = Self { program: Rc::clone(program), folder, service: None, usage };
        if fwknop.is_none() && files::exists(&stanzas.folder) {
            stanzas.service = Some(stanzas.open()?);
        }
        let next = stanzas.prepare(config, fwknop, start)?;
        stanzas.activate(next);
        Ok(stanzas)
    }

    /// Starts a watcher for the stanzas, if the present one cannot continue.
    ///
    /// # Errors
    /// If the watcher does not start. Nothing has changed in this case.
    pub(super) fn prepare(
        &mut self,
        config: &ServerConfig,
        fwknop: Option<&FwknopFiles>,
        start: Start,
    ) -> Result<NextFwknopStanzas, AdminError> {
        let Some(fwknop) = fwknop else { return Ok(NextFwknopStanzas(None)) };
        let service = match self.service.take() {
            Some(service) => service,
            None => self.open()?,
        };
        let missing = match start {
            Start::First => OnMissingInterface::Fail,
            Start::Later => OnMissingInterface::Continue,
        };
        let next = capture(config)
            .map(|capture| FwknopWatchConfig::new(&fwknop.server, capture))
            .and_then(|watch_config| service.prepare(Rc::clone(fwknop), watch_config, missing));
        self.service = Some(service);
        next.map(|next| NextFwknopStanzas(Some(next)))
    }

    /// Replaces the stanzas.
    pub(super) fn activate(&mut self, NextFwknopStanzas(next): NextFwknopStanzas) {
        let Some(service) = &mut self.service else { return };
        match next {
            Some(next) => service.activate(next),
            None => service.close(),
        }
    }

    /// Refuses every packet that another host can have accepted, also after a restart.
    ///
    /// # Errors
    /// If this is not on disk.
    pub(super) fn refuse_until_now(&mut self, now: Now) -> Result<(), StateError> {
        self.service.as_mut().map_or(Ok(()), |service| service.refuse_until_now(now))
    }

    /// Number of stanzas.
    pub(super) fn count(&self) -> usize {
        self.service.as_ref().map_or(0, FwknopService::count)
    }

    /// Handles the watcher's reports and does what is due. Returns what the daemon must grant or record.
    pub(super) fn run_due(&mut self) -> Vec<LegacyOutcome> {
        let Some(service) = &mut self.service else { return Vec::new() };
        let outcomes = service.run_due();
        let now = clock::steady();
        for outcome in &outcomes {
            match outcome {
                LegacyOutcome::Grant(order) => self.usage.record(order.address, now),
                LegacyOutcome::Record(record)
                    if record.via == Some(Via::Fwknop) && record.reason.is_none() =>
                {
                    record.addresses.iter().for_each(|address| self.usage.record(*address, now));
                }
                LegacyOutcome::Record(_) => {}
            }
        }
        outcomes
    }

    /// Ends commands and the state. Returns what the daemon must record.
    pub(super) fn stop(&mut self) -> Vec<LegacyOutcome> {
        self.service.as_mut().map(FwknopService::stop).unwrap_or_default()
    }

    /// The stanzas' part of the daemon's status. `None` if there are no stanzas.
    pub(super) fn state(&mut self) -> Option<FwknopState> {
        let (stanzas, counts) = (self.count(), self.service.as_ref()?.counts());
        if stanzas == 0 {
            return None;
        }
        let BusiestUsers { addresses, users, other_openings } = self.usage.busiest(clock::steady());
        let (accepted, refused) = (counts.accepted, counts.refused);
        Some(FwknopState { stanzas, accepted, refused, addresses, users, other_openings })
    }

    fn open(&self) -> Result<FwknopService, AdminError> {
        let folder: &Path = &self.folder;
        files::create_folder(folder, files::FileMode::Private)?;
        let [_, client] = LEGACY_CLIENTS;
        FwknopService::open(&self.program, folder, client.parse().map_err(AdminError::run)?)
    }
}

impl Polled for FwknopStanzas {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.service.fds(out);
    }

    fn deadline(&self) -> Option<Steady> {
        self.service.deadline()
    }
}

/// How the watcher receives packets: as our own knocks, and on the same interfaces.
fn capture(config: &ServerConfig) -> Result<CaptureConfig, AdminError> {
    let interfaces = match &config.interfaces {
        Interfaces::Any => Vec::new(),
        Interfaces::Named(names) => names.clone(),
    };
    let identity = privileges::unprivileged(&config.user)
        .map_err(|error| AdminError::run(format_args!("server.user: {}", files::io_error_text(&error))))?;
    Ok(CaptureConfig { captures: config.capture == CaptureKind::Pcap, interfaces, log: None, identity })
}
