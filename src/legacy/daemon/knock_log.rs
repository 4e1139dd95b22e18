//! The log: a line for each thing in the order in which they happened; with `-l`, with the names of those who knock. A
//! line waits a moment for its name, and all that come after it wait behind it. What a line tells of never does.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use super::log_sinks::Sinks;
use super::reverse_dns::{Priority, ReverseDns};
use crate::legacy::knockd::{HostName, LogMessage, LoggedSource, MatchStage};
use crate::os::clock;
use crate::os::poll::Polled;
use spa_knock_core::knock::{Now, Steady};

/// How long a line waits for a name.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many wait. Besides what opens there are 200 a second (`legacy/watcher/log_limiter.rs`).
const HELD_MAX: usize = 1_024;

/// The log.
pub(crate) struct KnockLog {
    sinks: Sinks,
    /// None = addresses stand alone.
    names: Option<ReverseDns>,
    held: VecDeque<PendingLine>,
}

/// What has happened to somebody who knocks at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::legacy) enum LogEvent {
    /// His attempt has come so far, or is over.
    Step(MatchStage),
    /// The time of what was opened for him is over.
    CommandTimeout,
}

struct PendingLine {
    since: Now,
    line: LogLine,
}

enum LogLine {
    Whole(String),
    Of { source: IpAddr, door: String, turn: LogEvent },
}

impl KnockLog {
    /// Opens the log; a file that cannot be written is told and done without.
    pub(crate) fn open(path: Option<PathBuf>, syslog: bool, verbose: bool) -> Self {
        Self { sinks: Sinks::open(path, syslog, verbose), names: None, held: VecDeque::new() }
    }

    /// The same with these names.
    pub(in crate::legacy) fn with_names(self, names: Option<ReverseDns>) -> Self {
        Self { names, ..self }
    }

    /// Goes on in this file from now on, or else in the one that it had: what a reload does.
    pub(in crate::legacy) fn turn_to(&mut self, path: Option<PathBuf>, syslog: bool) {
        // What has happened before stands in the old one.
        self.flush();
        if let Some(path) = self.sinks.close(path, syslog) {
            let text = LogMessage::Reopening(path).text();
            self.sinks.write(&text, clock::wall());
        }
        self.sinks.reopen();
    }

    /// Writes a line that names nobody.
    pub(in crate::legacy) fn write(&mut self, message: &LogMessage<'_>) {
        self.hold(LogLine::Whole(message.text()), clock::now());
    }

    /// Writes a line of somebody who knocks.
    pub(in crate::legacy) fn write_event(&mut self, source: IpAddr, door: &str, turn: LogEvent) {
        let now = clock::now();
        if let (Some(names), Some(asker)) = (&mut self.names, turn.asker()) {
            names.ask(source, asker, now.steady);
        }
        self.hold(LogLine::Of { source, door: door.to_owned(), turn }, now);
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
    pub(in crate::legacy) fn run_due(&mut self) {
        let now = clock::steady();
        if let Some(names) = &mut self.names {
            names.run_due(now);
        }
        self.release(now);
    }

    /// Writes all that waits as it is.
    pub(in crate::legacy) fn flush(&mut self) {
        std::mem::take(&mut self.held).iter().for_each(|held| self.put(held));
    }

    fn hold(&mut self, line: LogLine, now: Now) {
        self.held.push_back(PendingLine { since: now, line });
        self.release(now.steady);
    }

    fn release(&mut self, now: Steady) {
        while let Some(held) = self.held.front() {
            if self.waits(&held.line) && now < held.deadline() && self.held.len() <= HELD_MAX {
                return;
            }
            if let Some(held) = self.held.pop_front() {
                self.put(&held);
            }
        }
    }

    fn waits(&self, line: &LogLine) -> bool {
        match (line, &self.names) {
            (LogLine::Of { source, .. }, Some(names)) => names.awaits(*source),
            _ => false,
        }
    }

    fn put(&self, held: &PendingLine) {
        let text = match &held.line {
            LogLine::Whole(text) => text,
            LogLine::Of { source, door, turn } => {
                let name = self.names.as_ref().and_then(|names| names.of(*source));
                &turn.message(*source, name, door).text()
            }
        };
        self.sinks.write(text, held.since.wall);
    }
}

impl Polled for KnockLog {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.names.fds(out);
    }

    /// When the first line has waited long enough, or a look-up has.
    fn deadline(&self) -> Option<Steady> {
        let line = self.held.front().map(PendingLine::deadline);
        line.into_iter().chain(self.names.deadline()).min()
    }
}

impl PendingLine {
    const fn deadline(&self) -> Steady {
        self.since.steady.plus(PATIENCE)
    }
}

impl LogEvent {
    fn message<'a>(self, address: IpAddr, name: Option<&'a HostName>, door: &'a str) -> LogMessage<'a> {
        let client = LoggedSource { address, name };
        match self {
            Self::Step(MatchStage::Stage(stage)) => LogMessage::Stage(client, door, stage),
            Self::Step(MatchStage::Open) => LogMessage::Open(client, door),
            Self::Step(MatchStage::Timeout(stage)) => LogMessage::SequenceTimeout(client, door, stage),
            Self::CommandTimeout => LogMessage::CommandTimeout(client, door),
        }
    }

    /// For whom a name is looked up; an attempt that is over had its time for that.
    const fn asker(self) -> Option<Priority> {
        match self {
            Self::Step(MatchStage::Stage(_)) => Some(Priority::Anybody),
            Self::Step(MatchStage::Timeout(_)) => None,
            Self::Step(MatchStage::Open) | Self::CommandTimeout => Some(Priority::Opener),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::files;

    const STAGE: LogEvent = LogEvent::Step(MatchStage::Stage(1));
    const OPEN: LogEvent = LogEvent::Step(MatchStage::Open);

    struct Scene {
        knock_log: KnockLog,
        scratch: tempfile::TempDir,
    }

    impl Scene {
        /// A log in a folder of its own, with names as a script has them for `$0`.
        fn new(script: Option<&str>) -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let knock_log = KnockLog::open(Some(scratch.path().join("log")), false, false);
            Self { knock_log: knock_log.with_names(script.map(ReverseDns::by)), scratch }
        }

        fn tell(&mut self, source: &str, turn: LogEvent) {
            self.knock_log.write_event(source.parse().unwrap(), "a", turn);
        }

        /// What stands in a file of the folder, without times.
        fn lines(&self, name: &str) -> Vec<String> {
            self.knock_log.sinks.flush();
            let text = files::read_text(&self.scratch.path().join(name)).unwrap();
            text.lines().filter_map(|line| Some(line.split_once("] ")?.1.to_owned())).collect()
        }
    }

    #[test]
    fn without_names_each_line_is_written_at_once() {
        let mut scene = Scene::new(None);
        scene.tell("10.0.0.1", STAGE);
        assert_eq!(scene.lines("log"), ["10.0.0.1: a: Stage 1"]);
        assert_eq!(scene.knock_log.deadline(), None);
    }

    #[test]
    fn lines_wait_for_a_name_and_stay_in_their_order() {
        let mut scene = Scene::new(Some("sleep 0.3; [ $0 = 10.0.0.1 ] && echo $0 host.example"));
        scene.tell("10.0.0.2", LogEvent::Step(MatchStage::Timeout(1)));
        scene.tell("10.0.0.1", STAGE);
        scene.tell("10.0.0.2", STAGE);
        scene.tell("10.0.0.1", OPEN);
        scene.knock_log.write(&LogMessage::Running("a", b"x"));
        assert_eq!(scene.lines("log"), ["10.0.0.2: a: sequence timeout (stage 1)"]);
        assert!(scene.knock_log.deadline().is_some_and(|due| due <= clock::steady().plus(PATIENCE)));
        scene.knock_log.names.as_mut().unwrap().settle();
        scene.knock_log.run_due();
        scene.tell("10.0.0.1", LogEvent::CommandTimeout);
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
        assert_eq!(scene.knock_log.deadline(), None);
    }

    #[test]
    fn a_line_waits_two_seconds_at_most() {
        let mut scene = Scene::new(Some("exec sleep 60"));
        let start = clock::steady();
        scene.tell("10.0.0.1", STAGE);
        scene.knock_log.release(start.plus(PATIENCE - Duration::from_millis(1)));
        assert_eq!(scene.lines("log"), [""; 0]);
        scene.knock_log.release(clock::steady().plus(PATIENCE));
        assert_eq!(scene.lines("log"), ["10.0.0.1: a: Stage 1"]);
    }

    #[test]
    fn no_more_lines_wait_than_there_is_room_for() {
        let mut scene = Scene::new(Some("exec sleep 60"));
        scene.tell("10.0.0.1", STAGE);
        for _ in 1..HELD_MAX {
            scene.knock_log.write(&LogMessage::ForkFailed);
        }
        assert_eq!((scene.knock_log.held.len(), scene.lines("log").len()), (HELD_MAX, 0));
        // Once the first goes, those behind it wait for nothing.
        scene.knock_log.write(&LogMessage::ForkFailed);
        assert_eq!((scene.knock_log.held.len(), scene.lines("log").len()), (0, HELD_MAX + 1));
    }

    #[test]
    fn what_waits_when_the_log_is_turned_stands_in_the_old_file() {
        let mut scene = Scene::new(Some("exec sleep 60"));
        scene.tell("10.0.0.1", STAGE);
        let next = scene.scratch.path().join("next");
        scene.knock_log.turn_to(Some(next), false);
        scene.knock_log.write(&LogMessage::ShuttingDown);
        assert_eq!(scene.lines("log"), ["10.0.0.1: a: Stage 1"]);
        assert_eq!(scene.lines("next"), ["shutting down"]);
    }
}
