//! Follows a log file by its name: what is appended, from the end on, also after somebody renamed the file and began
//! another one, or cut it off. Whole lines are handed over, none twice.
#![allow(clippy::disallowed_methods, reason = "it reads a file that is not to be read whole")]

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::files::FileError;
use super::{clock, wait};

/// What is read at a time.
const PIECE: usize = 64 << 10;
/// A line that is longer is left out.
const LINE_MAX: usize = 8 << 10;
/// How long a file that was renamed is still read: its writer goes over to the new one when it is told to.
const LINGER: Duration = Duration::from_secs(30);
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
    before: Vec<(Tail, Duration)>,
    /// What was wrong with the name when it was looked at last.
    wrong: Option<String>,
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
        let mut follower =
            Self { path: path.to_owned(), inotify, current: None, before: Vec::new(), wrong: None };
        match follower.open_current() {
            Ok(mut tail) => {
                tail.position = tail.file.seek(SeekFrom::End(0)).map_err(error)?;
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
    /// When `out` does not take them.
    pub fn copy(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.go_over();
        for (tail, _) in &mut self.before {
            tail.copy(out)?;
        }
        let now = clock::steady();
        self.before.retain(|(_, until)| now < *until);
        self.current.as_mut().map_or(Ok(()), |tail| tail.copy(out))
    }

    /// Waits until there may be more; whether `out` is still read.
    ///
    /// # Errors
    /// When the system cannot wait.
    pub fn wait(&self, out: &impl AsFd) -> io::Result<bool> {
        let ready = wait::readable(&[out.as_fd(), self.inotify.as_fd()], LOOK)?;
        // Which file it was does not matter: all are looked at.
        while self.inotify.read_events().is_ok() {}
        Ok(ready.first() != Some(&true))
    }

    /// Takes up the file that has the name now, if it is another one.
    fn go_over(&mut self) {
        let known = self.current.as_ref().map(|tail| tail.identity);
        let opened = match std::fs::metadata(&self.path) {
            Ok(metadata) if known == Some(identity(&metadata)) => return,
            Ok(_) => self.open_current(),
            Err(error) => Err(error),
        };
        match opened {
            Ok(tail) => {
                if let Some(old) = self.current.replace(tail) {
                    self.before.push((old, clock::steady().saturating_add(LINGER)));
                }
                self.wrong = None;
            }
            // Between two files of that name there is none; what was is still read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let wrong = FileError::io(&self.path, &error).to_string();
                if self.wrong.as_ref() != Some(&wrong) {
                    log::error!("{wrong}");
                    self.wrong = Some(wrong);
                }
            }
        }
    }

    fn open_current(&self) -> io::Result<Tail> {
        let file = File::open(&self.path)?;
        if file.metadata()?.mode() & OTHERS_WRITE != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "its mode lets everybody write lines into it",
            ));
        }
        // Where it cannot be watched it is looked at every now and then.
        let _ = self.inotify.add_watch(&self.path, AddWatchFlags::IN_MODIFY);
        let identity = identity(&file.metadata()?);
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
    /// What cannot be read is tried again when there is more.
    fn copy(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() < self.position) {
            // Somebody has cut it off, as copytruncate of logrotate(8) does.
            self.position = self.file.seek(SeekFrom::Start(0)).unwrap_or_default();
            self.rest.clear();
        }
        let mut piece = vec![0; PIECE];
        while let Ok(read @ 1..) = self.file.read(&mut piece) {
            self.position = self.position.saturating_add(u64::try_from(read).unwrap_or_default());
            self.pass_on(piece.get(..read).unwrap_or_default(), out)?;
        }
        Ok(())
    }

    fn pass_on(&mut self, piece: &[u8], out: &mut impl Write) -> io::Result<()> {
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            if !self.skipping {
                self.rest.extend_from_slice(part);
            }
            let is_whole = part.ends_with(b"\n");
            if is_whole && self.rest.len() <= LINE_MAX {
                out.write_all(&self.rest)?;
            }
            self.skipping = !is_whole && self.rest.len() > LINE_MAX;
            if is_whole || self.skipping {
                self.rest.clear();
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
            ("one\ntwo\n", "one\ntwo\n"),
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
            assert!(clock::steady() - before < LOOK / 2, "it was told");
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
