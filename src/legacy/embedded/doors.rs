//! The doors of `[legacy]` in `spa-knockd run`, and statistics about their use.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::usage::{BusiestUsers, UsageStats};
use crate::config::{Interfaces, ServerConfig};
use crate::console::AdminError;
use crate::control::status::LegacyState;
use crate::ipc::OnMissingInterface;
use crate::legacy::daemon::{
    CLIENT, DoorOutcome, Doors, KnockLog, KnockdConfig, LegacyWatchConfig, NextDoors, action, grant_order,
    warn_replayable,
};
use crate::legacy::grants::LegacyOutcome;
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::os::process::privileges;
use crate::os::{clock, files};
use crate::supervisor::child::CaptureConfig;
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::Start;
use spa_knock_core::auth::{AuditRecord, KeyAge, Via};
use spa_knock_core::knock::Steady;

/// Subdirectory of the state directory for pending stop commands.
const FOLDER: &str = "legacy";
/// libpcap's name for all interfaces.
const ANY: &str = "any";

/// The doors, if there are any.
pub(crate) struct LegacyDoors {
    program: Rc<Result<Program, FileError>>,
    folder: PathBuf,
    /// Also `Some` if an earlier daemon has left stop commands.
    doors: Option<Doors>,
    usage: UsageStats,
    opened: u64,
}

/// The doors of a new config.
pub(crate) struct NextLegacyDoors {
    next: Option<NextDoors>,
    log_file: PathBuf,
    syslog: bool,
}

impl LegacyDoors {
    /// Starts a watcher for the doors of `knockd`, and loads the stop commands that an earlier daemon has left.
    ///
    /// # Errors
    /// If the watcher does not start or the stop commands cannot be read.
    pub(crate) fn start(
        program: &Rc<Result<Program, FileError>>,
        config: &ServerConfig,
        knockd: Option<&KnockdConfig>,
        start: Start,
    ) -> Result<Self, AdminError> {
        let folder = config.state_dir.join(FOLDER);
        let program = Rc::clone(program);
        let mut legacy_doors =
            Self { program, folder, doors: None, usage: UsageStats::new(clock::steady()), opened: 0 };
        if knockd.is_none() && files::exists(&legacy_doors.folder) {
            legacy_doors.doors = Some(legacy_doors.open()?);
        }
        let next = legacy_doors.prepare_for(config, knockd, start)?;
        legacy_doors.activate(next);
        warn_replayable(legacy_doors.count());
        Ok(legacy_doors)
    }

    /// Starts a watcher for the doors of `knockd` if they have changed.
    ///
    /// # Errors
    /// If the watcher does not start. Nothing has changed in this case.
    pub(crate) fn prepare(
        &mut self,
        config: &ServerConfig,
        knockd: Option<&KnockdConfig>,
    ) -> Result<NextLegacyDoors, AdminError> {
        self.prepare_for(config, knockd, Start::First)
    }

    fn prepare_for(
        &mut self,
        config: &ServerConfig,
        knockd: Option<&KnockdConfig>,
        start: Start,
    ) -> Result<NextLegacyDoors, AdminError> {
        let Some(knockd_config) = knockd.cloned() else {
            return Ok(NextLegacyDoors { next: None, log_file: PathBuf::new(), syslog: false });
        };
        let watch_config = watch_config(config, &knockd_config)?;
        // An empty path: without LogFile there is no log file.
        let log_file = knockd_config.options.log_file.clone().unwrap_or_default();
        let syslog = knockd_config.options.syslog;
        let mut doors = match self.doors.take() {
            Some(doors) => doors,
            None => self.open()?,
        };
        let misses_everything = start == Start::Later && watch_config.capture.misses_everything();
        let missing = match start {
            Start::First => OnMissingInterface::Fail,
            Start::Later => OnMissingInterface::Continue,
        };
        let next = match misses_everything {
            true => Ok(doors.prepare_without_interfaces(knockd_config, watch_config)),
            false => doors.prepare(knockd_config, watch_config, missing),
        };
        self.doors = Some(doors);
        Ok(NextLegacyDoors { next: Some(next.map_err(AdminError::run)?), log_file, syslog })
    }

    /// Replaces the doors.
    pub(crate) fn activate(&mut self, new: NextLegacyDoors) {
        let Some(doors) = &mut self.doors else { return };
        match new.next {
            Some(next) => {
                doors.activate(next);
                *doors.knock_log() = KnockLog::open(Some(new.log_file), new.syslog, false);
            }
            None => doors.close(),
        }
    }

    /// Number of doors.
    pub(crate) fn count(&self) -> usize {
        self.doors.as_ref().map_or(0, Doors::count)
    }

    /// Handles the watcher's reports and does what is due. Returns what the daemon must grant or record.
    pub(crate) fn run_due(&mut self) -> Vec<LegacyOutcome> {
        let Some(doors) = &mut self.doors else { return Vec::new() };
        let mut outcomes = doors.drain_reports();
        outcomes.extend(doors.run_due());
        let now = clock::steady();
        for outcome in &outcomes {
            if let DoorOutcome::Opened { source, .. } = outcome {
                self.opened = self.opened.saturating_add(1);
                self.usage.record(*source, now);
            }
        }
        outcomes.into_iter().filter_map(outcome).collect()
    }

    /// Waits up to 1 s for running start commands. Stop commands that are due later are left to the next daemon.
    pub(crate) fn stop(&mut self) -> Vec<LegacyOutcome> {
        let outcomes = self.doors.as_mut().map(Doors::wait_for_commands).unwrap_or_default();
        outcomes.into_iter().filter_map(outcome).collect()
    }

    /// The doors' part of the daemon status. `None` if there are no doors.
    pub(crate) fn state(&mut self) -> Option<LegacyState> {
        let doors = self.count();
        if doors == 0 {
            return None;
        }
        let BusiestUsers { addresses, users, other_openings } = self.usage.busiest(clock::steady());
        Some(LegacyState { doors, opened: self.opened, addresses, users, other_openings })
    }

    fn open(&self) -> Result<Doors, AdminError> {
        let folder: &Path = &self.folder;
        files::create_folder(folder, files::FileMode::Private)?;
        let client = CLIENT.parse().map_err(AdminError::run)?;
        Doors::open(Rc::clone(&self.program), Some(folder), client, KnockLog::open(None, false, false))
            .map_err(AdminError::run)
    }
}

impl Polled for LegacyDoors {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.doors.fds(out);
    }

    fn deadline(&self) -> Option<Steady> {
        self.doors.deadline()
    }
}

fn outcome(outcome: DoorOutcome) -> Option<LegacyOutcome> {
    match outcome {
        DoorOutcome::Opened { door, source, opening: Some(opening) } => {
            grant_order(&door, source, &opening).map(LegacyOutcome::Grant)
        }
        // A command is recorded when it ends.
        DoorOutcome::Opened { opening: None, .. } => None,
        DoorOutcome::CommandFinished { door, source, event, reason } => {
            let record = AuditRecord {
                event,
                client: CLIENT.parse().ok()?,
                key: KeyAge::Current,
                action: action(&door),
                addresses: vec![source],
                source: None,
                seconds: 0,
                reason,
                knock: None,
                via: Some(Via::Knockd),
                claim: None,
            };
            Some(LegacyOutcome::Record(record))
        }
    }
}

/// The watcher's settings. Its interfaces are those of the knockd.conf, otherwise those of `config`.
fn watch_config(
    config: &ServerConfig,
    knockd_config: &KnockdConfig,
) -> Result<LegacyWatchConfig, AdminError> {
    let mut interfaces = match (knockd_config.options.interfaces.as_slice(), &config.interfaces) {
        ([], Interfaces::Any) => Vec::new(),
        ([], Interfaces::Named(names)) => names.clone(),
        (names, _) => names.to_vec(),
    };
    if interfaces.iter().any(|name| name == ANY) {
        interfaces.clear();
    }
    let identity = privileges::unprivileged(&config.user)
        .map_err(|error| AdminError::run(format_args!("server.user: {}", files::io_error_text(&error))))?;
    let log = config.packet_log.clone();
    let capture = CaptureConfig { captures: log.is_none(), interfaces, log, identity };
    Ok(LegacyWatchConfig { config: knockd_config.text.clone(), only_v4: false, capture })
}
