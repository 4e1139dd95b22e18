//! What is wrong with a configuration, where, and how it is mended.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::os::files::FileError;

/// A place in a file, or a file as a whole; written `file:line:column`, both counted from 1.
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

    /// The beginning of a line of the file, counted from 1.
    #[must_use]
    pub fn line(file: &Path, line: usize) -> Self {
        Self { file: file.to_owned(), position: Some((line, 1)) }
    }

    /// The file it is in.
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

/// A file's text, in which byte offsets become places.
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

    /// The character that starts at byte `offset`; the file as a whole when there is no offset.
    pub(super) fn place(&self, offset: Option<usize>) -> SourceLocation {
        let Some(offset) = offset else { return SourceLocation::file(self.file) };
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = self.text.get(start..offset).unwrap_or_default().chars().count().saturating_add(1);
        SourceLocation { file: self.file.to_owned(), position: Some((line, column)) }
    }
}

/// Where each key of a configuration stands, by its full name, e.g. `action.open-ssh.for`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueLocations {
    main: SourceLocation,
    named: BTreeMap<String, SourceLocation>,
}

impl ValueLocations {
    /// No places yet, in this main file.
    #[must_use]
    pub fn new(main: &Path) -> Self {
        Self { main: SourceLocation::file(main), named: BTreeMap::new() }
    }

    /// Adds what another file defines; the first place of a name stays.
    pub fn extend(&mut self, more: Vec<(String, SourceLocation)>) {
        for (name, place) in more {
            self.named.entry(name).or_insert(place);
        }
    }

    /// Where the key stands that is reached by these names; if it does not stand there (a default), where the
    /// table around it does, else the main file.
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

/// The name as TOML writes it; what is no bare key is quoted, so that nothing in it reaches a terminal raw.
#[must_use]
pub fn full_name(around: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if around.is_empty() { key } else { format!("{around}.{key}") }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: SourceLocation,
    /// What: the key first, then why.
    pub message: String,
    /// How to mend it, if that is known.
    pub hint: Option<String>,
}

impl Problem {
    /// A file or folder that cannot be read.
    #[must_use]
    pub fn of_file(error: FileError) -> Self {
        Self { place: SourceLocation::file(Path::new(&error.path)), message: error.reason, hint: error.hint }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        let Some(hint) = &self.hint else { return Ok(()) };
        write!(f, "\nhint: {hint}")
    }
}

/// Everything that is wrong with a configuration, sorted by place; at least one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// These problems, of which there is at least one.
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
    fn lines_and_columns_count_characters_from_one() {
        let lines = LineIndex::new(Path::new("f"), "ä = 1\nb = 2\n");
        for (offset, shown) in [(0, "f:1:1"), (3, "f:1:3"), (7, "f:2:1"), (11, "f:2:5"), (99, "f:3:1")] {
            assert_eq!(lines.place(Some(offset)).to_string(), shown, "{offset}");
        }
        assert_eq!(lines.place(None).to_string(), "f");
    }

    #[test]
    fn the_place_of_a_default_is_the_table_around_it() {
        let mut places = ValueLocations::new(Path::new("main"));
        let server = LineIndex::new(Path::new("main"), "").place(Some(0));
        places.extend(vec![("server".to_owned(), server.clone())]);
        assert_eq!(places.of(&["server", "port"]), &server);
        assert_eq!(places.of(&["firewall", "mode"]), &SourceLocation::file(Path::new("main")));
    }
}
