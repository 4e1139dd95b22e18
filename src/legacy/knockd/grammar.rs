//! The text of a knockd.conf → options and doors: as lax as knockd's own reader, and with its words for what is wrong.
//! One-time files are named, not read.

use std::path::PathBuf;
use std::time::Duration;

use super::command::ShellCommand;
use super::door::{Door, DoorTarget, GrantSpec};
use super::flags::UnknownFlag;
use super::number::{atoi, trim};
use super::sequence::{KnockSequence, SequenceError};
use spa_knock_core::knock::{PortRange, Prefix};

/// knockd reads lines in pieces of at most so many bytes, line end and all; each piece counts as a line.
const PIECE_MAX: usize = 4095;
/// What is kept of a section's name, its bracket included.
const SECTION_MAX: usize = 255;
/// What is kept of a door's name.
const NAME_MAX: usize = 127;
/// What is kept of an interface's name.
const INTERFACE_MAX: usize = 31;
/// As for a grant of `spa-knockd.toml`.
const TERMS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);

/// A config that can be run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// What stands in `[options]`.
    pub options: KnockdOptions,
    /// Everything else, in the order of the file. Each has a sequence or a one-time file.
    pub doors: Vec<Door>,
}

/// `[options]`. What is not said is for the command line to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnockdOptions {
    /// Log to syslog.
    pub syslog: bool,
    /// Where to log, too; an empty path = nowhere, whatever the command line says.
    pub log_file: Option<PathBuf>,
    /// Where a daemon writes its process number.
    pub pid_file: Option<PathBuf>,
    /// Where to listen. (knockd takes the first and passes over the rest.)
    pub interfaces: Vec<String>,
}

/// What is wrong with a config, in knockd's words; lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither a section nor a directive that is known here.
    #[error("config: line {0}: syntax error")]
    Syntax(usize),
    /// `[]`.
    #[error("config: line {0}: bad section name")]
    Section(usize),
    /// A directive before the first section.
    #[error("config: line {0}: all directives must belong to a section")]
    Outside(usize),
    /// In `TCPFlags`.
    #[error("config: line {0}: {1}")]
    Flag(usize, UnknownFlag),
    /// In `Sequence`, of the door with this name.
    #[error("config: section {0}: {1}")]
    Sequence(String, SequenceError),
    /// A door without a sequence.
    #[error("error: section '{0}' has an empty knock sequence")]
    Empty(String),
    /// Something that knockd does not say: what libpcap would refuse, or an option that knockd has not.
    #[error("config: line {0}: {1}")]
    Value(usize, String),
    /// The same, of a door as a whole.
    #[error("config: section {0}: {1}")]
    Door(String, &'static str),
}

impl ConfigError {
    /// The line that is wrong, from 1; nothing where it is a door as a whole.
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

/// Where the reader is.
#[derive(Default)]
struct KnockdParser {
    config: Config,
    place: SectionKind,
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
    /// What this text means. Any bytes will do: bytes that are no UTF-8 stay what they are in commands and paths, and
    /// are shown as U+FFFD in names.
    ///
    /// # Errors
    /// The first thing that is wrong.
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
        if self.place == SectionKind::Outside {
            return Err(ConfigError::Outside(number));
        }
        let mut parts = line.splitn(2, |&byte| byte == b'=');
        let key = trim(parts.next().unwrap_or_default()).to_ascii_lowercase();
        match (parts.next().map(trim), &self.place) {
            (None, _) => self.word(number, &key),
            (Some(value), SectionKind::Door) => self.door_value(number, &key, value),
            (Some(value), _) => self.option(number, &key, value),
        }
    }

    /// `rest` is what follows the opening bracket, the closing one included.
    fn section(&mut self, number: usize, rest: &[u8]) -> Result<(), ConfigError> {
        let kept = rest.get(..rest.len().min(SECTION_MAX)).unwrap_or_default();
        match kept.split_last().map(|(_, name)| name) {
            None | Some([]) => Err(ConfigError::Section(number)),
            Some(b"options") => {
                self.place = SectionKind::Options;
                Ok(())
            }
            Some(name) => {
                self.place = SectionKind::Door;
                self.config.doors.push(Door::new(text(cut(name, NAME_MAX))));
                self.openings.push((None, None));
                Ok(())
            }
        }
    }

    /// A word without a value.
    fn word(&mut self, number: usize, word: &[u8]) -> Result<(), ConfigError> {
        match (word, &self.place) {
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
        let of_value = |error: String| ConfigError::Value(number, error);
        match key {
            b"sequence" => {
                let of_section = |error| ConfigError::Sequence(door.name.clone(), error);
                door.sequence = Some(KnockSequence::read(value).map_err(of_section)?);
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
                door.target = Some(target.ok_or_else(|| of_value("target is not an address".to_owned()))?);
            }
            b"source" => door.sources = list::<Prefix>(value).map_err(of_value)?,
            b"open" => opening.0 = Some(list(value).map_err(of_value)?),
            b"for" => opening.1 = Some(term(value).map_err(of_value)?),
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
        (Some(_), None) => Err("Open needs For, e.g. For = 30s"),
        (None, Some(_)) => Err("For needs Open, e.g. Open = tcp/22"),
        (None, None) => Ok(None),
    }
}

fn check_alone(door: &Door, opening: Option<GrantSpec>) -> Result<Option<GrantSpec>, &'static str> {
    let commands = [&door.start, &door.start_6, &door.stop, &door.stop_6];
    if opening.is_some() && commands.into_iter().any(Option::is_some) {
        return Err("Open stands in place of commands, not beside them");
    }
    Ok(opening)
}

/// What `fgets` would read, one after another, each with its place in the text; a NUL byte ends what is seen of one.
pub(super) fn pieces(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0_usize;
    text.split_inclusive(|&byte| byte == b'\n').flat_map(|line| line.chunks(PIECE_MAX)).map(move |piece| {
        let place = start;
        start = start.saturating_add(piece.len());
        (place, piece.split(|&byte| byte == 0).next().unwrap_or_default())
    })
}

fn list<T: std::str::FromStr<Err: std::fmt::Display>>(value: &[u8]) -> Result<Vec<T>, String> {
    text(value).split(',').map(|item| item.trim().parse::<T>().map_err(|error| error.to_string())).collect()
}

fn term(value: &[u8]) -> Result<Duration, String> {
    let term = humantime::parse_duration(&text(value)).map_err(|_| "a duration is written 30s, 5m or 2h")?;
    let fits = TERMS.contains(&term) && term.subsec_nanos() == 0;
    if fits { Ok(term) } else { Err("a grant lasts whole seconds, from 1s to 365d".to_owned()) }
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
