//! The files of undo tasks: their format, and the operations on them, which run on a thread that can wait for the
//! disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::undo::UndoTask;
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};
use spa_knock_core::auth::{AuditEvent, AuditRecord, KeyAge, Via};
use spa_knock_core::crypto::checksum_hex;
use spa_knock_core::knock::{BootTime, Timestamp};

/// The name of the directory in the state directory.
pub(super) const FOLDER: &str = "undo";
/// The extension of a file that is being written.
pub(super) const NEW: &str = "new";
/// The extension of the file of a started task.
pub(super) const STARTED: &str = "started";

/// An operation on the file of a task; it waits for the disk.
#[must_use]
pub(crate) struct FileWork {
    pub(super) folder: PathBuf,
    pub(super) number: u64,
    pub(super) kind: FileWorkKind,
}

pub(super) enum FileWorkKind {
    /// Write the file of a new task.
    Write(String),
    /// Mark the task as started.
    Begin,
}

impl FileWork {
    /// The number of the task.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Performs the operation. After this returns, the result survives a power loss.
    ///
    /// # Errors
    /// If the disk cannot be written. A new file then does not exist.
    pub(crate) fn run(self) -> Result<(), FileError> {
        let file = self.folder.join(self.number.to_string());
        let sync = |()| files::sync_folder(&self.folder);
        match self.kind {
            FileWorkKind::Begin => files::rename(&file, &file.with_extension(STARTED)).and_then(sync),
            FileWorkKind::Write(text) => {
                let new = file.with_extension(NEW);
                files::create_new(&new, FileMode::Private, text.as_bytes())?;
                // The action starts next, so the name must survive a power loss as well as the content.
                files::rename(&new, &file).and_then(sync).inspect_err(|_| {
                    let _ = files::remove(&file);
                    let _ = files::remove(&new);
                })
            }
        }
    }
}

/// The tasks in the state directory `state` with their files. Changes nothing.
///
/// # Errors
/// If the directory cannot be read.
pub(super) fn listed(state: &Path) -> Result<Vec<(PathBuf, UndoTask)>, FileError> {
    let task = |path: PathBuf| {
        let entry = UndoFile::read(&files::read_bytes(&path).ok()?)?;
        Some((path, entry.task()?))
    };
    Ok(files::list(&state.join(FOLDER))?.into_iter().filter_map(task).collect())
}

/// The damaged files in the state directory `state`. Changes nothing.
///
/// # Errors
/// If the directory cannot be read.
pub(super) fn damaged(state: &Path) -> Result<Vec<PathBuf>, FileError> {
    let is_damaged = |path: &PathBuf| {
        let is_new = path.extension().is_some_and(|extension| extension == NEW);
        !is_new && files::read_bytes(path).is_ok_and(|bytes| UndoFile::read(&bytes).is_none())
    };
    Ok(files::list(&state.join(FOLDER))?.into_iter().filter(is_damaged).collect())
}

/// The content of a file. Times are in milliseconds.
#[derive(Serialize, Deserialize)]
pub(super) struct UndoFile {
    /// The id of the boot to which `due` refers.
    pub(super) boot: String,
    /// Due time since that boot.
    pub(super) due: u64,
    /// Due time since the Unix epoch, used in another boot.
    pub(super) due_wall: u64,
    /// Time from the knock to the due time; the task is never due later than this from now.
    pub(super) after: u64,
    pub(super) argv: Vec<String>,
    pub(super) timeout: u64,
    /// Missing in files of versions that did not store it.
    #[serde(default)]
    pub(super) argument: String,
    pub(super) client: String,
    pub(super) action: Option<String>,
    pub(super) addresses: Vec<std::net::IpAddr>,
    pub(super) source: Option<std::net::SocketAddr>,
    pub(super) seconds: u32,
    pub(super) knock: Option<[u8; 12]>,
    /// Missing in files of versions that supported only datagrams.
    #[serde(default)]
    pub(super) by_ports: bool,
}

impl UndoFile {
    pub(super) fn of(task: &UndoTask, boot: &str, due: BootTime, after: Duration) -> Self {
        let record = &task.record;
        Self {
            boot: boot.to_owned(),
            due: due.as_millis(),
            due_wall: clock::wall().plus(after).as_millis(),
            after: millis(after),
            argv: task.argv.clone(),
            timeout: millis(task.timeout),
            argument: task.argument.clone(),
            client: record.client.to_string(),
            action: record.action.as_ref().map(ToString::to_string),
            addresses: record.addresses.clone(),
            source: record.source,
            seconds: record.seconds,
            knock: record.knock,
            by_ports: record.via == Some(Via::Ports),
        }
    }

    /// Time until the task is due.
    pub(super) fn left(&self, boot: &str) -> Duration {
        let left = if self.boot == boot {
            clock::boot_at(self.due).since(clock::boot())
        } else {
            let now = clock::wall();
            let due = Timestamp::from_millis(self.due_wall);
            if due > now { due.distance(now) } else { Duration::ZERO }
        };
        left.min(Duration::from_millis(self.after))
    }

    pub(super) fn task(self) -> Option<UndoTask> {
        Some(UndoTask {
            argv: self.argv,
            timeout: Duration::from_millis(self.timeout),
            argument: self.argument,
            record: AuditRecord {
                event: AuditEvent::Expired,
                client: self.client.parse().ok()?,
                key: KeyAge::Current,
                action: self.action.map(|action| action.parse()).transpose().ok()?,
                addresses: self.addresses,
                source: self.source,
                seconds: self.seconds,
                reason: None,
                knock: self.knock,
                via: Some(if self.by_ports { Via::Ports } else { Via::Udp }),
                claim: None,
            },
        })
    }

    pub(super) fn to_text(&self) -> String {
        // Strings and numbers can always be serialized as JSON.
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{} {json}\n", sum(&json))
    }

    /// Reads a file; none if any byte has changed.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (stored_sum, json) = text.strip_suffix('\n')?.split_once(' ')?;
        if stored_sum != sum(json) {
            return None;
        }
        serde_json::from_str(json).ok()
    }
}

fn sum(json: &str) -> String {
    checksum_hex(&[json.as_bytes()])
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
