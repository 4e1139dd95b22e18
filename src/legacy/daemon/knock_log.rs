//! The log: a line for each thing in the order in which they happened; with `-l`, with the names of those who knock. A
//! line waits a moment for its name, and all that come after it wait behind it. What a line tells of never does.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use super::log_sinks::Sinks;
use super::reverse_dns::{Asker, Names};
use crate::knock::Now;
use crate::legacy::knockd::{Client, HostName, Message, Step};
use crate::os::clock;

/// How long a line waits for a name.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many wait. Besides what opens there are 200 a second (`quiet.rs`).
const HELD_MAX: usize = 1_024;

/// The log.
pub(crate) struct Book {
    sinks: Sinks,
    /// None = addresses stand alone.
    names: Option<Names>,
    held: VecDeque<Held>,
}

/// What has happened to somebody who knocks at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::legacy) enum Turn {
    /// His attempt has come so far, or is over.
    Step(Step),
    /// The time of what was opened for him is over.
    CommandTimeout,
}

struct Held {
    since: Now,
    line: Line,
}

enum Line {
    Whole(String),
    Of { source: IpAddr, door: String, turn: Turn },
}

impl Book {
    /// Opens the log; a file that cannot be written is told and done without.
    pub(crate) fn open(path: Option<PathBuf>, syslog: bool, verbose: bool) -> Self {
        Self { sinks: Sinks::open(path, syslog, verbose), names: None, held: VecDeque::new() }
    }

    /// The same with these names.
    pub(in crate::legacy) fn with_names(self, names: Option<Names>) -> Self {
        Self { names, ..self }
    }

    /// Goes on in this file from now on, or else in the one that it had: what a reload does.
    pub(in crate::legacy) fn turn_to(&mut self, path: Option<PathBuf>, syslog: bool) {
        // What has happened before stands in the old one.
        self.flush();
        if let Some(path) = self.sinks.close(path, syslog) {
            let text = Message::Reopening(path).text();
            self.sinks.write(&text, clock::wall());
        }
        self.sinks.reopen();
    }

    /// Writes a line that names nobody.
    pub(in crate::legacy) fn write(&mut self, message: &Message<'_>) {
        self.hold(Line::Whole(message.text()), clock::now());
    }

    /// Writes a line of somebody who knocks.
    pub(in crate::legacy) fn tell(&mut self, source: IpAddr, door: &str, turn: Turn) {
        let now = clock::now();
        if let (Some(names), Some(asker)) = (&mut self.names, turn.asker()) {
            names.ask(source, asker, now.steady);
        }
        self.hold(Line::Of { source, door: door.to_owned(), turn }, now);
    }

    /// Waits a moment until what is written is where it goes.
    pub(in crate::legacy) fn flush_sinks(&self) {
        self.sinks.flush();
    }

    /// Only for who watches (`-v`).
    pub(in crate::legacy) fn say(&self, text: &str) {
        self.sinks.say(text);
    }

    /// Looks after names, and writes what waits for none any more.
    pub(in crate::legacy) fn tend(&mut self) {
        let now = clock::steady();
        if let Some(names) = &mut self.names {
            names.tend(now);
        }
        self.release(now);
    }

    /// Writes all that waits as it is.
    pub(in crate::legacy) fn flush(&mut self) {
        std::mem::take(&mut self.held).iter().for_each(|held| self.put(held));
    }

    /// Until `tend` has something to do, if no look-up ends before.
    pub(in crate::legacy) fn patience(&self) -> Option<Duration> {
        let line = self.held.front().map(Held::due);
        let due = line.into_iter().chain(self.names.as_ref().and_then(Names::deadline)).min();
        due.map(|due| due.saturating_sub(clock::steady()))
    }

    /// Readable when a look-up says something.
    pub(in crate::legacy) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.names.iter().flat_map(Names::descriptors)
    }

    fn hold(&mut self, line: Line, now: Now) {
        self.held.push_back(Held { since: now, line });
        self.release(now.steady);
    }

    fn release(&mut self, now: Duration) {
        while let Some(held) = self.held.front() {
            if self.waits(&held.line) && now < held.due() && self.held.len() <= HELD_MAX {
                return;
            }
            if let Some(held) = self.held.pop_front() {
                self.put(&held);
            }
        }
    }

    fn waits(&self, line: &Line) -> bool {
        match (line, &self.names) {
            (Line::Of { source, .. }, Some(names)) => names.awaits(*source),
            _ => false,
        }
    }

    fn put(&self, held: &Held) {
        let text = match &held.line {
            Line::Whole(text) => text,
            Line::Of { source, door, turn } => {
                let name = self.names.as_ref().and_then(|names| names.of(*source));
                &turn.message(*source, name, door).text()
            }
        };
        self.sinks.write(text, held.since.wall);
    }
}

impl Held {
    const fn due(&self) -> Duration {
        self.since.steady.saturating_add(PATIENCE)
    }
}

impl Turn {
    fn message<'a>(self, address: IpAddr, name: Option<&'a HostName>, door: &'a str) -> Message<'a> {
        let client = Client { address, name };
        match self {
            Self::Step(Step::Stage(stage)) => Message::Stage(client, door, stage),
            Self::Step(Step::Open) => Message::Open(client, door),
            Self::Step(Step::Timeout(stage)) => Message::SequenceTimeout(client, door, stage),
            Self::CommandTimeout => Message::CommandTimeout(client, door),
        }
    }

    /// For whom a name is looked up; an attempt that is over had its time for that.
    const fn asker(self) -> Option<Asker> {
        match self {
            Self::Step(Step::Stage(_)) => Some(Asker::Anybody),
            Self::Step(Step::Timeout(_)) => None,
            Self::Step(Step::Open) | Self::CommandTimeout => Some(Asker::Opener),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files;

    const STAGE: Turn = Turn::Step(Step::Stage(1));
    const OPEN: Turn = Turn::Step(Step::Open);

    struct Scene {
        book: Book,
        scratch: tempfile::TempDir,
    }

    impl Scene {
        /// A log in a folder of its own, with names as a script has them for `$0`.
        fn new(script: Option<&str>) -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let book = Book::open(Some(scratch.path().join("log")), false, false);
            Self { book: book.with_names(script.map(Names::by)), scratch }
        }

        fn tell(&mut self, source: &str, turn: Turn) {
            self.book.tell(source.parse().unwrap(), "a", turn);
        }

        /// What stands in a file of the folder, without times.
        fn lines(&self, name: &str) -> Vec<String> {
            self.book.sinks.flush();
            let text = files::read_text(&self.scratch.path().join(name)).unwrap();
            text.lines().filter_map(|line| Some(line.split_once("] ")?.1.to_owned())).collect()
        }
    }

    #[test]
    fn without_names_each_line_is_written_at_once() {
        let mut scene = Scene::new(None);
        scene.tell("10.0.0.1", STAGE);
        assert_eq!(scene.lines("log"), ["10.0.0.1: a: Stage 1"]);
        assert_eq!(scene.book.patience(), None);
    }

    #[test]
    fn lines_wait_for_a_name_and_stay_in_their_order() {
        let mut scene = Scene::new(Some("sleep 0.3; [ $0 = 10.0.0.1 ] && echo $0 host.example"));
        scene.tell("10.0.0.2", Turn::Step(Step::Timeout(1)));
        scene.tell("10.0.0.1", STAGE);
        scene.tell("10.0.0.2", STAGE);
        scene.tell("10.0.0.1", OPEN);
        scene.book.write(&Message::Running("a", b"x"));
        assert_eq!(scene.lines("log"), ["10.0.0.2: a: sequence timeout (stage 1)"]);
        assert!(scene.book.patience().is_some_and(|patience| patience <= PATIENCE));
        scene.book.names.as_mut().unwrap().settle();
        scene.book.tend();
        scene.tell("10.0.0.1", Turn::CommandTimeout);
        assert_eq!(
            scene.lines("log"),
            [
                "10.0.0.2: a: sequence timeout (stage 1)",
                "10.0.0.1 (host.example): a: Stage 1",
                "10.0.0.2: a: Stage 1",
                "10.0.0.1 (host.example): a: OPEN SESAME",
                "a: running command: x",
                "10.0.0.1 (host.example): a: command timeout",
            ]
        );
        assert_eq!(scene.book.patience(), None);
    }

    #[test]
    fn a_line_waits_two_seconds_at_most() {
        let mut scene = Scene::new(Some("exec sleep 60"));
        let start = clock::steady();
        scene.tell("10.0.0.1", STAGE);
        scene.book.release(start + PATIENCE - Duration::from_millis(1));
        assert_eq!(scene.lines("log"), [""; 0]);
        scene.book.release(clock::steady() + PATIENCE);
        assert_eq!(scene.lines("log"), ["10.0.0.1: a: Stage 1"]);
    }

    #[test]
    fn no_more_lines_wait_than_there_is_room_for() {
        let mut scene = Scene::new(Some("exec sleep 60"));
        scene.tell("10.0.0.1", STAGE);
        for _ in 1..HELD_MAX {
            scene.book.write(&Message::ForkFailed);
        }
        assert_eq!((scene.book.held.len(), scene.lines("log").len()), (HELD_MAX, 0));
        // Once the first goes, those behind it wait for nothing.
        scene.book.write(&Message::ForkFailed);
        assert_eq!((scene.book.held.len(), scene.lines("log").len()), (0, HELD_MAX + 1));
    }

    #[test]
    fn what_waits_when_the_log_is_turned_stands_in_the_old_file() {
        let mut scene = Scene::new(Some("exec sleep 60"));
        scene.tell("10.0.0.1", STAGE);
        let next = scene.scratch.path().join("next");
        scene.book.turn_to(Some(next), false);
        scene.book.write(&Message::ShuttingDown);
        assert_eq!(scene.lines("log"), ["10.0.0.1: a: Stage 1"]);
        assert_eq!(scene.lines("next"), ["shutting down"]);
    }
}
