//! The log: one line per event, in the order of the events. With `-l`, a line waits up to 2 s for the host name of its
//! source, and all later lines wait behind it. The events themselves are never delayed.

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
const NAME_WAIT: Duration = Duration::from_secs(2);
/// How many lines can wait. Besides doors that open, at most 200 events a second are logged
/// (`legacy/watcher/log_limiter.rs`).
const HELD_MAX: usize = 1_024;

/// The log.
pub(crate) struct KnockLog {
    sinks: Sinks,
    /// `None` if addresses are logged without names.
    names: Option<ReverseDns>,
    held: VecDeque<PendingLine>,
}

/// An event of one source at one door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::legacy) enum LogEvent {
    /// The attempt has reached a stage, has opened the door, or has timed out.
    Step(MatchStage),
    /// `Cmd_Timeout` of an open door has passed.
    CommandTimeout,
}

struct PendingLine {
    since: Now,
    line: LogLine,
}

enum LogLine {
    Whole(String),
    Event { source: IpAddr, door: String, event: LogEvent },
}

impl KnockLog {
    /// Opens the log. If the file cannot be written, logs a warning and continues without a file.
    pub(crate) fn open(path: Option<PathBuf>, syslog: bool, verbose: bool) -> Self {
        Self { sinks: Sinks::open(path, syslog, verbose), names: None, held: VecDeque::new() }
    }

    /// Uses `names` for the host names.
    pub(in crate::legacy) fn with_names(self, names: Option<ReverseDns>) -> Self {
        Self { names, ..self }
    }

    /// For a reload: continues in the file `path`, or reopens the present one if `path` is `None`.
    pub(in crate::legacy) fn reopen(&mut self, path: Option<PathBuf>, syslog: bool) {
        // Earlier events belong in the old file.
        self.flush();
        if let Some(path) = self.sinks.close(path, syslog) {
            let text = LogMessage::Reopening(path).text();
            self.sinks.write(&text, clock::wall());
        }
        self.sinks.reopen();
    }

    /// Writes a line without a source.
    pub(in crate::legacy) fn write(&mut self, message: &LogMessage<'_>) {
        self.hold(LogLine::Whole(message.text()), clock::now());
    }

    /// Writes a line about an event of `source` at `door`.
    pub(in crate::legacy) fn write_event(&mut self, source: IpAddr, door: &str, event: LogEvent) {
        let now = clock::now();
        if let (Some(names), Some(priority)) = (&mut self.names, event.lookup_priority()) {
            names.request(source, priority, now.steady);
        }
        self.hold(LogLine::Event { source, door: door.to_owned(), event }, now);
    }

    /// Waits up to 500 ms until all lines have been written to their destinations.
    pub(in crate::legacy) fn flush_sinks(&self) {
        self.sinks.flush();
    }

    /// Writes a line to standard output if `-v` was given.
    pub(in crate::legacy) fn print_verbose(&self, text: &str) {
        self.sinks.print_verbose(text);
    }

    /// Handles lookups that have ended, and writes the lines that no longer wait.
    pub(in crate::legacy) fn run_due(&mut self) {
        let now = clock::steady();
        if let Some(names) = &mut self.names {
            names.run_due(now);
        }
        self.release(now);
    }

    /// Writes all waiting lines, with the names that are known.
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
            (LogLine::Event { source, .. }, Some(names)) => names.awaits(*source),
            _ => false,
        }
    }

    fn put(&self, held: &PendingLine) {
        let text = match &held.line {
            LogLine::Whole(text) => text,
            LogLine::Event { source, door, event } => {
                let name = self.names.as_ref().and_then(|names| names.of(*source));
                &event.message(*source, name, door).text()
            }
        };
        self.sinks.write(text, held.since.wall);
    }
}

impl Polled for KnockLog {
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.names.fds(out);
    }

    /// When the first line stops waiting, or a lookup times out.
    fn deadline(&self) -> Option<Steady> {
        let line = self.held.front().map(PendingLine::deadline);
        line.into_iter().chain(self.names.deadline()).min()
    }
}

impl PendingLine {
    const fn deadline(&self) -> Steady {
        self.since.steady.plus(NAME_WAIT)
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

    /// The priority of the lookup for this event. `None` for a timeout: the name was looked up at an earlier stage.
    const fn lookup_priority(self) -> Option<Priority> {
        match self {
            Self::Step(MatchStage::Stage(_)) => Some(Priority::Anyone),
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
        /// A log in a temporary directory. If given, `script` looks up the name of the address `$0`.
        fn new(script: Option<&str>) -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let knock_log = KnockLog::open(Some(scratch.path().join("log")), false, false);
            Self { knock_log: knock_log.with_names(script.map(ReverseDns::by)), scratch }
        }

        fn write(&mut self, source: &str, event: LogEvent) {
            self.knock_log.write_event(source.parse().unwrap(), "a", event);
        }

        /// The lines of a file in the directory, without times.
        fn lines(&self, name: &str) -> Vec<String> {
            self.knock_log.sinks.flush();
            let text = files::read_text(&self.scratch.path().join(name)).unwrap();
            text.lines().filter_map(|line| Some(line.split_once("] ")?.1.to_owned())).collect()
        }
    }

    #[test]
    fn without_names_each_line_is_written_immediately() {
        let mut scene = Scene::new(None);
        scene.write("10.0.0.1", STAGE);
        assert_eq!(scene.lines("log"), ["10.0.0.1: a: Stage 1"]);
        assert_eq!(scene.knock_log.deadline(), None);
    }

    #[test]
    fn lines_wait_for_a_name_and_keep_their_order() {
        let mut scene = Scene::new(Some("sleep 0.3; [ $0 = 10.0.0.1 ] && echo $0 host.example"));
        scene.write("10.0.0.2", LogEvent::Step(MatchStage::Timeout(1)));
        scene.write("10.0.0.1", STAGE);
        scene.write("10.0.0.2", STAGE);
        scene.write("10.0.0.1", OPEN);
        scene.knock_log.write(&LogMessage::Running("a", b"x"));
        assert_eq!(scene.lines("log"), ["10.0.0.2: a: sequence timeout (stage 1)"]);
        assert!(scene.knock_log.deadline().is_some_and(|due| due <= clock::steady().plus(NAME_WAIT)));
        scene.knock_log.names.as_mut().unwrap().settle();
        scene.knock_log.run_due();
        scene.write("10.0.0.1", LogEvent::CommandTimeout);
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
        scene.write("10.0.0.1", STAGE);
        scene.knock_log.release(start.plus(NAME_WAIT - Duration::from_millis(1)));
        assert_eq!(scene.lines("log"), [""; 0]);
        scene.knock_log.release(clock::steady().plus(NAME_WAIT));
        assert_eq!(scene.lines("log"), ["10.0.0.1: a: Stage 1"]);
    }

    #[test]
    fn the_number_of_waiting_lines_is_bounded() {
        let mut scene = Scene::new(Some("exec sleep 60"));
        scene.write("10.0.0.1", STAGE);
        for _ in 1..HELD_MAX {
            scene.knock_log.write(&LogMessage::ForkFailed);
        }
        assert_eq!((scene.knock_log.held.len(), scene.lines("log").len()), (HELD_MAX, 0));
        // After the first line has been written, the others have nothing to wait for.
        scene.knock_log.write(&LogMessage::ForkFailed);
        assert_eq!((scene.knock_log.held.len(), scene.lines("log").len()), (0, HELD_MAX + 1));
    }

    #[test]
    fn lines_that_wait_during_a_change_of_file_are_written_to_the_old_file() {
        let mut scene = Scene::new(Some("exec sleep 60"));
        scene.write("10.0.0.1", STAGE);
        let next = scene.scratch.path().join("next");
        scene.knock_log.reopen(Some(next), false);
        scene.knock_log.write(&LogMessage::ShuttingDown);
        assert_eq!(scene.lines("log"), ["10.0.0.1: a: Stage 1"]);
        assert_eq!(scene.lines("next"), ["shutting down"]);
    }
}
