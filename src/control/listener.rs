//! The daemon's end of the control socket: bounded in size, number and time.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::answering::Responder;
use super::{GrantLine, Request, Response};
use crate::os::clock;
use crate::os::files::{self, FileError, FileMode};
use crate::os::net::peer;
use crate::os::poll::Polled;
use spa_knock_core::knock::Steady;

/// The longest question.
const QUESTION_MAX: usize = 4096;
/// Between two looks at whether an answer can go on.
const ANSWER_EVERY: Duration = Duration::from_millis(20);
/// How many may be asking at a time.
const ASKING_MAX: usize = 16;
/// How long asking may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer may take: as long as a reload, which starts a watcher and runs nft.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(25);

/// The daemon's end.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    asking: Vec<PartialRequest>,
    answering: Vec<Responder>,
}

/// Somebody who has not said all yet.
struct PartialRequest {
    stream: UnixStream,
    since: Steady,
    bytes: Vec<u8>,
}

/// Whether a daemon listens at `path`.
pub(crate) fn is_open(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Listens at `path`, in place of a daemon that was killed. Its folder is made if it is missing.
///
/// # Errors
/// When another process listens there, or the socket cannot be made.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, FileError> {
    if let Some(folder) = path.parent() {
        files::create_folder(folder, FileMode::Public)?;
    }
    if is_open(path) {
        let error = std::io::Error::from(ErrorKind::AddrInUse);
        return Err(FileError::io(path, &error));
    }
    match files::remove(path) {
        Err(error) if !error.missing => return Err(error),
        _ => {}
    }
    let io = |error: std::io::Error| FileError::io(path, &error);
    let listener = UnixListener::bind(path).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    Ok(listener)
}

/// Who waits for an answer.
pub(crate) struct Requester(UnixStream);

impl Requester {
    /// Whether nobody reads an answer any more.
    pub(crate) fn has_gone(&self) -> bool {
        peer::has_gone(&self.0)
    }
}

impl Control {
    /// Listens at `path`, for root and the daemon's own user alone.
    ///
    /// # Errors
    /// When another daemon does, or the socket cannot be made.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let listener = listen(path)?;
        let control = Self { listener, path: path.to_owned(), asking: Vec::new(), answering: Vec::new() };
        files::make_private(path)?;
        Ok(control)
    }

    /// Whether one more is listened to.
    fn has_room(&self) -> bool {
        self.asking.len().saturating_add(self.answering.len()) < ASKING_MAX
    }

    /// Answers. A reader that is too slow goes without.
    pub(crate) fn answer(&mut self, requester: Requester, answer: &Response) {
        let now = clock::steady();
        self.begin(Responder::short(requester.0, answer, now), now);
    }

    /// Answers with a list that may be long.
    pub(crate) fn answer_grants(
        &mut self,
        requester: Requester,
        grants: Box<dyn Iterator<Item = GrantLine>>,
    ) {
        let now = clock::steady();
        self.begin(Some(Responder::grants(requester.0, grants, now)), now);
    }

    fn begin(&mut self, answering: Option<Responder>, now: Steady) {
        if let Some(mut answering) = answering
            && answering.go_on(now)
        {
            self.answering.push(answering);
        }
    }

    /// What is asked now, and by whom.
    pub(crate) fn run_due(&mut self) -> Vec<(Requester, Request)> {
        self.run_due_at(clock::steady())
    }

    fn run_due_at(&mut self, now: Steady) -> Vec<(Requester, Request)> {
        self.answering.retain_mut(|answering| answering.go_on(now));
        while self.has_room()
            && let Ok((stream, _)) = self.listener.accept()
        {
            if peer::is_trusted(&stream) && stream.set_nonblocking(true).is_ok() {
                self.asking.push(PartialRequest { stream, since: now, bytes: Vec::new() });
            }
        }
        let mut questions = Vec::new();
        for mut asking in std::mem::take(&mut self.asking) {
            match asking.read(now) {
                Some(true) => match asking.finish() {
                    (requester, Ok(request)) => questions.push((requester, request)),
                    (requester, Err(reason)) => self.answer(requester, &Response::Failed { reason }),
                },
                Some(false) => self.asking.push(asking),
                None => {}
            }
        }
        questions
    }
}

impl Polled for Control {
    /// Readable when somebody asks.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        out.extend(self.has_room().then(|| self.listener.as_fd()));
        out.extend(self.asking.iter().map(|asking| asking.stream.as_fd()));
    }

    /// When somebody is given up who says nothing, or an answer can go on.
    fn deadline(&self) -> Option<Steady> {
        let asking = self.asking.iter().map(|asking| asking.since.plus(PATIENCE)).min();
        let answering = self.answering.first().map(|_| clock::steady().plus(ANSWER_EVERY));
        asking.into_iter().chain(answering).min()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // If it cannot be removed, nobody answers there, and the next daemon takes it away.
        let _ = files::remove(&self.path);
    }
}

impl PartialRequest {
    /// Whether all has been said; none when nothing will come of it.
    fn read(&mut self, now: Steady) -> Option<bool> {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => {
                    self.bytes.extend(buffer.iter().take(length));
                    if self.bytes.contains(&b'\n') {
                        // Who has given up has told so to somebody: nothing is done behind his back.
                        return (!peer::has_gone(&self.stream)).then_some(true);
                    }
                    if self.bytes.len() > QUESTION_MAX {
                        return None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let waits = now.since(self.since) < PATIENCE;
                    return waits.then_some(false);
                }
                Err(_) => return None,
            }
        }
    }

    fn finish(self) -> (Requester, Result<Request, String>) {
        let request = serde_json::from_slice(self.bytes.trim_ascii_end());
        (Requester(self.stream), request.map_err(|error| format!("control: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use std::io::Write;

    use super::super::client::{AskResult, ask, ask_within};
    use super::*;

    fn answered(control: &mut Control, answer: &Response) -> Request {
        for _ in 0..500 {
            if let Some((requester, request)) = control.run_due().pop() {
                control.answer(requester, answer);
                return request;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("nobody asked");
    }

    #[test]
    fn a_question_is_answered_and_a_stale_socket_is_taken_away() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("run/control.sock");
        assert!(matches!(ask(&path, &Request::Reload {}), Ok(AskResult::Nobody)));
        std::mem::forget(Control::open(&path).unwrap());
        assert!(Control::open(&path).is_err(), "somebody answers there");
        let path = scratch.path().join("run/other.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(
            matches!(ask(&path, &Request::Reload {}), Ok(AskResult::Nobody)),
            "of a daemon that was killed"
        );

        let mut control = Control::open(&path).unwrap();
        let request = Request::PreviousUses { client: "laptop".to_owned() };
        let asked = thread::spawn({
            let (path, request) = (path.clone(), request.clone());
            move || ask(&path, &request).map_err(|failure| failure.text())
        });
        assert_eq!(answered(&mut control, &Response::Count { count: 3 }), request);
        assert!(matches!(asked.join().unwrap(), Ok(AskResult::Answer(Response::Count { count: 3 }))));
        drop(control);
        assert!(!files::exists(&path));
    }

    #[test]
    fn who_gets_no_answer_is_told_that_the_daemon_hangs_and_what_was_asked_is_not_done_later() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let mut control = Control::open(&path).unwrap();
        let Err(failure) = ask_within(&path, &Request::Reload {}, Duration::from_millis(50)) else {
            panic!("nobody answers")
        };
        let text = failure.text();
        assert!(text.contains("the daemon has not answered within 50ms"), "{text}");
        assert!(text.contains("hint: it hangs") && text.contains("systemctl restart spa-knockd"), "{text}");
        assert!((0..5).all(|_| control.run_due().is_empty()));
        assert!(control.asking.is_empty());
    }

    #[test]
    fn who_gives_up_while_others_are_answered_is_seen_to_have_gone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let mut control = Control::open(&path).unwrap();
        let mut askers: Vec<UnixStream> = (0..2).map(|_| UnixStream::connect(&path).unwrap()).collect();
        askers.iter_mut().for_each(|requester| requester.write_all(b"{\"request\":\"status\"}\n").unwrap());
        let asked = control.run_due();
        assert_eq!(asked.len(), 2);
        drop(askers.pop());
        let gone: Vec<bool> = asked.iter().map(|(requester, _)| requester.has_gone()).collect();
        assert_eq!(gone, [false, true]);
    }

    #[test]
    fn a_long_list_is_read_whole_and_a_reader_that_stops_is_given_up() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let mut control = Control::open(&path).unwrap();
        let line = |n: u64| GrantLine {
            grant: format!("{n:08x}"),
            client: "x".repeat(32),
            action: "y".repeat(32),
            from: "2001:db8::1".to_owned(),
            opens: "tcp/22".to_owned(),
            seconds: n,
        };
        let ask_for_grants = || {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(b"{\"request\":\"grants\"}\n").unwrap();
            stream
        };
        // More than a socket takes at once, and more than an answer could have before.
        let _stuck = ask_for_grants();
        let asked = thread::spawn({
            let path = path.clone();
            move || ask(&path, &Request::Grants {}).map_err(|failure| failure.text())
        });
        let mut answered = 0;
        let start = clock::steady();
        while !asked.is_finished() {
            assert!(clock::steady().since(start) < Duration::from_secs(60));
            for (requester, _) in control.run_due() {
                control.answer_grants(requester, Box::new((0..20_000).map(line)));
                answered += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let Ok(AskResult::Answer(Response::Grants { grants })) = asked.join().unwrap() else {
            panic!("no grants")
        };
        assert_eq!((grants.len(), answered), (20_000, 2));
        assert_eq!(grants.last(), Some(&line(19_999)));
        assert_eq!(control.answering.len(), 1, "one does not read");
        assert!(control.deadline().unwrap() <= clock::steady().plus(ANSWER_EVERY));
        assert!(control.run_due_at(clock::steady().plus(PATIENCE)).is_empty());
        assert!(control.answering.is_empty(), "given up");
    }

    #[test]
    fn what_is_no_question_or_too_long_is_not_taken_for_one() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let mut control = Control::open(&path).unwrap();
        for (said, answer) in [
            ("{\"request\":\"format-disk\"}\n", "failed"),
            ("{\"request\":\"reload\",\"and\":1}\n", "failed"),
            ("reload\n", "failed"),
            (&*"x".repeat(QUESTION_MAX + 1024), ""),
        ] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(said.as_bytes()).unwrap();
            for _ in 0..5 {
                assert!(control.run_due().is_empty(), "{said}");
            }
            let mut heard = String::new();
            let _ = stream.read_to_string(&mut heard);
            assert!(heard.contains(answer) && heard.is_empty() == answer.is_empty(), "{said}: {heard}");
        }
        // Those who say nothing do not keep others out for long, and only so many are listened to.
        let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
        assert!(control.run_due().is_empty());
        assert_eq!(control.asking.len(), ASKING_MAX);
        let mut fds = Vec::new();
        control.fds(&mut fds);
        assert_eq!(fds.len(), ASKING_MAX, "who waits to ask does not wake us");
        assert!(control.deadline().unwrap() <= clock::steady().plus(PATIENCE));
        assert!(control.run_due_at(clock::steady().plus(PATIENCE)).is_empty());
        assert_eq!(control.asking.len(), 0, "given up");
        drop(silent);
        assert!((0..5).all(|_| control.run_due().is_empty()));
        assert!(control.asking.is_empty());
    }
}
