//! The audit log: one JSON object per line, for the result of each authentic knock and nothing else. The keeper only
//! puts lines into a queue; a thread writes them. Lines that cannot be written wait; lines that do not fit the queue
//! are counted as lost.

mod line;
mod repeats;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::config::{Audit, AuditSettings, ServerConfig};
use crate::console::counted;
use crate::control::status::AuditState;
use crate::os::files::log_file::{LogBounds, LogFile};
use crate::os::outbox::{OnFailure, Outbox, Sink};
use crate::os::poll::Polled;
use crate::os::{clock, files, log as os_log};
use repeats::Repeats;
use spa_knock_core::auth::AuditRecord;
use spa_knock_core::knock::{Steady, Timestamp};

/// Maximum number of records waiting to be written.
const WAITING_MAX: usize = 1_024;
/// Places in the queue that must be free if every knock must be recorded: enough for all records that one knock and
/// pending work can cause.
const RESERVE: usize = 128;
/// Time between two attempts to write.
const RETRY: Duration = Duration::from_secs(1);
/// How long a stopping daemon waits until the remaining records are written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Writes audit records.
pub(crate) struct AuditLog {
    server: String,
    settings: AuditSettings,
    target: AuditSink,
    repeats: Repeats,
    /// Records lost for another reason than a full queue.
    lost: u64,
    /// How many of them are noted in the log.
    noted: u64,
}

enum AuditSink {
    File(Outbox<String, FileSink>),
    Journal,
    Off,
}

impl AuditLog {
    /// Opens the log set in the config. If it cannot be written, the daemon's log gets an error, and writing is
    /// retried. A missing folder is created.
    pub(crate) fn open(config: &ServerConfig) -> Self {
        let settings = config.audit.clone();
        let target = match &settings.to {
            Audit::File(path) => {
                if let Some(error) =
                    path.parent().and_then(|folder| files::check_not_writable_by_others(folder).err())
                    && !error.missing
                {
                    log::warn!("audit log: other users can remove or replace its files: {error}");
                }
                let sink = FileSink::new(config);
                AuditSink::File(Outbox::start(sink, WAITING_MAX, OnFailure::Retry(RETRY)))
            }
            Audit::Journal => AuditSink::Journal,
            Audit::Off => AuditSink::Off,
        };
        let server = config.id.to_string();
        Self { server, settings, target, repeats: Repeats::default(), lost: 0, noted: 0 }
    }

    /// Checks that the log of a new config can be written, if it differs from the current one.
    ///
    /// # Errors
    /// Why not, as human-readable text.
    pub(crate) fn prepare(&self, config: &ServerConfig) -> Result<(), String> {
        match &config.audit.to {
            Audit::File(_) if config.audit.to != self.settings.to => {
                FileSink::new(config).file.open().map_err(|reason| format!("server.audit: {reason}"))
            }
            _ => Ok(()),
        }
    }

    /// Applies a new config. Reopens a file, so that a file that log rotation has moved is not written any more.
    pub(crate) fn reconfigure(&mut self, config: &ServerConfig) {
        self.flush_repeats();
        match (&self.target, &config.audit.to) {
            (AuditSink::File(outbox), Audit::File(_)) => {
                outbox.replace_sink(FileSink::new(config));
                self.settings = config.audit.clone();
                self.server = config.id.to_string();
            }
            _ => {
                let lost = self.state().map_or(0, |state| state.lost);
                *self = Self { lost, noted: lost, ..Self::open(config) };
            }
        }
    }

    /// Records one event, also in the daemon's log.
    pub(crate) fn write(&mut self, record: &AuditRecord, now: Timestamp) {
        self.write_many(record, 1, now);
    }

    /// Records `count` events that this record describes. Repeated refusals are counted for a minute before they are
    /// written.
    pub(crate) fn write_many(&mut self, record: &AuditRecord, count: u64, now: Timestamp) {
        if count > 0 && self.repeats.admit(record, count, clock::steady()) {
            self.put(record, count, now);
        }
    }

    /// Writes the counts of repeated refusals that are due.
    pub(crate) fn run_due(&mut self) {
        let due = self.repeats.take_due(clock::steady());
        due.iter().for_each(|(record, count)| self.put(record, *count, clock::wall()));
    }

    /// Checks that a knock may act: always, unless every knock must be recorded and this one might not be.
    ///
    /// # Errors
    /// Why not, as human-readable text.
    pub(crate) fn check_available(&self) -> Result<(), String> {
        let available = match &self.target {
            _ if !self.settings.required => true,
            AuditSink::File(outbox) => outbox.has_room_for(RESERVE),
            AuditSink::Journal => os_log::has_room(),
            AuditSink::Off => false,
        };
        if available { Ok(()) } else { Err("the audit log cannot be written".to_owned()) }
    }

    /// The state of the log; none if it is off.
    pub(crate) fn state(&self) -> Option<AuditState> {
        match &self.target {
            AuditSink::File(outbox) => {
                let state = outbox.state();
                let lost = state.lost.saturating_add(self.lost);
                Some(AuditState { waiting: state.waiting, lost, error: state.error })
            }
            AuditSink::Journal => Some(AuditState { waiting: 0, lost: self.lost, error: None }),
            AuditSink::Off => None,
        }
    }

    /// Writes the remaining records; waits for them for at most one second.
    ///
    /// # Errors
    /// How many records are lost and why, as human-readable text.
    pub(crate) fn close(mut self) -> Result<(), String> {
        self.flush_repeats();
        let AuditSink::File(outbox) = &self.target else { return Ok(()) };
        match outbox.flush(FLUSH_MAX) {
            0 => Ok(()),
            left => {
                let reason = outbox.state().error.unwrap_or_else(|| "the disk is too slow".to_owned());
                Err(format!("audit log: {} lost: {reason}", counted(left, "record")))
            }
        }
    }

    fn flush_repeats(&mut self) {
        let left = self.repeats.take_all();
        left.iter().for_each(|(record, count)| self.put(record, *count, clock::wall()));
    }

    fn put(&mut self, record: &AuditRecord, count: u64, now: Timestamp) {
        log::info!("{}", line::sentence(record, count));
        let Some(text) = line::line(&self.server, record, count, now) else { return };
        match &self.target {
            AuditSink::File(outbox) => {
                outbox.push(text);
            }
            AuditSink::Journal => {
                let unnoted = self.lost.saturating_sub(self.noted);
                if unnoted > 0
                    && let Some(loss) = line::loss(&self.server, unnoted, now)
                    && os_log::write(&loss)
                {
                    self.noted = self.lost;
                }
                if !os_log::write(&text) {
                    self.lost = self.lost.saturating_add(1);
                }
            }
            AuditSink::Off => {}
        }
    }
}

impl Polled for AuditLog {
    fn fds<'a>(&'a self, _: &mut Vec<BorrowedFd<'a>>) {}

    fn deadline(&self) -> Option<Steady> {
        self.repeats.deadline()
    }
}

/// The file that the thread writes to.
struct FileSink {
    file: LogFile,
    server: String,
}

impl FileSink {
    fn new(config: &ServerConfig) -> Self {
        let path = match &config.audit.to {
            Audit::File(path) => path.clone(),
            Audit::Journal | Audit::Off => "/dev/null".into(),
        };
        let AuditSettings { size, files, .. } = config.audit;
        Self { file: LogFile::new(path, LogBounds { size, files }), server: config.id.to_string() }
    }
}

impl Sink<String> for FileSink {
    fn open(&mut self) -> Result<(), String> {
        self.file.open()
    }

    fn write(&mut self, line: &String) -> Result<(), String> {
        self.file.append(line)
    }

    fn write_loss(&mut self, count: u64) -> Result<(), String> {
        let line = line::loss(&self.server, count, clock::wall()).unwrap_or_default();
        self.file.append(&line)?;
        log::warn!("audit log: {} lost", counted(count, "record"));
        Ok(())
    }

    fn failed(&mut self, reason: &str) {
        log::error!("audit log: cannot be written: {reason}");
    }

    fn recovered(&mut self) {
        log::info!("audit log: can be written again");
    }
}
