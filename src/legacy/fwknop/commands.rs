//! Runs the commands of packets, and of stanzas with `CMD_CYCLE_OPEN`. The command that closes is on disk before the one
//! that opens runs, so it runs on time even if the daemon stops or crashes. No shell is involved.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::audit::{record, with_reason};
use super::command_line::is_made_of;
use super::command_output::shortened;
use super::settings::LoadedStanza;
use crate::os::clock;
use crate::os::files::FileError;
use crate::os::poll::Polled;
use crate::os::process::command_queue::{CommandQueue, Exit, FinishedJob, Job, QueueLimits};
use crate::os::process::privileges::Identity;
use crate::os::worker::Worker;
use crate::state::{FileWork, ScheduledUndo, StartedUndo, UndoQueue, UndoTask};
use spa_knock_core::auth::{AuditCause, AuditEvent, AuditRecord, Explanation};
use spa_knock_core::knock::{ActionName, ClientName, Steady};

/// A command that runs longer is killed.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How many closing commands of one stanza can wait.
const CLOSING_MAX: usize = 64;
/// How long a stopping daemon waits for closing commands that are running.
const STOP_MAX: Duration = Duration::from_secs(5);

/// The commands that are running, and those that close later.
pub(super) struct PacketCommands {
    /// One queue for each user.
    queues: Vec<UserQueue>,
    closing: UndoQueue,
    files: Worker<CycleFile>,
    /// Opening commands whose closing command is being written to disk.
    planned: BTreeMap<u64, PlannedCycle>,
    next: u64,
    /// Whether a closing command is being marked as started on disk.
    is_starting: bool,
    /// Closing commands that could not be started and are not reported yet.
    unstarted: Vec<FinishedJob<PacketJob>>,
}

/// An opening command, and the closing one.
struct PlannedCycle {
    argv: Vec<String>,
    record: AuditRecord,
    closing: ScheduledUndo,
}

/// A finished disk operation.
enum CycleFile {
    /// A closing command has been written.
    Written(u64, Result<(), FileError>),
    /// A closing command has been marked as started.
    Started(u64, Result<(), FileError>),
}

/// Why a command runs. The record is the one of its success.
enum PacketJob {
    Packet(AuditRecord),
    Close(StartedUndo, AuditRecord),
}

/// The packet that a command runs for.
#[derive(Debug, Clone)]
pub(super) struct CommandContext {
    /// The client name in audit records.
    pub(super) client: ClientName,
    /// The stanza's name.
    pub(super) action: ActionName,
    /// The address that gets access.
    pub(super) address: IpAddr,
    /// Where the packet came from.
    pub(super) source: SocketAddr,
}

impl PacketCommands {
    /// Starts with the closing commands that an earlier daemon has left.
    ///
    /// # Errors
    /// If the thread for disk operations cannot be started.
    pub(super) fn new(closing: UndoQueue) -> std::io::Result<Self> {
        Ok(Self {
            queues: Vec::new(),
            closing: closing.shared(),
            files: Worker::start()?,
            planned: BTreeMap::new(),
            next: 0,
            is_starting: false,
            unstarted: Vec::new(),
        })
    }

    /// Allows each closing command that an earlier daemon has left to run if a stanza has it. Returns audit records of the
    /// others, which do not run.
    pub(super) fn confirm(&mut self, stanzas: &[LoadedStanza]) -> Vec<AuditRecord> {
        let is_of = |task: &UndoTask| {
            let cycles = stanzas.iter().filter_map(|loaded| loaded.stanza.cycle.as_ref());
            cycles.filter_map(|cycle| cycle.close.as_ref()).any(|close| is_made_of(close, &task.argv))
        };
        let refused = self.closing.confirm(is_of);
        let refuse = |(file, task): (std::path::PathBuf, UndoTask)| {
            log::error!(
                "{}: not run: no stanza has this CMD_CYCLE_CLOSE: {:?}\n\
                 hint: if the command is yours, run it by hand; then remove the file",
                file.display(),
                task.argv
            );
            let reason = "no stanza has this CMD_CYCLE_CLOSE";
            with_reason(task.record, Explanation::new(AuditCause::UndoRefused, reason))
        };
        refused.into_iter().map(refuse).collect()
    }

    /// Runs a command, as this user if one is given. Returns the record if it could not be started.
    pub(super) fn run(
        &mut self,
        argv: Vec<String>,
        identity: Option<Identity>,
        context: &CommandContext,
    ) -> Option<AuditRecord> {
        self.launch(argv, identity, context.record(AuditEvent::Done, 0)).err().map(|record| *record)
    }

    /// Runs the opening command once the closing one is on disk, to run after `after`. Returns the record if that is
    /// already known to fail.
    pub(super) fn cycle(
        &mut self,
        argv: Vec<String>,
        close: Option<(Vec<String>, Duration)>,
        context: &CommandContext,
    ) -> Option<AuditRecord> {
        let Some((closing, after)) = close else { return self.run(argv, None, context) };
        let seconds = u32::try_from(after.as_secs()).unwrap_or(u32::MAX);
        let record = context.record(AuditEvent::Done, seconds);
        let of_stanza = |task: &&UndoTask| task.record.action.as_ref() == Some(&context.action);
        if self.closing.all().filter(of_stanza).count() >= CLOSING_MAX {
            let reason = format!("{CLOSING_MAX} closing commands of this stanza are already waiting");
            return Some(with_reason(record, Explanation::new(AuditCause::ActionFailed, reason)));
        }
        let task = UndoTask {
            argv: closing,
            timeout: TIMEOUT,
            argument: String::new(),
            record: AuditRecord { event: AuditEvent::Expired, ..record.clone() },
        };
        match self.closing.prepare(task, after) {
            // The same command already closes at that time or later.
            Ok(None) => self.launch(argv, None, record).err().map(|record| *record),
            Ok(Some((closing, work))) => {
                let id = self.next;
                self.next = id.wrapping_add(1);
                self.planned.insert(id, PlannedCycle { argv, record, closing });
                self.files.submit(move || CycleFile::Written(id, FileWork::run(work)));
                None
            }
            Err(error) => Some(failed(record, error.to_string())),
        }
    }

    /// Collects ended commands and starts closing commands that are due. Returns the records to write.
    pub(super) fn run_due(&mut self) -> Vec<AuditRecord> {
        let mut records = Vec::new();
        for done in self.files.finished() {
            self.take(done, &mut records);
        }
        let mut finished = std::mem::take(&mut self.unstarted);
        for (_, queue) in &mut self.queues {
            finished.extend(queue.run_due(clock::steady()));
        }
        records.extend(finished.into_iter().map(|done| self.conclude(done)));
        if !self.is_starting {
            let queues = &self.queues;
            if let Some(work) = self.closing.prepare_start(|task, _| may_close(queues, task)) {
                self.is_starting = true;
                self.files.submit(move || CycleFile::Started(work.number(), work.run()));
            }
        }
        records
    }

    /// Kills running commands, but waits up to 5 s for closing ones. The next daemon runs those that are not due yet.
    /// Returns the records to write.
    pub(super) fn stop(&mut self) -> Vec<AuditRecord> {
        let mut records = Vec::new();
        for done in self.files.settle() {
            match done {
                // It would be killed immediately.
                CycleFile::Written(id, _) => {
                    if let Some(planned) = self.planned.remove(&id) {
                        self.closing.forget(&planned.closing);
                    }
                }
                CycleFile::Started(..) => self.take(done, &mut records),
            }
        }
        let stopped = Explanation::new(AuditCause::DaemonStopped, "ended because the daemon stopped");
        for (_, queue) in &mut self.queues {
            for killed in queue.kill(|job| matches!(job, PacketJob::Packet(_))) {
                records.push(with_reason(killed.into_record(), stopped.clone()));
            }
        }
        let deadline = clock::steady().plus(STOP_MAX);
        while self.queues.iter().any(|(_, queue)| !queue.is_idle()) && clock::steady() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            records.extend(self.run_due());
        }
        records
    }

    fn take(&mut self, done: CycleFile, records: &mut Vec<AuditRecord>) {
        match done {
            CycleFile::Written(id, written) => {
                let Some(PlannedCycle { argv, record, closing }) = self.planned.remove(&id) else { return };
                // Do not open what could not be closed.
                let started = match written {
                    Ok(()) => self.launch(argv, None, record),
                    Err(error) => Err(Box::new(failed(record, format!("CMD_CYCLE_CLOSE: {error}")))),
                };
                match started {
                    Ok(()) => self.closing.schedule(closing),
                    Err(record) => {
                        self.closing.forget(&closing);
                        records.push(*record);
                    }
                }
            }
            CycleFile::Started(number, outcome) => {
                self.is_starting = false;
                let Some((started, task)) = self.closing.finish_start(number, outcome) else { return };
                let UndoTask { argv, timeout, record, .. } = task;
                let owner = owner_of(&record);
                let job = Job { argv, timeout, owner, label: PacketJob::Close(started, record) };
                let failed = self.queue(None).start_undo(job, clock::steady()).err();
                self.unstarted.extend(failed);
            }
        }
    }

    fn launch(
        &mut self,
        argv: Vec<String>,
        identity: Option<Identity>,
        record: AuditRecord,
    ) -> Result<(), Box<AuditRecord>> {
        let owner = owner_of(&record);
        let job = Job { argv, timeout: TIMEOUT, owner, label: PacketJob::Packet(record.clone()) };
        let started = self.queue(identity).start(job, clock::steady());
        started.map_err(|error| Box::new(failed(record, error.to_string())))
    }

    fn queue(&mut self, identity: Option<Identity>) -> &mut CommandQueue<PacketJob> {
        let place = self.queues.iter().position(|(of, _)| *of == identity).unwrap_or_else(|| {
            let queue = CommandQueue::with_limits(QueueLimits::default()).with_identity(identity);
            self.queues.push((identity, queue));
            self.queues.len().saturating_sub(1)
        });
        // The position is the one of an element that exists.
        #[allow(clippy::indexing_slicing, reason = "found or pushed above")]
        &mut self.queues[place].1
    }

    fn conclude(&mut self, FinishedJob { label, ended, output }: FinishedJob<PacketJob>) -> AuditRecord {
        let how = match ended {
            Exit::Success => None,
            Exit::Failure(how) => Some(Explanation::new(AuditCause::CommandFailed, how)),
            Exit::TimedOut => Some(Explanation::new(AuditCause::Timeout, "timed out")),
        };
        let (record, how) = match label {
            PacketJob::Packet(record) => (record, how),
            PacketJob::Close(started, record) => {
                self.closing.end(started);
                let closing = |how: Explanation| {
                    Explanation::new(AuditCause::UndoFailed, format!("CMD_CYCLE_CLOSE: {}", how.detail))
                };
                (record, how.map(closing))
            }
        };
        if !output.is_empty() {
            let action = record.action.as_ref().map_or("", |action| action.as_str());
            log::info!("fwknop: {action} printed: {}", shortened(&output));
        }
        match how {
            None => record,
            Some(reason) => with_reason(record, reason),
        }
    }
}

impl Polled for PacketCommands {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.queues.iter().for_each(|(_, queue)| queue.fds(out));
        out.push(self.files.descriptor());
    }

    fn deadline(&self) -> Option<Steady> {
        // While a command is being marked as started, the worker's descriptor wakes the loop.
        let closing = if self.is_starting {
            None
        } else {
            self.closing.next_due(|task, _| may_close(&self.queues, task))
        };
        let closing = closing.map(|left| clock::steady().plus(left));
        self.queues.iter().filter_map(|(_, queue)| queue.deadline()).chain(closing).min()
    }
}

impl CommandContext {
    fn record(&self, event: AuditEvent, seconds: u32) -> AuditRecord {
        let record = record(event, &self.client, Some(self.action.clone()), self.source);
        AuditRecord { addresses: vec![self.address], seconds, ..record }
    }
}

impl PacketJob {
    fn into_record(self) -> AuditRecord {
        match self {
            Self::Packet(record) | Self::Close(_, record) => record,
        }
    }
}

/// The user whose queue runs commands, and the queue.
type UserQueue = (Option<Identity>, CommandQueue<PacketJob>);

/// Whether a closing command may start: those of a stanza that hang do not keep those of another waiting.
fn may_close(queues: &[UserQueue], task: &UndoTask) -> bool {
    let of_daemon = queues.iter().find(|(identity, _)| identity.is_none());
    of_daemon.is_none_or(|(_, queue)| queue.may_undo(&owner_of(&task.record)))
}

/// Each stanza has slots of its own.
fn owner_of(record: &AuditRecord) -> String {
    record.action.as_ref().map_or_else(String::new, ToString::to_string)
}

fn failed(record: AuditRecord, reason: String) -> AuditRecord {
    with_reason(record, Explanation::new(AuditCause::ActionFailed, reason))
}
