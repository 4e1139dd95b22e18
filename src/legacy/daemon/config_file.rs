//! Reads a `knockd.conf` and the one-time files that it names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::legacy::knockd::{Config, Door, KnockdOptions, OneTimeList};
use crate::os::files::{self, FileError};
use spa_knock_core::knock::PortRange;

/// The contents of a `knockd.conf` and its one-time files.
#[derive(Debug, Clone)]
pub(crate) struct KnockdConfig {
    /// Its text.
    pub(crate) text: Vec<u8>,
    /// Its options.
    pub(crate) options: KnockdOptions,
    /// Its doors.
    pub(crate) doors: Vec<Door>,
    /// The one-time sequences of doors, by the index of the door.
    pub(crate) lists: BTreeMap<usize, OneTimeList>,
}

/// Why a config cannot be used, in knockd's wording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigFault {
    /// The number of the faulty line, from 1, if the error is in a line.
    pub(crate) line: Option<usize>,
    /// The message.
    pub(crate) reason: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<String> for ConfigFault {
    fn from(reason: String) -> Self {
        Self { line: None, reason }
    }
}

impl From<FileError> for ConfigFault {
    fn from(error: FileError) -> Self {
        error.to_string().into()
    }
}

impl KnockdConfig {
    /// Reads the config at `path`.
    ///
    /// # Errors
    /// The first error in it or in a file that it names.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigFault> {
        let text = files::read_bytes(path)?;
        let Config { options, doors } = Config::read(&text)
            .map_err(|error| ConfigFault { line: error.line(), reason: error.to_string() })?;
        let mut lists = BTreeMap::new();
        for (index, door) in doors.iter().enumerate() {
            if let Some(file) = &door.one_time {
                lists.insert(index, read_list(file, door)?);
            }
        }
        Ok(Self { text, options, doors, lists })
    }

    /// Whether a later daemon needs state of these doors: a door has a stop command or `Open`.
    pub(crate) fn keeps_state(&self) -> bool {
        self.opens().is_some() || self.doors.iter().any(|door| door.stop.is_some() || door.stop_6.is_some())
    }

    /// Whether a door has a start command.
    pub(crate) fn runs_commands(&self) -> bool {
        let has_start = |door: &Door| door.start.is_some() || door.start_6.is_some();
        self.doors.iter().any(has_start)
    }

    /// The first door with `Open`.
    pub(crate) fn opens(&self) -> Option<&Door> {
        self.doors.iter().find(|door| door.opening.is_some())
    }

    /// The ports of all doors with `Open`.
    pub(in crate::legacy) fn opened(&self) -> impl Iterator<Item = PortRange> {
        self.doors.iter().filter_map(|door| door.opening.as_ref()).flat_map(|opening| &opening.ports).copied()
    }
}

/// Reads a door's one-time file. Logs a warning for each invalid line.
///
/// # Errors
/// If it cannot be read or has no unused sequence.
pub(in crate::legacy) fn read_list(file: &Path, door: &Door) -> Result<OneTimeList, String> {
    let list = OneTimeList::read(&files::read_bytes(file).map_err(|error| error.to_string())?);
    for error in list.skipped() {
        log::warn!("config: section {}: {error}", door.name);
    }
    if list.current().is_none() {
        let message = crate::legacy::knockd::LogMessage::NoSequences(&door.name).text();
        return Err(message.trim_end().to_owned());
    }
    Ok(list)
}
