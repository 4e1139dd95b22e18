//! The doors of `[legacy]` in a running daemon, and what is counted of them. Without `[legacy]` there is nothing here.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::usage::UsageStats;
use crate::config::{Interfaces, ServerConfig};
use crate::console::AdminError;
use crate::control::status::{LegacyState, LegacyUser};
use crate::ipc::OnMissingInterface;
use crate::legacy::daemon::{
    CLIENT, DoorOutcome, Doors, KnockLog, KnockdConfig, LegacyWatchConfig, NextDoors, warn_replayable,
};
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::os::process::privileges;
use crate::os::{clock, files};
use crate::supervisor::child::CaptureConfig;
use crate::supervisor::program::Program;
use crate::supervisor::watcher_supervisor::Start;
use spa_knock_core::knock::Steady;

/// What is still to be closed, in the state folder.
const FOLDER: &str = "legacy";
/// libpcap's name for all interfaces.
const ANY: &str = "any";
/// How many of those who knock are named.
const USERS_SHOWN: usize = 10;

/// The doors, if there are or have been some.
pub(crate) struct LegacyDoors {
    program: Rc<Result<Program, FileError>>,
    folder: PathBuf,
    doors: Option<Doors>,
    usage: UsageStats,
    opened: u64,
}

/// What a reload brings.
pub(crate) struct NextLegacyDoors {
    coming: Option<NextDoors>,
    log_file: PathBuf,
    syslog: bool,
}

impl LegacyDoors {
    /// Starts to watch for the doors of `knockd`, and takes up what an earlier daemon left to be closed.
    ///
    /// # Errors
    /// When it cannot be watched for them, or it is not known what is still to be closed.
    pub(crate) fn start(
        program: &Rc<Result<Program, FileError>>,
        config: &ServerConfig,
        knockd: Option<&KnockdConfig>,
        start: Start,
    ) -> Result<Self, AdminError> {
        let folder = config.state_dir.join(FOLDER);
        let program = Rc::clone(program);
        let mut sequences =
            Self { program, folder, doors: None, usage: UsageStats::new(clock::steady()), opened: 0 };
        if knockd.is_none() && files::exists(&sequences.folder) {
            sequences.doors = Some(sequences.open()?);
        }
        let coming = sequences.prepare_for(config, knockd, start)?;
        sequences.activate(coming);
        warn_replayable(sequences.count());
        Ok(sequences)
    }

    /// Starts a watcher for the doors of `knockd`, if they are others.
    ///
    /// # Errors
    /// When it does not watch; nothing has changed then.
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
        let Some(written) = knockd.cloned() else {
            return Ok(NextLegacyDoors { coming: None, log_file: PathBuf::new(), syslog: false });
        };
        let watch_config = watch_config(config, &written)?;
        // Where it does not say where to log, nowhere.
        let log_file = written.options.log_file.clone().unwrap_or_default();
        let syslog = written.options.syslog;
        let mut doors = match self.doors.take() {
            Some(doors) => doors,
            None => self.open()?,
        };
        let misses_everything = start == Start::Later && watch_config.capture.misses_everything();
        let missing = match start {
            Start::First => OnMissingInterface::Fail,
            Start::Later => OnMissingInterface::Continue,
        };
        let coming = match misses_everything {
            true => Ok(doors.prepare_without_interfaces(written, watch_config)),
            false => doors.prepare(written, watch_config, missing),
        };
        self.doors = Some(doors);
        Ok(NextLegacyDoors { coming: Some(coming.map_err(AdminError::run)?), log_file, syslog })
    }

    /// From now on these are the doors.
    pub(crate) fn activate(&mut self, new: NextLegacyDoors) {
        let Some(doors) = &mut self.doors else { return };
        match new.coming {
            Some(coming) => {
                doors.activate(coming);
                *doors.knock_log() = KnockLog::open(Some(new.log_file), new.syslog, false);
            }
            None => doors.close(),
        }
    }

    /// How many doors there are.
    pub(crate) fn count(&self) -> usize {
        self.doors.as_ref().map_or(0, Doors::count)
    }

    /// Hears what has happened and does what is due; returns what it comes to.
    pub(crate) fn run_due(&mut self) -> Vec<DoorOutcome> {
        let Some(doors) = &mut self.doors else { return Vec::new() };
        let mut outcomes = doors.drain_reports();
        outcomes.extend(doors.run_due());
        let now = clock::steady();
        for outcome in &outcomes {
            if let DoorOutcome::Opened { source, .. } = outcome {
                self.opened = self.opened.saturating_add(1);
                self.usage.note(*source, now);
            }
        }
        outcomes
    }

    /// Waits a moment for commands that open. What is to be closed later waits for the next daemon.
    pub(crate) fn stop(&mut self) -> Vec<DoorOutcome> {
        self.doors.as_mut().map(Doors::wait_for_commands).unwrap_or_default()
    }

    /// What there is to say of them; nothing where there are none.
    pub(crate) fn state(&mut self) -> Option<LegacyState> {
        let doors = self.count();
        if doors == 0 {
            return None;
        }
        let counted = self.usage.count(clock::steady());
        let user = |&(address, opened): &(std::net::IpAddr, u64)| LegacyUser { address, opened };
        Some(LegacyState {
            doors,
            opened: self.opened,
            addresses: counted.addresses.len(),
            users: counted.addresses.iter().take(USERS_SHOWN).map(user).collect(),
            other_openings: counted.others,
        })
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

/// Where they are watched for: where the knockd.conf says it, else where knocks are.
fn watch_config(config: &ServerConfig, written: &KnockdConfig) -> Result<LegacyWatchConfig, AdminError> {
    let mut interfaces = match (written.options.interfaces.as_slice(), &config.interfaces) {
        ([], Interfaces::Any) => Vec::new(),
        ([], Interfaces::Named(names)) => names.clone(),
        (said, _) => said.to_vec(),
    };
    if interfaces.iter().any(|name| name == ANY) {
        interfaces.clear();
    }
    let identity = privileges::unprivileged(&config.user)
        .map_err(|error| AdminError::run(format_args!("server.user: {}", files::io_error_text(&error))))?;
    let log = config.packet_log.clone();
    let capture = CaptureConfig { captures: log.is_none(), interfaces, log, identity };
    Ok(LegacyWatchConfig { config: written.text.clone(), only_v4: false, capture })
}
