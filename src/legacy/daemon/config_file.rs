//! A knockd.conf as it was read, and the one-time files that it names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::legacy::knockd::{Config, Door, KnockdOptions, OneTimeList};
use crate::os::files::{self, FileError};
use spa_knock_core::knock::PortRange;

/// What stands there.
#[derive(Debug, Clone)]
pub(crate) struct KnockdConfig {
    /// Its text.
    pub(crate) text: Vec<u8>,
    /// Its options.
    pub(crate) options: KnockdOptions,
    /// Its doors.
    pub(crate) doors: Vec<Door>,
    /// The one-time sequences of those that have some, by their places.
    pub(crate) lists: BTreeMap<usize, OneTimeList>,
}

/// Why it cannot be run, in knockd's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigFault {
    /// The line that is wrong, from 1, where it is one.
    pub(crate) line: Option<usize>,
    /// Why.
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
    /// The first thing that is wrong with it, or with a file that it names.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigFault> {
        let text = files::read_bytes(path)?;
        let Config { options, doors } = Config::read(&text)
            .map_err(|error| ConfigFault { line: error.line(), reason: error.to_string() })?;
        let mut lists = BTreeMap::new();
        for (place, door) in doors.iter().enumerate() {
            if let Some(file) = &door.one_time {
                lists.insert(place, read_list(file, door)?);
            }
        }
        Ok(Self { text, options, doors, lists })
    }

    /// Whether a door has something that a later daemon must know: what it still has to close, or the gate.
    pub(crate) fn keeps_state(&self) -> bool {
        self.opens().is_some() || self.doors.iter().any(|door| door.stop.is_some() || door.stop_6.is_some())
    }

    /// Whether a door has a command.
    pub(crate) fn runs_commands(&self) -> bool {
        let of_door = |door: &Door| door.start.is_some() || door.start_6.is_some();
        self.doors.iter().any(of_door)
    }

    /// The first door that opens ports by itself.
    pub(crate) fn opens(&self) -> Option<&Door> {
        self.doors.iter().find(|door| door.opening.is_some())
    }

    /// All ports that doors open by themselves.
    pub(in crate::legacy) fn opened(&self) -> impl Iterator<Item = PortRange> {
        self.doors.iter().filter_map(|door| door.opening.as_ref()).flat_map(|opening| &opening.ports).copied()
    }
}

/// The sequences of a door's one-time file.
///
/// # Errors
/// When it cannot be read or none is left.
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
