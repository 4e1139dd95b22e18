//! The keeper's part: receives packets from the watcher, decides, records, and runs commands. Part of the event loop of
//! `spa-knockd fwknopd` or of `spa-knockd run`, which makes the grants.

mod adopted_digests;
mod bound_ports;
mod drop_log;
mod effects;
mod reconfigure;
mod restart;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::audit::{record, with_reason};
use super::commands::PacketCommands;
use super::interrupted::report_interrupted;
use super::ipc::{ArrivedPacket, FromFwknopWatcher};
use super::verifier::{PacketJudgment, RefusedPacket, Verifier};
use super::watcher_process::{FwknopWatchConfig, FwknopWatcher};
use crate::console::AdminError;
use crate::ipc::{FromShell, MESSAGE};
use crate::legacy::grants::LegacyOutcome;
use crate::os::clock;
use crate::os::files::{self, FileError};
use crate::os::poll::Polled;
use crate::state::{self, ReplayFolder, StateError};
use crate::supervisor::child::Disconnected;
use crate::supervisor::program::Program;
use crate::supervisor::restart::Restart;
use bound_ports::BoundPorts;
use drop_log::DropLog;
use spa_knock_core::auth::{AuditCause, AuditEvent, AuditRecord, Explanation};
use spa_knock_core::knock::{ClientName, Now, Steady};

pub(crate) use reconfigure::NextStanzas;

/// Most packets to handle before the rest of the event loop runs.
const BATCH: usize = 32;

/// The stanzas with their watcher, state and commands.
pub(crate) struct FwknopService {
    program: Rc<Result<Program, FileError>>,
    client: ClientName,
    folder: PathBuf,
    commands: PacketCommands,
    /// Records that are not reported yet.
    left: Vec<AuditRecord>,
    /// None if there is no config.
    active: Option<ActiveStanzas>,
    ports: BoundPorts,
    watcher: Option<FwknopWatcher>,
    restart: Restart,
    dropped: DropLog,
    counts: PacketCounts,
}

/// What a config needs to work.
struct ActiveStanzas {
    verifier: Verifier,
    state: ReplayFolder,
    watch_config: FwknopWatchConfig,
    sudo: PathBuf,
}

/// How many packets have been decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PacketCounts {
    /// Packets that were permitted.
    pub(crate) accepted: u64,
    /// Authentic packets that were refused.
    pub(crate) refused: u64,
}

impl FwknopService {
    /// Creates the service without stanzas. Loads the closing commands that an earlier daemon has left in `folder`.
    ///
    /// # Errors
    /// If they cannot be read, or a thread cannot be started.
    pub(crate) fn open(
        program: &Rc<Result<Program, FileError>>,
        folder: &Path,
        client: ClientName,
    ) -> Result<Self, AdminError> {
        let (closing, left) = state::open_undo_queue_in(folder).map_err(AdminError::run)?;
        let commands = PacketCommands::new(closing).map_err(|error| {
            AdminError::run(format_args!("worker thread: {}", files::io_error_text(&error)))
        })?;
        Ok(Self {
            program: Rc::clone(program),
            client,
            folder: folder.to_owned(),
            commands,
            left: report_interrupted(left),
            active: None,
            ports: BoundPorts::default(),
            watcher: None,
            restart: Restart::new(),
            dropped: DropLog::default(),
            counts: PacketCounts::default(),
        })
    }

    /// Number of stanzas.
    pub(crate) fn count(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.verifier.stanzas().len())
    }

    /// How many packets have been decided.
    pub(crate) const fn counts(&self) -> PacketCounts {
        self.counts
    }

    /// Handles the watcher's reports, commands and timers. Returns what the daemon must grant or record.
    pub(crate) fn run_due(&mut self) -> Vec<LegacyOutcome> {
        let mut outcomes = Vec::new();
        self.drain_reports(&mut outcomes);
        self.restart_if_due();
        let now = clock::now();
        self.ports.run_due(now.steady);
        if let Some(ActiveStanzas { verifier, state, .. }) = &mut self.active {
            state.run_due(verifier.memory(), now, verifier.ahead());
            // Its packets need neither use counts nor leases that they wait for.
            let _ = state.ended();
        }
        let records = self.commands.run_due();
        outcomes.extend(self.left.drain(..).chain(records).map(LegacyOutcome::Record));
        outcomes
    }

    /// Refuses every packet that another host can have accepted, also after a restart.
    ///
    /// # Errors
    /// If this is not on disk.
    pub(crate) fn refuse_until_now(&mut self, now: Now) -> Result<(), StateError> {
        let Some(ActiveStanzas { verifier, state, .. }) = &mut self.active else { return Ok(()) };
        verifier.refuse_until(now.wall.plus(verifier.ahead()));
        state.persist(verifier.memory(), now, verifier.ahead())
    }

    /// Ends commands, and closes the state cleanly. Returns what the daemon must record.
    pub(crate) fn stop(&mut self) -> Vec<LegacyOutcome> {
        let records = self.commands.stop();
        if let Some(active) = self.active.take()
            && let Err(error) = active.state.close()
        {
            log::error!("{error}");
        }
        records.into_iter().map(LegacyOutcome::Record).collect()
    }

    fn drain_reports(&mut self, outcomes: &mut Vec<LegacyOutcome>) {
        let mut buffer = [0; MESSAGE];
        for _ in 0..BATCH {
            let length = match self.watcher.as_mut().map(|watcher| watcher.try_recv(&mut buffer)) {
                Some(Ok(Some(length))) => length,
                Some(Ok(None)) | None => return,
                Some(Err(Disconnected)) => return self.on_exit("the watcher exited"),
            };
            match FromFwknopWatcher::read(buffer.get(..length).unwrap_or_default()) {
                Some(FromFwknopWatcher::Packet(packet)) => self.judge(&packet, outcomes),
                Some(FromFwknopWatcher::Stats(counts)) => self.dropped.add(counts, clock::steady()),
                Some(FromFwknopWatcher::Shell(FromShell::Lost(reason))) => self.on_interface_lost(&reason),
                Some(FromFwknopWatcher::Shell(FromShell::Failed(reason))) => return self.on_exit(&reason),
                Some(FromFwknopWatcher::Shell(FromShell::Watching | FromShell::Version(_))) | None => {
                    return self.on_exit("the watcher sent an invalid message");
                }
            }
        }
    }

    fn judge(&mut self, packet: &ArrivedPacket<'_>, outcomes: &mut Vec<LegacyOutcome>) {
        let Some(active) = &mut self.active else { return };
        let Some(PacketJudgment { acceptance, result }) = active.verifier.judge(packet, clock::now()) else {
            return self.on_exit("the watcher passed on a packet that no key has authenticated");
        };
        let recorded = acceptance.map_or(Ok(()), |acceptance| {
            // Requests a longer lease for these keys if this one is too short.
            active.state.reaches_for(acceptance.key, acceptance.timestamp);
            active.state.record(&acceptance)
        });
        let outcome = match (recorded, result) {
            (Ok(()), Ok(permitted)) => {
                self.counts.accepted = self.counts.accepted.saturating_add(1);
                self.carry_out(permitted)
            }
            (Err(error), Ok(permitted)) => {
                let record =
                    record(AuditEvent::Failed, &self.client, Some(permitted.action), permitted.source);
                let reason = Explanation::new(AuditCause::StateUnavailable, error.to_string());
                Some(LegacyOutcome::Record(with_reason(record, reason)))
            }
            (_, Err(RefusedPacket { action, source, event, reason })) => {
                self.counts.refused = self.counts.refused.saturating_add(1);
                let record = record(event, &self.client, action, source);
                Some(LegacyOutcome::Record(AuditRecord { reason: Some(reason), ..record }))
            }
        };
        outcomes.extend(outcome);
    }
}

impl Polled for FwknopService {
    /// Readable when the watcher reports something, or a command prints something or ends.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.watcher.as_ref().map(AsFd::as_fd));
        self.commands.fds(out);
        self.ports.fds(out);
        if let Some(active) = &self.active {
            active.state.fds(out);
        }
    }

    fn deadline(&self) -> Option<Steady> {
        let silent = self.watcher.as_ref().map(|watcher| watcher.child().silence_deadline());
        let state = self.active.as_ref().and_then(|active| active.state.deadline());
        let ports = self.ports.deadline();
        let due = [self.restart.deadline(), silent, self.commands.deadline(), state, ports];
        due.into_iter().flatten().min()
    }
}
