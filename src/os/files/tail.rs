//! Follows a log file by its name. Copies complete lines that are appended, starting at the end of the file, and
//! continues after the file is renamed and replaced, or truncated. A new file that already has more than 64 KiB when it
//! replaces the old one is treated as old: its content is skipped.
#![allow(clippy::disallowed_methods, reason = "reads only the end of a file")]

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::FileError;
use crate::os::{clock, poll};
use spa_knock_core::knock::Steady;

/// How much is read at a time.
const PIECE: usize = 64 << 10;
/// Maximum length of a line; longer lines are skipped.
const LINE_MAX: usize = 8 << 10;
/// How long a renamed file is still read: its writer switches to the new one only when it is notified.
const LINGER: Duration = Duration::from_secs(30);
/// How far the follower may lag behind; anything older is skipped.
const BEHIND_MAX: u64 = 16 << 20;
/// A new file that is larger than this existed before under another name, so its content is old.
const NEW_MAX: u64 = 64 << 10;
/// The mode bit that allows everyone to write.
const OTHERS_WRITE: u32 = 0o002;
/// Interval for checks where changes are not reported, as on a network file system.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// A followed log.
pub struct Follower {
    path: PathBuf,
    inotify: Inotify,
    current: Option<Tail>,
    /// Files that had the name before, and until when they are still read.
    before: Vec<(Tail, Steady)>,
}

impl Follower {
    /// Starts at the end of the file, or at the first byte if the file does not exist yet.
    ///
    /// # Errors
    /// When the file exists but cannot be read, or its folder does not exist.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let error = |error: io::Error| FileError::io(path, &error);
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|errno| error(errno.into()))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let arrivals = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(folder, arrivals).map_err(|errno| FileError::io(folder, &errno.into()))?;
        let mut follower = Self { path: path.to_owned(), inotify, current: None, before: Vec::new() };
        match follower.open_current() {
            Ok(mut tail) => {
                tail.skip_to_end().map_err(error)?;
                follower.current = Some(tail);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(other) => return Err(error(other)),
        }
        Ok(follower)
    }

    /// Whether the file exists now.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.current.is_some()
    }

    /// Writes the new lines to `out`.
    ///
    /// # Errors
    /// When `out` cannot be written, or the file of that name cannot be read; a process with other privileges may be
    /// able to read it.
    pub fn copy(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.switch_file()?;
        for (tail, _) in &mut self.before {
            tail.copy(&self.path, out)?;
        }
        let now = clock::steady();
        self.before.retain(|(_, until)| now < *until);
        self.current.as_mut().map_or(Ok(()), |tail| tail.copy(&self.path, out))
    }

    /// Waits until there may be new lines. Returns whether `out` still has a reader.
    ///
    /// # Errors
    /// When the system cannot wait.
    pub fn wait(&self, out: &impl AsFd) -> io::Result<bool> {
        let ready = poll::readable(&[out.as_fd(), self.inotify.as_fd()], CHECK_INTERVAL)?;
        // It does not matter which file has changed: all are checked.
        while self.inotify.read_events().is_ok() {}
        Ok(ready.first() != Some(&true))
    }

    /// Switches to the file that has the name now, if it is a different one.
    fn switch_file(&mut self) -> io::Result<()> {
        let known = self.current.as_ref().map(|tail| tail.identity);
        let opened = match std::fs::metadata(&self.path) {
            Ok(metadata) if known == Some(identity(&metadata)) => return Ok(()),
            Ok(_) => self.open_current(),
            Err(error) => Err(error),
        };
        let mut tail = match opened {
            Ok(tail) => tail,
            // Between two files of that name there is none; the old one is still read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if tail.file.metadata()?.len() > NEW_MAX {
            tail.skip_to_end()?;
        }
        if let Some(old) = self.current.replace(tail) {
            self.before.push((old, clock::steady().plus(LINGER)));
        }
        Ok(())
    }

    fn open_current(&self) -> io::Result<Tail> {
        // Otherwise, opening a FIFO would wait for a writer.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if metadata.mode() & OTHERS_WRITE != 0 {
            let reason = "its mode allows anyone to write to it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        // If it cannot be watched, it is checked at intervals.
        let _ = self.inotify.add_watch(&self.path, AddWatchFlags::IN_MODIFY);
        let identity = identity(&metadata);
        Ok(Tail { file, identity, position: 0, rest: Vec::new(), skipping: false })
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The unread part of one file.
struct Tail {
    file: File,
    /// Its device and inode.
    identity: (u64, u64),
    /// How many bytes have been read.
    position: u64,
    /// The beginning of an incomplete line.
    rest: Vec<u8>,
    /// Whether the rest of a line is skipped because the line is too long.
    skipping: bool,
}

impl Tail {
    fn copy(&mut self, path: &Path, out: &mut impl Write) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            let length = self.file.metadata()?.len();
            if length < self.position {
                // The file was truncated, as by copytruncate of logrotate(8).
                self.position = self.file.seek(SeekFrom::Start(0))?;
                (self.rest, self.skipping) = (Vec::new(), false);
                if length > NEW_MAX {
                    self.skip_to_end()?;
                }
            }
            let behind = length.saturating_sub(self.position);
            if behind > BEHIND_MAX {
                log::warn!("{}: grows too fast; skipping {} MiB", path.display(), behind >> 20);
                self.skip_to_end()?;
            }
            let read = self.file.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            self.position = self.position.saturating_add(u64::try_from(read).unwrap_or_default());
            self.forward(piece.get(..read).unwrap_or_default(), out)?;
        }
    }

    /// Skips to the end, and past the rest of a line that is incomplete there.
    fn skip_to_end(&mut self) -> io::Result<()> {
        self.rest.clear();
        let end = self.file.seek(SeekFrom::End(0))?;
        let mut last = *b"\n";
        if end > 0 {
            self.file.seek(SeekFrom::End(-1))?;
            self.file.read_exact(&mut last)?;
        }
        self.skipping = last != *b"\n";
        self.position = end;
        Ok(())
    }

    fn forward(&mut self, piece: &[u8], out: &mut impl Write) -> io::Result<()> {
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            let is_whole = part.ends_with(b"\n");
            if !self.skipping {
                self.rest.extend_from_slice(part);
            }
            let is_long = self.rest.len() > LINE_MAX;
            if is_whole && !is_long {
                out.write_all(&self.rest)?;
            }
            if is_whole || is_long {
                self.rest.clear();
                self.skipping = !is_whole;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;

    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn path(&self) -> PathBuf {
            self.0.path().join("kern.log")
        }

        fn append(&self, text: &str) {
            let mut file = OpenOptions::new().append(true).create(true).open(self.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
    }

    fn scratch() -> Scratch {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn copied(follower: &mut Follower) -> String {
        let mut out = Vec::new();
        follower.copy(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn appended_lines_are_copied_and_earlier_ones_are_not() {
        let scratch = scratch();
        scratch.append("old\nhalf");
        let mut follower = Follower::open(&scratch.path()).unwrap();
        assert_eq!(copied(&mut follower), "");
        for (appended, lines) in [
            (" an old one", ""),
            ("\none\ntwo\n", "one\ntwo\n"),
            ("thr", ""),
            ("", ""),
            ("ee\nfo", "three\n"),
            ("ur\n\n", "four\n\n"),
            ("\0\n", "\0\n"),
        ] {
            scratch.append(appended);
            assert_eq!(copied(&mut follower), lines, "{appended:?}");
        }
        let long = "x".repeat(LINE_MAX);
        for (appended, lines) in [
            (format!("{}\nnext\n", &long[1..]), format!("{}\nnext\n", &long[1..])),
            (format!("{long}\nnext\n"), "next\n".to_owned()),
            (long.repeat(20), String::new()),
            (long.repeat(9), String::new()),
            (format!("{long}\nnext\n"), "next\n".to_owned()),
        ] {
            scratch.append(&appended);
            assert_eq!(copied(&mut follower), lines);
        }
    }

    #[test]
    fn no_line_is_lost_or_copied_twice_when_the_file_is_renamed() {
        let scratch = scratch();
        scratch.append("");
        let mut follower = Follower::open(&scratch.path()).unwrap();
        let mut old = OpenOptions::new().append(true).open(scratch.path()).unwrap();
        for round in 0..3 {
            scratch.append("a\n");
            fs::rename(scratch.path(), scratch.0.path().join(format!("kern.log.{round}"))).unwrap();
            assert_eq!(copied(&mut follower), "a\n");
            // Its writer has not been notified yet.
            old.write_all(b"b\n").unwrap();
            assert_eq!(copied(&mut follower), "b\n");
            scratch.append("c\n");
            old.write_all(b"d\n").unwrap();
            assert_eq!(copied(&mut follower), "d\nc\n");
            old.write_all(b"e\n").unwrap();
            assert_eq!(copied(&mut follower), "e\n");
            old = OpenOptions::new().append(true).open(scratch.path()).unwrap();
        }
    }

    #[test]
    fn the_old_content_of_a_replacement_and_a_backlog_that_is_too_large_are_skipped() {
        let scratch = scratch();
        let line = "x".repeat(99) + "\n";
        let old = line.repeat(1_000);
        scratch.append("");
        let mut follower = Follower::open(&scratch.path()).unwrap();
        let copy = scratch.0.path().join("copy");
        fs::write(&copy, &old).unwrap();
        fs::rename(&copy, scratch.path()).unwrap();
        assert_eq!(copied(&mut follower), "");
        scratch.append("new\n");
        assert_eq!(copied(&mut follower), "new\n");
        // Truncated, but not completely.
        OpenOptions::new().write(true).open(scratch.path()).unwrap().set_len(90_000).unwrap();
        assert_eq!(copied(&mut follower), "");
        scratch.append(&"y".repeat(usize::try_from(BEHIND_MAX).unwrap() + 1));
        assert_eq!(copied(&mut follower), "");
        scratch.append("yyy\nnext\n");
        assert_eq!(copied(&mut follower), "next\n");
    }

    #[test]
    fn a_path_that_is_not_a_regular_file_is_an_error_at_the_start_and_later() {
        let scratch = scratch();
        let error = |path: &Path| Follower::open(path).err().unwrap().to_string();
        assert!(error(scratch.0.path()).ends_with(": not a regular file"));
        nix::unistd::mkfifo(&scratch.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(error(&scratch.path()).ends_with(": not a regular file"));
        fs::remove_file(scratch.path()).unwrap();
        let mut follower = Follower::open(&scratch.path()).unwrap();
        fs::create_dir(scratch.path()).unwrap();
        assert!(follower.copy(&mut Vec::new()).is_err());
    }

    #[test]
    fn a_truncated_file_is_read_from_its_beginning() {
        let scratch = scratch();
        scratch.append("some line\n");
        let mut follower = Follower::open(&scratch.path()).unwrap();
        scratch.append("another\nha");
        assert_eq!(copied(&mut follower), "another\n");
        fs::write(scratch.path(), "new\n").unwrap();
        assert_eq!(copied(&mut follower), "new\n");
        scratch.append("more\n");
        assert_eq!(copied(&mut follower), "more\n");
    }

    #[test]
    fn a_file_that_is_created_later_is_read_from_its_beginning_and_ends_the_wait() {
        let scratch = scratch();
        let mut follower = Follower::open(&scratch.path()).unwrap();
        let (out, reader) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!follower.is_there());
        assert_eq!(copied(&mut follower), "");
        for text in ["one\n", "two\n"] {
            scratch.append(text);
            let before = clock::steady();
            assert!(follower.wait(&out).unwrap());
            assert!(clock::steady().since(before) < CHECK_INTERVAL / 2, "inotify reported it");
            assert_eq!(copied(&mut follower), text);
        }
        drop(reader);
        assert!(!follower.wait(&out).unwrap(), "no reader is left");
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let path = scratch().path();
        let error = Follower::open(&path).err().unwrap().to_string();
        assert_eq!(error, format!("{}: no such file or directory", path.parent().unwrap().display()));
    }
}
