//! Follows a log file by its name: what is appended, from the end on, also after somebody renamed the file and began
//! another one, or cut it off. Whole lines are handed over. A file that somebody puts in its place with all that stood
//! there counts as old from 64 KiB on.
#![allow(clippy::disallowed_methods, reason = "it reads a file that is not to be read whole")]

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

/// What is read at a time.
const PIECE: usize = 64 << 10;
/// A line that is longer is left out.
const LINE_MAX: usize = 8 << 10;
/// How long a file that was renamed is still read: its writer goes over to the new one when it is told to.
const LINGER: Duration = Duration::from_secs(30);
/// How far it may lag behind: what is older then is left out.
const BEHIND_MAX: u64 = 16 << 20;
/// A file that is longer when it comes than one that has just been begun was there before under another name: what
/// stands in it is old.
const NEW_MAX: u64 = 64 << 10;
/// The bit of a mode that lets everybody write.
const OTHERS_WRITE: u32 = 0o002;
/// How often is looked where nothing tells of changes, as on a network's file system.
const LOOK: Duration = Duration::from_secs(2);

/// A log that is followed.
pub struct Follower {
    path: PathBuf,
    inotify: Inotify,
    current: Option<Tail>,
    /// Those that had the name before, and until when they are read.
    before: Vec<(Tail, Steady)>,
}

impl Follower {
    /// Begins at the end of the file, or with the first byte of one that is not there yet.
    ///
    /// # Errors
    /// When there is a file that cannot be read, or no folder.
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

    /// Whether there is a file of that name now.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.current.is_some()
    }

    /// Hands over the lines that have come.
    ///
    /// # Errors
    /// When `out` does not take them, or the file of that name cannot be read: somebody with other rights may be able to.
    pub fn copy(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.switch_file()?;
        for (tail, _) in &mut self.before {
            tail.copy(&self.path, out)?;
        }
        let now = clock::steady();
        self.before.retain(|(_, until)| now < *until);
        self.current.as_mut().map_or(Ok(()), |tail| tail.copy(&self.path, out))
    }

    /// Waits until there may be more; whether `out` is still read.
    ///
    /// # Errors
    /// When the system cannot wait.
    pub fn wait(&self, out: &impl AsFd) -> io::Result<bool> {
        let ready = poll::readable(&[out.as_fd(), self.inotify.as_fd()], LOOK)?;
        // Which file it was does not matter: all are looked at.
        while self.inotify.read_events().is_ok() {}
        Ok(ready.first() != Some(&true))
    }

    /// Takes up the file that has the name now, if it is another one.
    fn switch_file(&mut self) -> io::Result<()> {
        let known = self.current.as_ref().map(|tail| tail.identity);
        let opened = match std::fs::metadata(&self.path) {
            Ok(metadata) if known == Some(identity(&metadata)) => return Ok(()),
            Ok(_) => self.open_current(),
            Err(error) => Err(error),
        };
        let mut tail = match opened {
            Ok(tail) => tail,
            // Between two files of that name there is none; what was is still read.
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
        // Opening a FIFO waits for who writes.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a file that is appended to"));
        }
        if metadata.mode() & OTHERS_WRITE != 0 {
            let reason = "its mode lets everybody write lines into it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        // Where it cannot be watched it is looked at every now and then.
        let _ = self.inotify.add_watch(&self.path, AddWatchFlags::IN_MODIFY);
        let identity = identity(&metadata);
        Ok(Tail { file, identity, position: 0, rest: Vec::new(), skipping: false })
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What is still to come of one file.
struct Tail {
    file: File,
    /// Its device and inode.
    identity: (u64, u64),
    /// How much of it has been read.
    position: u64,
    /// The beginning of a line.
    rest: Vec<u8>,
    /// Whether the rest of a line is left out, as it is too long.
    skipping: bool,
}

impl Tail {
    fn copy(&mut self, path: &Path, out: &mut impl Write) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            let length = self.file.metadata()?.len();
            if length < self.position {
                // Somebody has cut it off, as copytruncate of logrotate(8) does.
                self.position = self.file.seek(SeekFrom::Start(0))?;
                (self.rest, self.skipping) = (Vec::new(), false);
                if length > NEW_MAX {
                    self.skip_to_end()?;
                }
            }
            let behind = length.saturating_sub(self.position);
            if behind > BEHIND_MAX {
                log::warn!("{}: too much comes at once; {} MiB are left out", path.display(), behind >> 20);
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

    /// Goes to the end; the rest of a line that has begun there does not count.
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

    fn told(follower: &mut Follower) -> String {
        let mut out = Vec::new();
        follower.copy(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_appended_is_handed_over_line_by_line_and_what_was_there_is_not() {
        let scratch = scratch();
        scratch.append("old\nhalf");
        let mut follower = Follower::open(&scratch.path()).unwrap();
        assert_eq!(told(&mut follower), "");
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
            assert_eq!(told(&mut follower), lines, "{appended:?}");
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
            assert_eq!(told(&mut follower), lines);
        }
    }

    #[test]
    fn no_line_is_lost_or_told_twice_when_the_file_is_renamed() {
        let scratch = scratch();
        scratch.append("");
        let mut follower = Follower::open(&scratch.path()).unwrap();
        let mut old = OpenOptions::new().append(true).open(scratch.path()).unwrap();
        for round in 0..3 {
            scratch.append("a\n");
            fs::rename(scratch.path(), scratch.0.path().join(format!("kern.log.{round}"))).unwrap();
            assert_eq!(told(&mut follower), "a\n");
            // Its writer has not heard of it yet.
            old.write_all(b"b\n").unwrap();
            assert_eq!(told(&mut follower), "b\n");
            scratch.append("c\n");
            old.write_all(b"d\n").unwrap();
            assert_eq!(told(&mut follower), "d\nc\n");
            old.write_all(b"e\n").unwrap();
            assert_eq!(told(&mut follower), "e\n");
            old = OpenOptions::new().append(true).open(scratch.path()).unwrap();
        }
    }

    #[test]
    fn what_stood_in_a_file_that_takes_its_place_and_what_is_too_much_at_once_is_left_out() {
        let scratch = scratch();
        let line = "x".repeat(99) + "\n";
        let old = line.repeat(1_000);
        scratch.append("");
        let mut follower = Follower::open(&scratch.path()).unwrap();
        let copy = scratch.0.path().join("copy");
        fs::write(&copy, &old).unwrap();
        fs::rename(&copy, scratch.path()).unwrap();
        assert_eq!(told(&mut follower), "");
        scratch.append("new\n");
        assert_eq!(told(&mut follower), "new\n");
        // Cut off, but not all of it.
        OpenOptions::new().write(true).open(scratch.path()).unwrap().set_len(90_000).unwrap();
        assert_eq!(told(&mut follower), "");
        scratch.append(&"y".repeat(usize::try_from(BEHIND_MAX).unwrap() + 1));
        assert_eq!(told(&mut follower), "");
        scratch.append("yyy\nnext\n");
        assert_eq!(told(&mut follower), "next\n");
    }

    #[test]
    fn what_is_no_file_is_refused_at_once_and_a_file_that_cannot_be_read_any_more_is_told() {
        let scratch = scratch();
        let told = |path: &Path| Follower::open(path).err().unwrap().to_string();
        assert!(told(scratch.0.path()).ends_with(": not a file that is appended to"));
        nix::unistd::mkfifo(&scratch.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(told(&scratch.path()).ends_with(": not a file that is appended to"));
        fs::remove_file(scratch.path()).unwrap();
        let mut follower = Follower::open(&scratch.path()).unwrap();
        fs::create_dir(scratch.path()).unwrap();
        assert!(follower.copy(&mut Vec::new()).is_err());
    }

    #[test]
    fn a_file_that_was_cut_off_is_read_from_its_beginning() {
        let scratch = scratch();
        scratch.append("some line\n");
        let mut follower = Follower::open(&scratch.path()).unwrap();
        scratch.append("another\nha");
        assert_eq!(told(&mut follower), "another\n");
        fs::write(scratch.path(), "new\n").unwrap();
        assert_eq!(told(&mut follower), "new\n");
        scratch.append("more\n");
        assert_eq!(told(&mut follower), "more\n");
    }

    #[test]
    fn a_file_that_comes_later_is_read_from_its_beginning_and_wakes_who_waits() {
        let scratch = scratch();
        let mut follower = Follower::open(&scratch.path()).unwrap();
        let (out, reader) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!follower.is_there());
        assert_eq!(told(&mut follower), "");
        for text in ["one\n", "two\n"] {
            scratch.append(text);
            let before = clock::steady();
            assert!(follower.wait(&out).unwrap());
            assert!(clock::steady().since(before) < LOOK / 2, "it was told");
            assert_eq!(told(&mut follower), text);
        }
        drop(reader);
        assert!(!follower.wait(&out).unwrap(), "nobody reads");
    }

    #[test]
    fn a_folder_that_is_not_there_is_told() {
        let path = scratch().path();
        let error = Follower::open(&path).err().unwrap().to_string();
        assert_eq!(error, format!("{}: no such file or directory", path.parent().unwrap().display()));
    }
}
