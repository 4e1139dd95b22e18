//! The files of undo tasks: their form, and what is done to them on a thread that may wait for the disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::undo::UndoTask;
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};
use spa_knock_core::auth::{AuditEvent, AuditRecord, KeyAge, Via};
use spa_knock_core::crypto::checksum;
use spa_knock_core::knock::{BootTime, Timestamp};

/// The folder in the state folder.
pub(super) const FOLDER: &str = "undo";
/// What follows the number of one that is being written.
pub(super) const COMING: &str = "new";
/// What follows the number of one that has begun.
pub(super) const BEGUN: &str = "started";

/// Work on a file that waits for the disk.
#[must_use]
pub(crate) struct FileWork {
    pub(super) folder: PathBuf,
    pub(super) number: u64,
    pub(super) kind: FileWorkKind,
}

pub(super) enum FileWorkKind {
    /// It is to be done later.
    Write(String),
    /// It is to be done now.
    Begin,
}

impl FileWork {
    /// Which one it is about.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Does it; when this returns, a power loss does not undo it.
    ///
    /// # Errors
    /// When the disk does not take it. What was to be written is not there then.
    pub(crate) fn run(self) -> Result<(), FileError> {
        let file = self.folder.join(self.number.to_string());
        let sync = |()| files::sync_folder(&self.folder);
        match self.kind {
            FileWorkKind::Begin => files::rename(&file, &file.with_extension(BEGUN)).and_then(sync),
            FileWorkKind::Write(text) => {
                let coming = file.with_extension(COMING);
                files::create_new(&coming, FileMode::Private, text.as_bytes())?;
                // The action begins next: a power cut must find the name as well as the content.
                files::rename(&coming, &file).and_then(sync).inspect_err(|_| {
                    let _ = files::remove(&file);
                    let _ = files::remove(&coming);
                })
            }
        }
    }
}

/// What waits in the state folder `state`, with its files. Changes nothing.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn listed(state: &Path) -> Result<Vec<(PathBuf, UndoTask)>, FileError> {
    let task = |path: PathBuf| {
        let entry = UndoFile::read(&files::read_bytes(&path).ok()?)?;
        Some((path, entry.task()?))
    };
    Ok(files::list(&state.join(FOLDER))?.into_iter().filter_map(task).collect())
}

/// The files of the state folder `state` that are not as they were written. Changes nothing.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn damaged(state: &Path) -> Result<Vec<PathBuf>, FileError> {
    let is_damaged = |path: &PathBuf| {
        let is_coming = path.extension().is_some_and(|extension| extension == COMING);
        !is_coming && files::read_bytes(path).is_ok_and(|bytes| UndoFile::read(&bytes).is_none())
    };
    Ok(files::list(&state.join(FOLDER))?.into_iter().filter(is_damaged).collect())
}

/// What a file says. Times in milliseconds.
#[derive(Serialize, Deserialize)]
pub(super) struct UndoFile {
    /// The boot that `due` belongs to.
    pub(super) boot: String,
    /// Since that boot.
    pub(super) due: u64,
    /// Since the Unix epoch, for another boot.
    pub(super) due_wall: u64,
    /// From the knock to there: it is never further away.
    pub(super) after: u64,
    pub(super) argv: Vec<String>,
    pub(super) timeout: u64,
    /// Missing in files of a daemon that did not keep it.
    #[serde(default)]
    pub(super) argument: String,
    pub(super) client: String,
    pub(super) action: Option<String>,
    pub(super) addresses: Vec<std::net::IpAddr>,
    pub(super) source: Option<std::net::SocketAddr>,
    pub(super) seconds: u32,
    pub(super) knock: Option<[u8; 12]>,
    /// Missing in files of a daemon that knew of datagrams alone.
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

    /// In what time it is due.
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
            },
        })
    }

    pub(super) fn to_text(&self) -> String {
        // A map of texts and numbers always has a JSON form.
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{} {json}\n", sum(&json))
    }

    /// Nothing when a byte of it is not as it was written.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (said, json) = text.strip_suffix('\n')?.split_once(' ')?;
        if said != sum(json) {
            return None;
        }
        serde_json::from_str(json).ok()
    }
}

fn sum(json: &str) -> String {
    checksum(&[json.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
