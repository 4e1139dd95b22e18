//! The lines of knockd's log, exactly as knockd writes them, because programs parse them. Other modules decide when and
//! where they are written.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use super::HostName;
use super::command::TruncatedCommand;

/// knockd's limit for a message, in bytes.
const MESSAGE_MAX: usize = 1023;

/// The source of an event: its address, and its host name if it was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedSource<'a> {
    /// The source's address.
    pub address: IpAddr,
    /// Its name (`-l`).
    pub name: Option<&'a HostName>,
}

/// A message of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMessage<'a> {
    /// The daemon listens on an interface.
    Starting(&'a str),
    /// An attempt at a door has reached this stage, from 1.
    Stage(LoggedSource<'a>, &'a str, u8),
    /// The sequence of a door is complete.
    Open(LoggedSource<'a>, &'a str),
    /// A door's command was started.
    Running(&'a str, &'a [u8]),
    /// A door's command exited with this status, which is not 0, or was killed by a signal (0).
    Status(&'a str, i32),
    /// The time between a door's start command and its stop command has passed.
    CommandTimeout(LoggedSource<'a>, &'a str),
    /// An attempt took too long.
    SequenceTimeout(LoggedSource<'a>, &'a str, u8),
    /// The config is being read again.
    Rereading(&'a Path),
    /// The config is invalid, so the old one remains in use. (knockd exits in this case.)
    Kept(&'a str),
    /// The log file is being closed and opened again.
    Reopening(&'a Path),
    /// The daemon stops.
    ShuttingDown,
    /// The file for the process id cannot be written, with the reason.
    PidFile(&'a Path, &'a str),
    /// A command could not be started.
    ForkFailed,
    /// A command is too long, so no command is run.
    Truncated(TruncatedCommand),
    /// A door's one-time sequences are used up.
    NoSequences(&'a str),
    /// A used one-time sequence of a door could not be marked.
    NotMarked(&'a str),
}

impl LogMessage<'_> {
    /// The message as sent to syslog, at most 1023 bytes. Some messages end with a line end, so a blank line follows
    /// them in a file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.to_string();
        text.truncate(text.floor_char_boundary(MESSAGE_MAX));
        text
    }
}

/// A message as written to a log file, with its line end. `minute` is local time, `YYYY-MM-DD HH:MM`.
#[must_use]
pub fn line(text: &str, minute: &str) -> String {
    format!("[{minute}] {text}\n")
}

impl fmt::Display for LoggedSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{} ({name})", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl fmt::Display for LogMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DISABLING: &str = "--> disabling the door";
        match self {
            Self::Starting(interface) => write!(f, "starting up, listening on {interface}"),
            Self::Stage(client, door, stage) => write!(f, "{client}: {door}: Stage {stage}"),
            Self::Open(client, door) => write!(f, "{client}: {door}: OPEN SESAME"),
            Self::Running(door, command) => {
                writeln!(f, "{door}: running command: {}", String::from_utf8_lossy(command))
            }
            Self::Status(door, status) => {
                write!(f, "{door}: command returned non-zero status code ({status})")
            }
            Self::CommandTimeout(client, door) => write!(f, "{client}: {door}: command timeout"),
            Self::SequenceTimeout(client, door, stage) => {
                writeln!(f, "{client}: {door}: sequence timeout (stage {stage})")
            }
            Self::Rereading(path) => writeln!(f, "re-reading config file: {}", path.display()),
            Self::Kept(error) => write!(f, "could not re-read config file, keeping the old one: {error}"),
            Self::Reopening(path) => write!(f, "re-opening log file: {}", path.display()),
            Self::ShuttingDown => f.write_str("shutting down"),
            Self::PidFile(path, error) => write!(f, "could not create pid file {}: {error}", path.display()),
            Self::ForkFailed => f.write_str("error: command fork failed!"),
            Self::Truncated(TruncatedCommand::Start) => {
                f.write_str("error: parsed start command has been truncated! --> won't execute it")
            }
            Self::Truncated(TruncatedCommand::Stop) => {
                f.write_str("error: parsed stop command has been truncated! --> won't execute start command")
            }
            Self::NoSequences(door) => {
                let place = "the one time sequences file";
                writeln!(f, "no more sequences left in {place} for door {door} {DISABLING}")
            }
            Self::NotMarked(door) => {
                write!(f, "error while disabling used one time sequence for door {door} {DISABLING}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: &str = "2026-11-24 11:42";

    #[test]
    fn every_line_is_exactly_as_in_knockd() {
        let client = LoggedSource { address: "10.77.0.2".parse().unwrap(), name: None };
        let name = "host.example".parse().unwrap();
        let named = LoggedSource { name: Some(&name), ..client };
        for (message, lines) in [
            (LogMessage::Starting("eth0"), "starting up, listening on eth0\n"),
            (LogMessage::Stage(client, "a", 1), "10.77.0.2: a: Stage 1\n"),
            (LogMessage::Stage(named, "a", 32), "10.77.0.2 (host.example): a: Stage 32\n"),
            (LogMessage::Open(client, "a b"), "10.77.0.2: a b: OPEN SESAME\n"),
            (LogMessage::Running("a", b"/bin/x 10.77.0.2"), "a: running command: /bin/x 10.77.0.2\n\n"),
            (LogMessage::Status("a", 3), "a: command returned non-zero status code (3)\n"),
            (LogMessage::CommandTimeout(client, "a"), "10.77.0.2: a: command timeout\n"),
            (LogMessage::SequenceTimeout(client, "a", 2), "10.77.0.2: a: sequence timeout (stage 2)\n\n"),
            (
                LogMessage::Rereading(Path::new("/etc/knockd.conf")),
                "re-reading config file: /etc/knockd.conf\n\n",
            ),
            (LogMessage::Kept("x"), "could not re-read config file, keeping the old one: x\n"),
            (LogMessage::Reopening(Path::new("/l")), "re-opening log file: /l\n"),
            (LogMessage::ShuttingDown, "shutting down\n"),
            (
                LogMessage::PidFile(Path::new("/p"), "Permission denied"),
                "could not create pid file /p: Permission denied\n",
            ),
            (LogMessage::ForkFailed, "error: command fork failed!\n"),
            (
                LogMessage::Truncated(TruncatedCommand::Start),
                "error: parsed start command has been truncated! --> won't execute it\n",
            ),
            (
                LogMessage::Truncated(TruncatedCommand::Stop),
                "error: parsed stop command has been truncated! --> won't execute start command\n",
            ),
            (
                LogMessage::NoSequences("a"),
                "no more sequences left in the one time sequences file for door a --> disabling the door\n\n",
            ),
            (
                LogMessage::NotMarked("a"),
                "error while disabling used one time sequence for door a --> disabling the door\n",
            ),
        ] {
            assert_eq!(line(&message.text(), MINUTE), format!("[{MINUTE}] {lines}"));
        }
    }

    #[test]
    fn a_message_is_truncated_where_knockd_truncates_it() {
        let command = vec![b'x'; 4095];
        let text = LogMessage::Running("a", &command).text();
        assert_eq!((text.len(), text.ends_with('x')), (1023, true));
        let umlauts = "ä".repeat(1000);
        assert_eq!(LogMessage::Running("a", umlauts.as_bytes()).text().len(), 1022);
    }
}
