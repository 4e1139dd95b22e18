//! Presents a TOML text as tables of typed values. Collects problems and unknown keys with their locations. Does not
//! know what the keys mean.

mod quantities;
mod toml_value;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use super::problem::{LineIndex, Problem, SourceLocation, full_name};
use super::syntax::syntax_message;
pub use quantities::written;
pub use toml_value::TomlValue;

/// A parsed TOML text and the problems found in it.
pub struct Document<'a> {
    lines: LineIndex<'a>,
    root: Spanned<DeTable<'a>>,
    problems: RefCell<Vec<Problem>>,
    places: RefCell<Vec<(String, SourceLocation)>>,
    unknown: RefCell<Vec<UnknownKey>>,
    /// The known keys of each top-level table: table name and key.
    sections: RefCell<Vec<(String, &'static str)>>,
}

/// A key that was not taken. The section it belongs to is known only after all tables have been read.
struct UnknownKey {
    at: usize,
    name: String,
    key: String,
    known: Vec<&'static str>,
}

impl<'a> Document<'a> {
    /// Parses the text of `file`.
    ///
    /// # Errors
    /// All syntax errors.
    pub fn parse(file: &'a Path, text: &'a str) -> Result<Self, Vec<Problem>> {
        let lines = LineIndex::new(file, text);
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self::new(lines, root));
        }
        let problem = |error: toml::de::Error| Problem {
            place: lines.place(error.span().map(|span| span.start)),
            message: syntax_message(text, &error),
            hint: None,
        };
        Err(errors.into_iter().map(problem).collect())
    }

    /// Parses what can be parsed and ignores syntax errors.
    pub fn recover(file: &'a Path, text: &'a str) -> Self {
        let (root, _) = DeTable::parse_recoverable(text);
        Self::new(LineIndex::new(file, text), root)
    }

    fn new(lines: LineIndex<'a>, root: Spanned<DeTable<'a>>) -> Self {
        Self {
            lines,
            root,
            problems: RefCell::default(),
            places: RefCell::default(),
            unknown: RefCell::default(),
            sections: RefCell::default(),
        }
    }

    /// The root table.
    pub fn root(&self) -> TomlTable<'_> {
        TomlTable {
            document: self,
            name: String::new(),
            at: None,
            entries: Some(self.root.get_ref()),
            known: Vec::new(),
        }
    }

    /// All problems, and the locations of all keys that were taken.
    #[must_use]
    pub fn into_findings(self) -> (Vec<Problem>, Vec<(String, SourceLocation)>) {
        let sections = self.sections.take();
        for UnknownKey { at, name, key, known } in self.unknown.take() {
            let section = sections.iter().find(|(_, other)| *other == key).map(|(section, _)| section);
            let hint = match (section, nearest(&key, &known)) {
                (Some(section), _) => {
                    format!(
                        "move '{key}' to the section [{section}], before the next line that starts with ["
                    )
                }
                (None, Some(near)) => format!("did you mean '{near}'?"),
                (None, None) => format!("known keys: {}", known.join(", ")),
            };
            self.problem(Some(at), format!("{name}: unknown key"), Some(hint));
        }
        (self.problems.into_inner(), self.places.into_inner())
    }

    /// Reports a problem at any location.
    pub fn report(&self, place: &SourceLocation, message: String, hint: Option<String>) {
        self.problems.borrow_mut().push(Problem { place: place.clone(), message, hint });
    }

    fn problem(&self, at: Option<usize>, message: String, hint: Option<String>) {
        self.report(&self.lines.place(at), message, hint);
    }
}

/// A table whose keys are taken one by one; `finish` reports the remaining ones. A missing table is empty.
#[must_use = "unknown keys are reported only by finish"]
pub struct TomlTable<'d> {
    document: &'d Document<'d>,
    name: String,
    at: Option<usize>,
    entries: Option<&'d DeTable<'d>>,
    known: Vec<&'static str>,
}

impl<'d> TomlTable<'d> {
    /// Takes the value of `key`, if present.
    pub fn take(&mut self, key: &'static str) -> Option<TomlValue<'d>> {
        self.known.push(key);
        // Nested tables, such as actions and clients, are not sections.
        if !self.name.is_empty() && !self.name.contains('.') {
            self.document.sections.borrow_mut().push((self.name.clone(), key));
        }
        let (found, value) = self.entries?.get_key_value(key)?;
        Some(TomlValue::new(self, found.span().start, key, value))
    }

    /// Takes the value of `key`; reports a problem if it is missing.
    pub fn require(&mut self, key: &'static str, hint: &str) -> Option<TomlValue<'d>> {
        let value = self.take(key);
        if value.is_none() {
            self.problem_under(key, "missing", Some(hint));
        }
        value
    }

    /// Takes the table `key`; empty if it is missing.
    pub fn table(&mut self, key: &'static str) -> TomlTable<'d> {
        let name = full_name(&self.name, key);
        let empty =
            TomlTable { document: self.document, name, at: self.at, entries: None, known: Vec::new() };
        self.take(key).and_then(|value| value.table()).unwrap_or(empty)
    }

    /// Whether the table has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_none_or(|entries| entries.is_empty())
    }

    /// All entries of a table whose keys are names chosen by the administrator.
    #[must_use]
    pub fn entries(self) -> Vec<(&'d str, TomlValue<'d>)> {
        let entries = self.entries.into_iter().flatten();
        entries
            .map(|(key, value)| {
                (&**key.get_ref(), TomlValue::new(&self, key.span().start, key.get_ref(), value))
            })
            .collect()
    }

    /// Reports every key that was not taken.
    pub fn finish(self) {
        let entries = self.entries.into_iter().flatten();
        for (key, _) in entries.filter(|(key, _)| !self.known.contains(&&**key.get_ref())) {
            self.document.unknown.borrow_mut().push(UnknownKey {
                at: key.span().start,
                name: full_name(&self.name, key.get_ref()),
                key: key.get_ref().to_string(),
                known: self.known.clone(),
            });
        }
    }

    /// Reports a problem with the table as a whole.
    pub fn problem(&self, message: impl Display, hint: Option<&str>) {
        self.document.problem(self.at, format!("{}: {message}", self.name), hint.map(str::to_owned));
    }

    fn problem_under(&self, key: &str, message: impl Display, hint: Option<&str>) {
        let name = full_name(&self.name, key);
        self.document.problem(self.at, format!("{name}: {message}"), hint.map(str::to_owned));
    }
}

/// The known key that differs from `key` by one typing error.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let variants = |word: &str| -> BTreeSet<String> {
        let cut =
            |at: usize| word.chars().enumerate().filter(move |(i, _)| *i != at).map(|(_, c)| c).collect();
        (0..=word.chars().count()).map(cut).collect()
    };
    // Long keys are not typing errors, and the comparison takes quadratic time.
    let typed = if key.len() <= 40 { variants(key) } else { return None };
    known.iter().copied().find(|word| !typed.is_disjoint(&variants(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn found(text: &str, read: impl FnOnce(&mut TomlTable<'_>)) -> Vec<String> {
        let document = match Document::parse(Path::new("f.toml"), text) {
            Ok(document) => document,
            Err(problems) => return problems.iter().map(ToString::to_string).collect(),
        };
        let mut root = document.root();
        read(&mut root);
        root.finish();
        document.into_findings().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unknown_keys_are_reported_with_the_nearest_known_one() {
        let problems = found("[t]\nprot = 1\nzebra = 2\n\"a\\nb\" = 3\n", |root| {
            let mut table = root.table("t");
            assert!(table.take("port").is_none());
            table.finish();
        });
        assert_eq!(
            problems,
            [
                "f.toml:4:1: t.\"a\\nb\": unknown key\nhint: known keys: port",
                "f.toml:2:1: t.prot: unknown key\nhint: did you mean 'port'?",
                "f.toml:3:1: t.zebra: unknown key\nhint: known keys: port",
            ]
        );
    }

    #[test]
    fn the_hint_names_the_section_of_a_misplaced_key() {
        let problems = found("[a.b]\nport = 1\n", |root| {
            let (_, inner) = root.take("a").unwrap().table().unwrap().entries().remove(0);
            inner.table().unwrap().finish();
            let mut section = root.table("t");
            assert!(section.take("port").is_none());
            section.finish();
        });
        assert_eq!(
            problems,
            [
                "f.toml:2:1: a.b.port: unknown key\nhint: move 'port' to the section [t], before the next line that starts with ["
            ]
        );
    }

    #[test]
    fn every_syntax_error_is_reported_with_its_location() {
        let problems = found("a = \nb = 2\nc = [1\n", |_| ());
        assert!(problems.len() >= 2, "{problems:?}");
        for place in ["f.toml:1:5: ", "f.toml:3:7: "] {
            assert!(problems.iter().any(|problem| problem.starts_with(place)), "{problems:?}");
        }
    }

    #[test]
    fn a_missing_table_is_empty_and_a_missing_key_is_reported_at_its_table() {
        let problems = found("\n[t]\n", |root| {
            let mut present = root.table("t");
            assert!(present.require("k", "write k = 1").is_none());
            present.finish();
            let mut absent = root.table("u");
            assert!(absent.require("k", "write k = 1").is_none());
            absent.finish();
        });
        assert_eq!(
            problems,
            ["f.toml:2:2: t.k: missing\nhint: write k = 1", "f.toml: u.k: missing\nhint: write k = 1"]
        );
    }
}
