//! A problem in a configuration: its location, a message and a hint.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::os::files::FileError;

/// A location in a file, or a file as a whole. Displayed as `file:line:column`; line and column start at 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceLocation {
    file: PathBuf,
    position: Option<(usize, usize)>,
}

impl SourceLocation {
    /// The file as a whole.
    #[must_use]
    pub fn file(file: &Path) -> Self {
        Self { file: file.to_owned(), position: None }
    }

    /// The start of a line; lines start at 1.
    #[must_use]
    pub fn line(file: &Path, line: usize) -> Self {
        Self { file: file.to_owned(), position: Some((line, 1)) }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        let Some((line, column)) = self.position else { return Ok(()) };
        write!(f, ":{line}:{column}")
    }
}

/// Converts byte offsets in a file's text to locations.
pub(super) struct LineIndex<'a> {
    file: &'a Path,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end.saturating_add(1));
        Self { file, text, starts: std::iter::once(0).chain(ends).collect() }
    }

    /// The location of the character at byte `offset`; the file as a whole without an offset.
    pub(super) fn place(&self, offset: Option<usize>) -> SourceLocation {
        let Some(offset) = offset else { return SourceLocation::file(self.file) };
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = self.text.get(start..offset).unwrap_or_default().chars().count().saturating_add(1);
        SourceLocation { file: self.file.to_owned(), position: Some((line, column)) }
    }
}

/// The location of each key of a configuration, by full name, e.g. `action.open-ssh.for`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueLocations {
    main: SourceLocation,
    named: BTreeMap<String, SourceLocation>,
}

impl ValueLocations {
    /// Creates an empty map for this main file.
    #[must_use]
    pub fn new(main: &Path) -> Self {
        Self { main: SourceLocation::file(main), named: BTreeMap::new() }
    }

    /// Adds the locations from another file. The first location of a name is kept.
    pub fn extend(&mut self, more: Vec<(String, SourceLocation)>) {
        for (name, place) in more {
            self.named.entry(name).or_insert(place);
        }
    }

    /// The location of the key with this path of names. For a key that is not in the file (a default), the location of
    /// the innermost enclosing table, or the main file.
    #[must_use]
    pub fn of(&self, names: &[&str]) -> &SourceLocation {
        let full = names.iter().fold(String::new(), |around, name| full_name(&around, name));
        match (self.named.get(&full), names.split_last()) {
            (Some(place), _) => place,
            (None, Some((_, around))) => self.of(around),
            (None, None) => &self.main,
        }
    }
}

/// The full name in TOML syntax. A key that is not a bare key is quoted, so that its characters cannot affect a
/// terminal.
#[must_use]
pub fn full_name(around: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if around.is_empty() { key } else { format!("{around}.{key}") }
}

/// One problem in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where the problem is.
    pub place: SourceLocation,
    /// The key, then the reason.
    pub message: String,
    /// How to fix it, if known.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with a file or directory, such as one that cannot be read.
    #[must_use]
    pub fn of_file(error: FileError) -> Self {
        let as_root = || error.denied.then(|| "run this command as root".to_owned());
        let hint = error.hint.or_else(as_root);
        Self { place: SourceLocation::file(Path::new(&error.path)), message: error.reason, hint }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        let Some(hint) = &self.hint else { return Ok(()) };
        write!(f, "\nhint: {hint}")
    }
}

/// All problems of a configuration, at least one, sorted by location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// Sorts these problems and removes duplicates. There must be at least one.
    #[must_use]
    pub fn of(mut problems: Vec<Problem>) -> Self {
        problems.sort();
        problems.dedup();
        Self(problems)
    }

    /// The problems.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(feature = "daemon")]
impl From<ConfigErrors> for crate::console::AdminError {
    fn from(errors: ConfigErrors) -> Self {
        Self::configs(errors.problems().iter().map(ToString::to_string).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_start_at_one_and_columns_count_characters() {
        let lines = LineIndex::new(Path::new("f"), "ä = 1\nb = 2\n");
        for (offset, shown) in [(0, "f:1:1"), (3, "f:1:3"), (7, "f:2:1"), (11, "f:2:5"), (99, "f:3:1")] {
            assert_eq!(lines.place(Some(offset)).to_string(), shown, "{offset}");
        }
        assert_eq!(lines.place(None).to_string(), "f");
    }

    #[test]
    fn a_default_is_located_at_its_enclosing_table() {
        let mut places = ValueLocations::new(Path::new("main"));
        let server = LineIndex::new(Path::new("main"), "").place(Some(0));
        places.extend(vec![("server".to_owned(), server.clone())]);
        assert_eq!(places.of(&["server", "port"]), &server);
        assert_eq!(places.of(&["firewall", "mode"]), &SourceLocation::file(Path::new("main")));
    }
}
