//! Parses the text of a `knockd.conf` into options and doors: as leniently as knockd, and with knockd's error messages.
//! Does not read one-time files.

use std::path::PathBuf;
use std::time::Duration;

use super::command::ShellCommand;
use super::door::{Door, DoorTarget, GrantSpec};
use super::flags::UnknownFlag;
use super::number::{atoi, trim};
use super::sequence::{KnockSequence, SequenceError};
use spa_knock_core::knock::{PortRange, Prefix};

/// knockd reads lines in pieces of at most this many bytes, including the line end. Each piece is treated as a line.
const PIECE_MAX: usize = 4095;
/// A section's name is truncated to this length in bytes, including the closing bracket.
const SECTION_MAX: usize = 255;
/// A door's name is truncated to this length in bytes.
const NAME_MAX: usize = 127;
/// An interface's name is truncated to this length in bytes.
const INTERFACE_MAX: usize = 31;
/// The same limits as for `for` in `spa-knockd.toml`.
const TERMS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);

/// A valid config.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The `[options]`.
    pub options: KnockdOptions,
    /// The doors, in the order of the file. Each has a sequence or a one-time file.
    pub doors: Vec<Door>,
}

/// The `[options]` section. Keys that are not set can be set on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnockdOptions {
    /// Whether to log to syslog.
    pub syslog: bool,
    /// The log file. An empty path means none, even if the command line names one.
    pub log_file: Option<PathBuf>,
    /// The file for the process id.
    pub pid_file: Option<PathBuf>,
    /// The interfaces to listen on. (knockd uses only the first.)
    pub interfaces: Vec<String>,
}

/// An error in a config, in knockd's wording. Lines are numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither a section nor a directive that is allowed here.
    #[error("config: line {0}: syntax error")]
    Syntax(usize),
    /// `[]`.
    #[error("config: line {0}: bad section name")]
    Section(usize),
    /// A directive before the first section.
    #[error("config: line {0}: all directives must belong to a section")]
    Outside(usize),
    /// An unknown flag in `TCPFlags`.
    #[error("config: line {0}: {1}")]
    Flag(usize, UnknownFlag),
    /// An invalid `Sequence` of the door with this name.
    #[error("config: section {0}: {1}")]
    Sequence(String, SequenceError),
    /// A door without a sequence.
    #[error("error: section '{0}' has an empty knock sequence")]
    Empty(String),
    /// An error that is not one of knockd's: a value that libpcap would reject, or one of a key that knockd does not
    /// have.
    #[error("config: line {0}: {1}")]
    Value(usize, String),
    /// The same for a door as a whole.
    #[error("config: section {0}: {1}")]
    Door(String, &'static str),
}

impl ConfigError {
    /// The number of the faulty line, from 1. `None` if the error is in a door as a whole.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        match self {
            Self::Syntax(line)
            | Self::Section(line)
            | Self::Outside(line)
            | Self::Flag(line, _)
            | Self::Value(line, _) => Some(*line),
            Self::Sequence(..) | Self::Empty(_) | Self::Door(..) => None,
        }
    }
}

/// The state of the parser.
#[derive(Default)]
struct KnockdParser {
    config: Config,
    section: SectionKind,
    /// `AllowDuplicates` in `[options]`.
    all_duplicates: bool,
    /// `Open` and `For` of each door.
    openings: Vec<(Option<Vec<PortRange>>, Option<Duration>)>,
}

#[derive(Default, PartialEq, Eq)]
enum SectionKind {
    #[default]
    Outside,
    Options,
    Door,
}

impl Config {
    /// Parses a config. Bytes that are not UTF-8 are kept in commands and paths, and replaced by U+FFFD in names.
    ///
    /// # Errors
    /// The first error.
    pub fn read(text: &[u8]) -> Result<Self, ConfigError> {
        let mut reader = KnockdParser::default();
        for (number, (_, piece)) in (1..).zip(pieces(text)) {
            reader.line(number, trim(piece))?;
        }
        reader.finish()
    }
}

impl KnockdParser {
    fn line(&mut self, number: usize, line: &[u8]) -> Result<(), ConfigError> {
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix(b"[")
            && line.ends_with(b"]")
        {
            return self.section(number, rest);
        }
        if self.section == SectionKind::Outside {
            return Err(ConfigError::Outside(number));
        }
        let mut parts = line.splitn(2, |&byte| byte == b'=');
        let key = trim(parts.next().unwrap_or_default()).to_ascii_lowercase();
        match (parts.next().map(trim), &self.section) {
            (None, _) => self.bare_directive(number, &key),
            (Some(value), SectionKind::Door) => self.door_value(number, &key, value),
            (Some(value), _) => self.option(number, &key, value),
        }
    }

    /// `rest` is the line after the opening bracket, including the closing bracket.
    fn section(&mut self, number: usize, rest: &[u8]) -> Result<(), ConfigError> {
        let kept = rest.get(..rest.len().min(SECTION_MAX)).unwrap_or_default();
        match kept.split_last().map(|(_, name)| name) {
            None | Some([]) => Err(ConfigError::Section(number)),
            Some(b"options") => {
                self.section = SectionKind::Options;
                Ok(())
            }
            Some(name) => {
                self.section = SectionKind::Door;
                self.config.doors.push(Door::new(text(cut(name, NAME_MAX))));
                self.openings.push((None, None));
                Ok(())
            }
        }
    }

    /// A directive without a value.
    fn bare_directive(&mut self, number: usize, name: &[u8]) -> Result<(), ConfigError> {
        match (name, &self.section) {
            (b"usesyslog", _) => self.config.options.syslog = true,
            (b"allowduplicates", SectionKind::Options) => self.all_duplicates = true,
            (b"allowduplicates", _) => {
                self.config.doors.last_mut().into_iter().for_each(|door| door.allow_duplicates = true);
            }
            _ => return Err(ConfigError::Syntax(number)),
        }
        Ok(())
    }

    fn option(&mut self, number: usize, key: &[u8], value: &[u8]) -> Result<(), ConfigError> {
        let options = &mut self.config.options;
        match key {
            b"logfile" => options.log_file = Some(path(value)),
            b"pidfile" => options.pid_file = Some(path(value)),
            b"interface" if value.is_empty() => {}
            b"interface" => options.interfaces.push(text(cut(value, INTERFACE_MAX))),
            _ => return Err(ConfigError::Syntax(number)),
        }
        Ok(())
    }

    fn door_value(&mut self, number: usize, key: &[u8], value: &[u8]) -> Result<(), ConfigError> {
        let (Some(door), Some(opening)) = (self.config.doors.last_mut(), self.openings.last_mut()) else {
            return Err(ConfigError::Syntax(number));
        };
        let value_error = |error: String| ConfigError::Value(number, error);
        match key {
            b"sequence" => {
                let sequence_error = |error| ConfigError::Sequence(door.name.clone(), error);
                door.sequence = Some(KnockSequence::read(value).map_err(sequence_error)?);
            }
            b"one_time_sequences" => door.one_time = Some(path(value)),
            b"seq_timeout" | b"timeout" => door.sequence_timeout = atoi(value),
            b"tcpflags" => {
                door.flags = door.flags.with(value).map_err(|flag| ConfigError::Flag(number, flag))?;
            }
            b"start_command" | b"command" => door.start = Some(ShellCommand::new(value)),
            b"start_command_6" | b"command_6" => door.start_6 = Some(ShellCommand::new(value)),
            b"cmd_timeout" => door.command_timeout = atoi(value),
            b"stop_command" => door.stop = Some(ShellCommand::new(value)),
            b"stop_command_6" => door.stop_6 = Some(ShellCommand::new(value)),
            b"target" => {
                let target = DoorTarget::read(&text(value));
                door.target = Some(target.ok_or_else(|| value_error("target is not an address".to_owned()))?);
            }
            b"source" => door.sources = list::<Prefix>(value).map_err(value_error)?,
            b"open" => opening.0 = Some(list(value).map_err(value_error)?),
            b"for" => opening.1 = Some(term(value).map_err(value_error)?),
            _ => return Err(ConfigError::Syntax(number)),
        }
        Ok(())
    }

    fn finish(self) -> Result<Config, ConfigError> {
        let Self { mut config, all_duplicates, openings, .. } = self;
        for (door, opening) in config.doors.iter_mut().zip(openings) {
            if door.sequence.is_none() && door.one_time.is_none() {
                return Err(ConfigError::Empty(door.name.clone()));
            }
            door.allow_duplicates |= all_duplicates;
            door.opening = read_opening(opening)
                .and_then(|opening| check_alone(door, opening))
                .map_err(|reason| ConfigError::Door(door.name.clone(), reason))?;
        }
        Ok(config)
    }
}

fn read_opening(
    (ports, term): (Option<Vec<PortRange>>, Option<Duration>),
) -> Result<Option<GrantSpec>, &'static str> {
    match (ports, term) {
        (Some(ports), Some(term)) => Ok(Some(GrantSpec { ports, term })),
        (Some(_), None) => Err("Open requires For, such as For = 30s"),
        (None, Some(_)) => Err("For requires Open, such as Open = tcp/22"),
        (None, None) => Ok(None),
    }
}

fn check_alone(door: &Door, opening: Option<GrantSpec>) -> Result<Option<GrantSpec>, &'static str> {
    let commands = [&door.start, &door.start_6, &door.stop, &door.stop_6];
    if opening.is_some() && commands.into_iter().any(Option::is_some) {
        return Err("use either Open or commands, not both");
    }
    Ok(opening)
}

/// Splits `text` into pieces as `fgets` would read them, each with its offset. A piece is truncated at a NUL byte.
pub(super) fn pieces(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0_usize;
    text.split_inclusive(|&byte| byte == b'\n').flat_map(|line| line.chunks(PIECE_MAX)).map(move |piece| {
        let offset = start;
        start = start.saturating_add(piece.len());
        (offset, piece.split(|&byte| byte == 0).next().unwrap_or_default())
    })
}

fn list<T: std::str::FromStr<Err: std::fmt::Display>>(value: &[u8]) -> Result<Vec<T>, String> {
    text(value).split(',').map(|item| item.trim().parse::<T>().map_err(|error| error.to_string())).collect()
}

fn term(value: &[u8]) -> Result<Duration, String> {
    let term =
        humantime::parse_duration(&text(value)).map_err(|_| "expected a duration such as 30s, 5m or 2h")?;
    let fits = TERMS.contains(&term) && term.subsec_nanos() == 0;
    if fits { Ok(term) } else { Err("expected whole seconds from 1s to 365d".to_owned()) }
}

fn cut(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(..length).unwrap_or(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(unix)]
fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(not(unix))]
fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(text(bytes))
}

#[cfg(test)]
mod tests;
