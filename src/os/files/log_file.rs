//! A log file: appended to line by line, rotated into numbered files before it grows too large, and reopened after
//! someone has moved it.
#![allow(clippy::disallowed_methods, reason = "writes to a file that grows for as long as the daemon runs")]

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::{FileMode, io_error_text};
use crate::os::{clock, files};
use spa_knock_core::knock::Steady;

/// Time between two checks of whether the file still has its name.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Limits of a log's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Maximum size of one file in bytes.
    pub size: u64,
    /// Maximum number of files, including the current one; at least 2.
    pub files: u32,
}

/// The log. The first write opens it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    bounds: LogBounds,
    open: Option<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Device and inode.
    id: (u64, u64),
    length: u64,
    /// When its name is checked next.
    next_check: Steady,
    /// Whether it ends with an incomplete line.
    is_line_incomplete: bool,
}

impl LogFile {
    /// The log at `path`, not opened yet.
    #[must_use]
    pub const fn new(path: PathBuf, bounds: LogBounds) -> Self {
        Self { path, bounds, open: None }
    }

    /// Opens the log now.
    ///
    /// # Errors
    /// Why that is impossible, as human-readable text.
    pub fn open(&mut self) -> Result<(), String> {
        self.opened().map(|_| ())
    }

    /// Appends a line, its line break included.
    ///
    /// # Errors
    /// Why it was not written, as human-readable text. A part of it may have been written; the next line then starts on
    /// a new line.
    pub fn append(&mut self, line: &str) -> Result<(), String> {
        self.close_if_moved();
        let size = self.bounds.size;
        if self.opened()?.would_exceed(size, line) {
            self.rotate()?;
        }
        let path = self.path.clone();
        self.opened()?.append(line).map_err(|error| problem(&path, &io_error_text(&error)))
    }

    fn opened(&mut self) -> Result<&mut OpenFile, String> {
        let open = match self.open.take() {
            Some(open) => open,
            None => OpenFile::open(&self.path)?,
        };
        Ok(self.open.insert(open))
    }

    /// Closes the file if it no longer has its name, which happens when another program moves or removes it.
    fn close_if_moved(&mut self) {
        let Some(open) = &mut self.open else { return };
        let now = clock::steady();
        if now < open.next_check {
            return;
        }
        open.next_check = now.plus(CHECK_INTERVAL);
        if fs::symlink_metadata(&self.path).map_or(true, |metadata| id(&metadata) != open.id) {
            self.open = None;
        }
    }

    /// Renames the current file to the first numbered one, after moving the others up by one. The last one is
    /// overwritten.
    fn rotate(&mut self) -> Result<(), String> {
        self.open = None;
        for number in (1..self.bounds.files.saturating_sub(1)).rev() {
            self.rename(Some(number))?;
        }
        self.rename(None)
    }

    /// Increments the number of a file; `None` is the current file.
    fn rename(&self, number: Option<u32>) -> Result<(), String> {
        let from = number.map_or_else(|| self.path.clone(), |number| self.numbered(number));
        let to = self.numbered(number.map_or(1, |number| number.saturating_add(1)));
        match fs::rename(from, &to) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(problem(&to, &format!("cannot be rotated: {}", io_error_text(&error))))
            }
            _ => Ok(()),
        }
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

impl OpenFile {
    fn open(path: &Path) -> Result<Self, String> {
        let failure = |error: io::Error| problem(path, &io_error_text(&error));
        let folder = path.parent().unwrap_or(Path::new("/"));
        files::create_folder(folder, FileMode::Private).map_err(|error| error.to_string())?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            // Non-blocking; otherwise a FIFO in its place would block before its type is checked.
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(code) if code == nix::libc::ELOOP => {
                    problem(path, "is a symbolic link, which is not followed")
                }
                Some(code) if code == nix::libc::EISDIR => problem(path, "is a directory, not a file"),
                _ => problem(path, &io_error_text(&error)),
            })?;
        let metadata = file.metadata().map_err(failure)?;
        check(path, &metadata, &fs::metadata(folder).map_err(failure)?)?;
        let length = metadata.len();
        let mut last = [b'\n'];
        if let Some(end) = length.checked_sub(1) {
            file.read_exact_at(&mut last, end).map_err(failure)?;
        }
        Ok(Self {
            file,
            id: id(&metadata),
            length,
            next_check: clock::steady().plus(CHECK_INTERVAL),
            is_line_incomplete: last != [b'\n'],
        })
    }

    fn would_exceed(&self, size: u64, line: &str) -> bool {
        let more =
            u64::try_from(line.len()).unwrap_or(u64::MAX).saturating_add(self.is_line_incomplete.into());
        self.length > 0 && self.length.saturating_add(more) > size
    }

    /// Appends with a single write, which is incomplete only on a full disk.
    fn append(&mut self, line: &str) -> io::Result<()> {
        let start = if self.is_line_incomplete { "\n" } else { "" };
        let line = [start, line].concat();
        let written = self.file.write(line.as_bytes())?;
        self.length = self.length.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        if written > 0 {
            self.is_line_incomplete = written < line.len();
        }
        if written == line.len() { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }
    }
}

/// Refuses a file that another user could have created there.
fn check(path: &Path, file: &Metadata, folder: &Metadata) -> Result<(), String> {
    const OTHERS_WRITE: u32 = 0o022;
    if !file.is_file() {
        return Err(problem(path, "is not a regular file"));
    }
    let owner = file.uid();
    let own_uid = nix::unistd::geteuid().as_raw();
    if ![own_uid, 0, folder.uid()].contains(&owner) {
        return Err(problem(path, &format!("belongs to user {owner}, who may have put it there")));
    }
    if file.nlink() > 1 && folder.mode() & OTHERS_WRITE != 0 {
        return Err(problem(path, "has another hard link, and others can write to its directory"));
    }
    Ok(())
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn problem(path: &Path, reason: &str) -> String {
    format!("{}: {reason}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "0123456789abcde\n";

    fn log(folder: &Path, size: u64, files: u32) -> LogFile {
        LogFile::new(folder.join("audit.jsonl"), LogBounds { size, files })
    }

    fn read(folder: &Path, name: &str) -> String {
        fs::read_to_string(folder.join(name)).unwrap_or_default()
    }

    #[test]
    fn a_log_is_rotated_before_it_is_too_large_and_the_oldest_file_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("made");
        let mut log = log(&folder, 40, 3);
        for number in 0..9 {
            log.append(&format!("line {number:010}\n")).unwrap();
        }
        let names: Vec<_> = files::list(&folder).unwrap();
        assert_eq!(names.len(), 3, "{names:?}");
        let ends = ["audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"].map(|name| {
            let text = read(&folder, name);
            assert!(text.len() <= 40, "{text}");
            text.lines().map(|line| line.trim_start_matches("line 0").to_owned()).collect::<Vec<_>>()
        });
        assert_eq!(ends.concat().len(), 5, "two, two and one: {ends:?}");
        assert!(read(&folder, "audit.jsonl").contains('8'));
    }

    #[test]
    fn a_log_that_is_too_large_when_it_is_opened_is_rotated() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("audit.jsonl"), LINE.repeat(10)).unwrap();
        let mut log = log(scratch.path(), 100, 2);
        log.append(LINE).unwrap();
        assert_eq!(read(scratch.path(), "audit.jsonl"), LINE);
        assert_eq!(read(scratch.path(), "audit.jsonl.1").len(), 160);
    }

    #[test]
    fn a_log_that_is_moved_or_removed_is_reopened() {
        let scratch = tempfile::tempdir().unwrap();
        let mut log = log(scratch.path(), 1_000, 2);
        log.append(LINE).unwrap();
        for end in ["moved", "removed"] {
            match end {
                "moved" => {
                    fs::rename(scratch.path().join("audit.jsonl"), scratch.path().join("moved")).unwrap()
                }
                _ => fs::remove_file(scratch.path().join("audit.jsonl")).unwrap(),
            }
            log.open.as_mut().unwrap().next_check = clock::steady();
            log.append(LINE).unwrap();
            assert_eq!(read(scratch.path(), "audit.jsonl"), LINE, "{end}");
        }
        assert_eq!(read(scratch.path(), "moved"), LINE);
    }

    #[test]
    fn an_incomplete_line_of_the_previous_daemon_ends_before_the_next_line() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("audit.jsonl"), "{\"half").unwrap();
        let mut log = log(scratch.path(), 1_000, 2);
        log.append(LINE).unwrap();
        assert_eq!(read(scratch.path(), "audit.jsonl"), format!("{{\"half\n{LINE}"));
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_without_blocking() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("audit.jsonl");
        let shown = path.display().to_string();
        let mut log = log(scratch.path(), 1_000, 2);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(log.append(LINE), Err(format!("{shown}: is not a regular file")));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(log.append(LINE), Err(format!("{shown}: is a directory, not a file")));
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(log.append(LINE), Err(format!("{shown}: is a symbolic link, which is not followed")));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(4_711), None).unwrap();
            assert_eq!(
                log.append(LINE),
                Err(format!("{shown}: belongs to user 4711, who may have put it there"))
            );
        }
    }
}
