//! The keeper's part: receives packets from the watcher, decides, records, and runs commands. Part of the event loop of
//! `spa-knockd fwknopd` or of `spa-knockd run`, which makes the grants.

mod restart;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::audit::{record, with_reason};
use super::commands::{CommandContext, PacketCommands, report_interrupted, words};
use super::ipc::{ArrivedPacket, DropCounts, FromFwknopWatcher};
use super::settings::{FwknopConfig, LoadedStanza};
use super::targets::targets;
use super::tcp_port::AcceptingPort;
use super::verifier::{PacketJudgment, PermittedPacket, RefusedPacket, Verifier};
use super::watcher_process::{FwknopWatchConfig, FwknopWatcher};
use crate::console::AdminError;
use crate::ipc::{FromShell, MESSAGE, OnMissingInterface};
use crate::legacy::grants::{GrantOrder, LegacyOutcome};
use crate::os::clock;
use crate::os::files::{self, FileError};
use crate::os::net::udp::{ReceiveMode, UdpPort};
use crate::os::poll::Polled;
use crate::state::{self, ReplayFolder};
use crate::supervisor::child::Disconnected;
use crate::supervisor::program::Program;
use crate::supervisor::restart::Restart;
use spa_knock_core::auth::{AuditCause, AuditEvent, AuditRecord, Explanation, Via};
use spa_knock_core::knock::{ClientName, Steady};
use spa_knock_fwknop::{CommandRules, Rights};

/// Most packets to handle before the rest of the event loop runs.
const BATCH: usize = 32;
/// Active grants that each stanza can have.
const GRANTS_MAX: usize = 128;
/// How often dropped packets are logged at most.
const DROPS_EVERY: Duration = Duration::from_secs(60);

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
    /// Bound if packets come by a socket.
    socket: Option<UdpPort>,
    tcp_port: Option<(u16, AcceptingPort)>,
}

/// A new config, and what it needs that can fail.
pub(crate) struct NextStanzas {
    config: Rc<FwknopConfig>,
    watch_config: FwknopWatchConfig,
    /// None if the present one continues with new keys.
    watcher: Option<FwknopWatcher>,
    /// None if the present one is kept.
    sockets: Option<(Option<UdpPort>, Option<(u16, AcceptingPort)>)>,
    /// None if the present one is kept.
    state: Option<(ReplayFolder, spa_knock_core::auth::ReplayMemory)>,
}

/// How many packets have been decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PacketCounts {
    /// Packets that were permitted.
    pub(crate) accepted: u64,
    /// Authentic packets that were refused.
    pub(crate) refused: u64,
}

/// Dropped packets that are not logged yet.
#[derive(Default)]
struct DropLog {
    counts: DropCounts,
    logged: Option<Steady>,
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
            watcher: None,
            restart: Restart::new(),
            dropped: DropLog::default(),
            counts: PacketCounts::default(),
        })
    }

    /// Prepares a config: everything that can fail happens here, and nothing changes.
    ///
    /// # Errors
    /// If its watcher does not start, a port is in use, or the state cannot be read.
    pub(crate) fn prepare(
        &self,
        config: Rc<FwknopConfig>,
        watch_config: FwknopWatchConfig,
        missing: OnMissingInterface,
    ) -> Result<NextStanzas, AdminError> {
        let state = match &self.active {
            Some(_) => None,
            None => Some(state::open_in(&self.folder, config.window()).map_err(AdminError::run)?),
        };
        let tcp = config.server.tcp_server;
        let present = self.active.as_ref();
        let same = present.is_some_and(|active| active.watch_config == watch_config);
        let same_tcp = present.is_some_and(|active| active.tcp_port.as_ref().map(|(port, _)| *port) == tcp);
        let sockets = match same && same_tcp {
            true => None,
            false => Some(self.bind(&watch_config, tcp)?),
        };
        let watcher = if same && self.watcher.is_some() {
            None
        } else if watch_config.capture.misses_everything() && missing == OnMissingInterface::Continue {
            None
        } else {
            let socket = sockets.as_ref().and_then(|(socket, _)| socket.as_ref());
            let socket = shared(socket).map_err(AdminError::run)?;
            Some(
                self.start_watcher(&watch_config, missing, socket, &config.stanzas)
                    .map_err(AdminError::run)?,
            )
        };
        Ok(NextStanzas { config, watch_config, watcher, sockets, state })
    }

    /// Replaces the stanzas.
    pub(crate) fn activate(&mut self, next: NextStanzas) {
        let NextStanzas { config, watch_config, watcher, sockets, state } = next;
        let (mut before, sudo) = (self.active.take(), config.server.sudo.clone());
        let (socket, tcp_port) = sockets.unwrap_or_else(|| {
            before.as_mut().map(|active| (active.socket.take(), active.tcp_port.take())).unwrap_or_default()
        });
        let (state, memory) = match (state, before) {
            (Some(opened), _) => opened,
            (None, Some(ActiveStanzas { verifier, state, .. })) => (state, verifier.into_memory()),
            // Prepared without a state because there was one, which cannot have gone since.
            (None, None) => return log::error!("fwknop: no state directory is open; no packet is accepted"),
        };
        for notice in &config.notices {
            log::warn!("{notice}");
        }
        let verifier = Verifier::new(config, memory);
        self.left.extend(self.commands.confirm(verifier.stanzas()));
        match (watcher, &self.watcher) {
            (Some(watcher), _) => {
                self.watcher = Some(watcher);
                self.restart = Restart::new();
            }
            (None, Some(present)) => {
                if present.replace_keys(&watch_config, verifier.stanzas()).is_err() {
                    self.on_exit("the watcher does not accept its new keys");
                }
            }
            (None, None) => {
                log::error!("fwknop: no interface exists yet; waiting for one");
                self.restart.look_later();
            }
        }
        self.active = Some(ActiveStanzas { verifier, state, watch_config, sudo, socket, tcp_port });
    }

    /// Removes all stanzas. Closing commands still run when they are due.
    pub(crate) fn close(&mut self) {
        (self.watcher, self.restart) = (None, Restart::new());
        if let Some(active) = self.active.take()
            && let Err(error) = active.state.close()
        {
            log::error!("{error}");
        }
        self.left.extend(self.commands.confirm(&[]));
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
        if let Some(ActiveStanzas { verifier, state, tcp_port, .. }) = &mut self.active {
            state.run_due(verifier.memory(), now, verifier.window());
            // Its packets need neither use counts nor leases that they wait for.
            let _ = state.ended();
            if let Some((_, port)) = tcp_port {
                port.run_due(now.steady);
            }
        }
        let records = self.commands.run_due();
        outcomes.extend(self.left.drain(..).chain(records).map(LegacyOutcome::Record));
        outcomes
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
            // Requests a longer lease if this one is too short.
            active.state.reaches(acceptance.timestamp);
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

    fn carry_out(&mut self, permitted: PermittedPacket) -> Option<LegacyOutcome> {
        let PermittedPacket { action, position, rights, source, address } = permitted;
        let failed = |action, reason: String| {
            let record = record(AuditEvent::Failed, &self.client, Some(action), source);
            let reason = Explanation::new(AuditCause::ActionFailed, reason);
            Some(LegacyOutcome::Record(with_reason(record, reason)))
        };
        let context = CommandContext { client: self.client.clone(), action: action.clone(), address, source };
        match rights {
            Rights::Open { seconds, .. } | Rights::Forward { seconds, .. } => match targets(&rights) {
                Ok((address, targets)) => Some(LegacyOutcome::Grant(GrantOrder {
                    client: self.client.clone(),
                    action,
                    address,
                    sender: Some(source),
                    targets,
                    term: Duration::from_secs(seconds.into()),
                    limit: GRANTS_MAX,
                    via: Via::Fwknop,
                })),
                Err(reason) => failed(action, reason.to_owned()),
            },
            Rights::Command { command, rules } => {
                let active = self.active.as_ref()?;
                let identity = active.verifier.stanzas().get(position).and_then(|loaded| loaded.identity);
                match words(&command) {
                    Some(argv) => self
                        .commands
                        .run(with_sudo(argv, &rules, &active.sudo), identity, &context)
                        .map(LegacyOutcome::Record),
                    None => failed(action, "the command is empty".to_owned()),
                }
            }
            Rights::Cycle { open, close } => {
                let close = close.map(|(close, seconds)| (close, Duration::from_secs(seconds.into())));
                match (words(&open), close) {
                    (Some(open), close) => {
                        let close = close.and_then(|(close, after)| Some((words(&close)?, after)));
                        self.commands.cycle(open, close, &context).map(LegacyOutcome::Record)
                    }
                    (None, _) => failed(action, "CMD_CYCLE_OPEN: is empty".to_owned()),
                }
            }
        }
    }

    fn bind(
        &self,
        watch_config: &FwknopWatchConfig,
        tcp: Option<u16>,
    ) -> Result<(Option<UdpPort>, Option<(u16, AcceptingPort)>), AdminError> {
        let failure = |kind: &str, port: u16, error: std::io::Error| {
            AdminError::run(format_args!(
                "{kind} port {port}: {}\nhint: find the process that uses it with 'ss -lnp sport = :{port}'",
                files::io_error_text(&error)
            ))
        };
        let number = watch_config.sources.ports.udp.as_ref().map_or(0, |ports| *ports.start());
        let socket = match watch_config.sources.socket {
            true => Some(
                UdpPort::bind(number, ReceiveMode::Received)
                    .map_err(|error| failure("UDP", number, error))?,
            ),
            false => None,
        };
        // The port that is already open stays open.
        let present = self.active.as_ref().and_then(|active| active.tcp_port.as_ref());
        let tcp = tcp.filter(|tcp| present.is_none_or(|(port, _)| port != tcp));
        let tcp = tcp.map(|port| {
            AcceptingPort::open(port)
                .map(|accepting| (port, accepting))
                .map_err(|error| failure("TCP", port, error))
        });
        Ok((socket, tcp.transpose()?))
    }

    fn start_watcher(
        &self,
        watch_config: &FwknopWatchConfig,
        missing: OnMissingInterface,
        socket: Option<OwnedFd>,
        stanzas: &[LoadedStanza],
    ) -> Result<FwknopWatcher, String> {
        let program = self.program.as_ref().as_ref().map_err(ToString::to_string)?;
        FwknopWatcher::start(program, watch_config, missing, socket, stanzas)
    }
}

fn shared(socket: Option<&UdpPort>) -> Result<Option<OwnedFd>, String> {
    socket.map(UdpPort::share).transpose().map_err(|error| files::io_error_text(&error))
}

/// The command with sudo before it, if the stanza asks for that.
fn with_sudo(argv: Vec<String>, rules: &CommandRules, sudo: &Path) -> Vec<String> {
    let Some(account) = &rules.sudo else { return argv };
    let mut words = vec![sudo.display().to_string()];
    for (option, name) in [("-u", &account.user), ("-g", &account.group)] {
        words.extend(name.iter().flat_map(|name| [option.to_owned(), name.clone()]));
    }
    words.extend(argv);
    words
}

impl DropLog {
    /// Logs that packets were dropped, at most once a minute.
    fn add(&mut self, counts: DropCounts, now: Steady) {
        self.counts.unverified = self.counts.unverified.saturating_add(counts.unverified);
        self.counts.throttled = self.counts.throttled.saturating_add(counts.throttled);
        let is_due = self.logged.is_none_or(|last| now.since(last) >= DROPS_EVERY);
        if !is_due || self.counts == DropCounts::default() {
            return;
        }
        let DropCounts { unverified, throttled } = std::mem::take(&mut self.counts);
        self.logged = Some(now);
        if unverified > 0 {
            log::warn!("fwknop: flood: {unverified} possible packets were dropped without a check");
        }
        if throttled > 0 {
            log::warn!("fwknop: {throttled} packets were dropped because their keys had sent too many");
        }
    }
}

impl Polled for FwknopService {
    /// Readable when the watcher reports something, or a command prints something or ends.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.watcher.as_ref().map(AsFd::as_fd));
        self.commands.fds(out);
        if let Some(active) = &self.active {
            active.state.fds(out);
            if let Some((_, port)) = &active.tcp_port {
                port.fds(out);
            }
        }
    }

    fn deadline(&self) -> Option<Steady> {
        let silent = self.watcher.as_ref().map(|watcher| watcher.child().silence_deadline());
        let state = self.active.as_ref().and_then(|active| active.state.deadline());
        let tcp = self.active.as_ref().and_then(|active| active.tcp_port.as_ref()?.1.deadline());
        let due = [self.restart.deadline(), silent, self.commands.deadline(), state, tcp];
        due.into_iter().flatten().min()
    }
}
