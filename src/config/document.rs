//! A TOML text as tables of typed values. What is wrong is collected with its place, and so is every key that
//! nobody asked for; what the keys mean is not known here.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::datetime::{DateTime, InvalidInstant};
use super::problem::{LineIndex, Problem, SourceLocation, full_name};
use spa_knock_core::knock::Timestamp;

/// A parsed TOML text, and what has been found in it.
pub struct Document<'a> {
    lines: LineIndex<'a>,
    root: Spanned<DeTable<'a>>,
    problems: RefCell<Vec<Problem>>,
    places: RefCell<Vec<(String, SourceLocation)>>,
    unknown: RefCell<Vec<UnknownKey>>,
    /// The keys that tables of the root have, with the table's name.
    sections: RefCell<Vec<(String, &'static str)>>,
}

/// A key that nothing asked for. Where it belongs is known only after all tables have been read.
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
    /// Every syntax error.
    pub fn parse(file: &'a Path, text: &'a str) -> Result<Self, Vec<Problem>> {
        let lines = LineIndex::new(file, text);
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self::new(lines, root));
        }
        let problem = |error: toml::de::Error| Problem {
            place: lines.place(error.span().map(|span| span.start)),
            message: error.message().replace('\n', ", "),
            hint: None,
        };
        Err(errors.into_iter().map(problem).collect())
    }

    /// Reads what can be read of a text, whatever its syntax errors.
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

    /// The table of everything.
    pub fn root(&self) -> TomlTable<'_> {
        TomlTable {
            document: self,
            name: String::new(),
            at: None,
            entries: Some(self.root.get_ref()),
            known: Vec::new(),
        }
    }

    /// All problems found, and the places of all keys that were taken.
    #[must_use]
    pub fn into_findings(self) -> (Vec<Problem>, Vec<(String, SourceLocation)>) {
        let sections = self.sections.take();
        for UnknownKey { at, name, key, known } in self.unknown.take() {
            let section = sections.iter().find(|(_, other)| *other == key).map(|(section, _)| section);
            let hint = match (section, nearest(&key, &known)) {
                (Some(section), _) => {
                    format!("'{key}' belongs in [{section}], above the next line that begins with [")
                }
                (None, Some(near)) => format!("did you mean '{near}'?"),
                (None, None) => format!("known here: {}", known.join(", ")),
            };
            self.problem(Some(at), format!("{name}: unknown key"), Some(hint));
        }
        (self.problems.into_inner(), self.places.into_inner())
    }

    /// Reports a problem at any place.
    pub fn report(&self, place: &SourceLocation, message: String, hint: Option<String>) {
        self.problems.borrow_mut().push(Problem { place: place.clone(), message, hint });
    }

    fn problem(&self, at: Option<usize>, message: String, hint: Option<String>) {
        self.report(&self.lines.place(at), message, hint);
    }
}

/// A table whose keys are taken one by one; `finish` reports those that were not. An absent table is empty.
#[must_use = "call finish, or unknown keys go unnoticed"]
pub struct TomlTable<'d> {
    document: &'d Document<'d>,
    name: String,
    at: Option<usize>,
    entries: Option<&'d DeTable<'d>>,
    known: Vec<&'static str>,
}

impl<'d> TomlTable<'d> {
    /// The value under `key`, which may be absent.
    pub fn take(&mut self, key: &'static str) -> Option<TomlValue<'d>> {
        self.known.push(key);
        // Tables within tables, as actions and clients are, take keys of their own kind.
        if !self.name.is_empty() && !self.name.contains('.') {
            self.document.sections.borrow_mut().push((self.name.clone(), key));
        }
        let (found, value) = self.entries?.get_key_value(key)?;
        Some(TomlValue::new(self, found.span().start, key, value))
    }

    /// The value under `key`; its absence is a problem.
    pub fn require(&mut self, key: &'static str, hint: &str) -> Option<TomlValue<'d>> {
        let value = self.take(key);
        if value.is_none() {
            self.problem_under(key, "missing", Some(hint));
        }
        value
    }

    /// The table under `key`; an absent one is empty.
    pub fn table(&mut self, key: &'static str) -> TomlTable<'d> {
        let name = full_name(&self.name, key);
        let empty =
            TomlTable { document: self.document, name, at: self.at, entries: None, known: Vec::new() };
        self.take(key).and_then(|value| value.table()).unwrap_or(empty)
    }

    /// Whether nothing stands in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_none_or(|entries| entries.is_empty())
    }

    /// Every entry, where the keys are names that the admin chose.
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

    /// Reports a problem of the whole table.
    pub fn problem(&self, message: impl Display, hint: Option<&str>) {
        self.document.problem(self.at, format!("{}: {message}", self.name), hint.map(str::to_owned));
    }

    fn problem_under(&self, key: &str, message: impl Display, hint: Option<&str>) {
        let name = full_name(&self.name, key);
        self.document.problem(self.at, format!("{name}: {message}"), hint.map(str::to_owned));
    }
}

/// A value, its full name and its place. Every getter reports why it returns `None`.
#[derive(Clone)]
pub struct TomlValue<'d> {
    document: &'d Document<'d>,
    name: String,
    at: usize,
    value: &'d DeValue<'d>,
}

impl<'d> TomlValue<'d> {
    fn new(table: &TomlTable<'d>, key_at: usize, key: &str, value: &'d Spanned<DeValue<'d>>) -> Self {
        // A table is where its name stands, anything else where it stands itself.
        let at = if value.get_ref().is_table() { key_at } else { value.span().start };
        let name = full_name(&table.name, key);
        let place = table.document.lines.place(Some(at));
        table.document.places.borrow_mut().push((name.clone(), place));
        Self { document: table.document, name, at, value: value.get_ref() }
    }

    /// A string.
    #[must_use]
    pub fn text(&self) -> Option<&'d str> {
        self.expect("a string", self.value.as_str())
    }

    /// The string, if it is one; reports nothing.
    #[must_use]
    pub fn as_text(&self) -> Option<&'d str> {
        self.value.as_str()
    }

    /// Whether it is this string; reports nothing.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        self.value.as_str() == Some(text)
    }

    /// Whether it is a table; reports nothing.
    #[must_use]
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// A string that says a `T`.
    pub fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.text()?.parse().map_err(|error| self.problem(error, None)).ok()
    }

    /// One of these words.
    pub fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.problem(format_args!("not one of: {}", known.join(", ")), None);
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// `true` or `false`.
    #[must_use]
    pub fn flag(&self) -> Option<bool> {
        self.expect("true or false", self.value.as_bool())
    }

    /// A whole number in this range.
    pub fn integer<T: FromStr + PartialOrd + Display>(&self, range: RangeInclusive<T>) -> Option<T> {
        let integer = self.expect("a whole number", self.value.as_integer())?;
        let number = integer.as_str().parse().ok().filter(|_| integer.radix() == 10);
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.problem(format_args!("not a number from {} to {}", range.start(), range.end()), None);
        }
        number
    }

    /// A length of time in this range, e.g. `"30s"`.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        const FORM: &str = "write it like \"30s\", \"5m\" or \"2h\"";
        let Some(text) = self.value.as_str() else {
            self.problem("not a duration", Some(FORM));
            return None;
        };
        let Ok(duration) = humantime::parse_duration(text) else {
            self.problem("not a duration", Some(FORM));
            return None;
        };
        if !range.contains(&duration) {
            let [from, to] = [range.start(), range.end()].map(|&end| written(end));
            self.problem(format_args!("not from {from} to {to}"), None);
            return None;
        }
        Some(duration)
    }

    /// A number of bytes in this range, e.g. `"64MiB"`.
    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        const FORM: &str = "write it like \"512KiB\", \"64MiB\" or \"1GiB\"";
        let Some(size) = self.value.as_str().and_then(read_size) else {
            self.problem("not a size", Some(FORM));
            return None;
        };
        if !range.contains(&size) {
            let [from, to] = [range.start(), range.end()].map(|&end| written_size(end));
            self.problem(format_args!("not from {from} to {to}"), None);
            return None;
        }
        Some(size)
    }

    /// A date, or a time with its offset.
    pub fn instant(&self) -> Option<Timestamp> {
        let datetime = self.value.as_datetime().map(ToString::to_string);
        match datetime.and_then(|text| text.parse().ok()) {
            Some(DateTime(time)) => Some(time),
            None => {
                let hint = format!("{InvalidInstant}, without quotes");
                self.problem("neither a date nor a time with an offset", Some(&hint));
                None
            }
        }
    }

    /// The items of a list that is not empty.
    #[must_use]
    pub fn list(&self) -> Option<Vec<TomlValue<'d>>> {
        let items = self.expect("a list", self.value.as_array())?;
        if items.is_empty() {
            self.problem("empty list", None);
            return None;
        }
        let item = |item: &'d Spanned<DeValue<'d>>| TomlValue {
            document: self.document,
            name: self.name.clone(),
            at: item.span().start,
            value: item.get_ref(),
        };
        Some(items.iter().map(item).collect())
    }

    /// The items of a list that is not empty; of a string, itself.
    #[must_use]
    pub fn one_or_more(&self) -> Option<Vec<Self>> {
        if self.as_text().is_some() { Some(vec![self.clone()]) } else { self.list() }
    }

    /// A list of strings that each say a `T`; `None` if one does not, after all have been looked at.
    pub fn parsed_list<T: FromStr<Err: Display>>(&self) -> Option<Vec<T>> {
        let items: Vec<Option<T>> = self.list()?.iter().map(TomlValue::parsed).collect();
        items.into_iter().collect()
    }

    /// A table.
    #[must_use]
    pub fn table(&self) -> Option<TomlTable<'d>> {
        let entries = self.expect("a table", self.value.as_table())?;
        Some(TomlTable {
            document: self.document,
            name: self.name.clone(),
            at: Some(self.at),
            entries: Some(entries),
            known: Vec::new(),
        })
    }

    /// Reports a problem of this value.
    pub fn problem(&self, message: impl Display, hint: Option<&str>) {
        self.document.problem(Some(self.at), format!("{}: {message}", self.name), hint.map(str::to_owned));
    }

    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> SourceLocation {
        self.document.lines.place(Some(self.at))
    }

    fn expect<T>(&self, what: &str, found: Option<T>) -> Option<T> {
        if found.is_none() {
            let (name, kind) = (&self.name, self.value.type_str());
            self.document.problem(
                Some(self.at),
                format!("{name}: not {what} but {}", with_article(kind)),
                None,
            );
        }
        found
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// A duration in the largest unit that divides it, as a config writes it: `30s`, `10m`, `365d`.
#[must_use]
pub fn written(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60)];
    let unit = units.into_iter().find(|&(_, length)| seconds != 0 && seconds.is_multiple_of(length));
    match unit.and_then(|(name, length)| Some((name, seconds.checked_div(length)?))) {
        Some((name, count)) if duration.subsec_nanos() == 0 => format!("{count}{name}"),
        _ => humantime::format_duration(duration).to_string(),
    }
}

/// Units of a size, the largest first, and the bytes of each.
const SIZE_UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

fn read_size(text: &str) -> Option<u64> {
    let (number, bytes) =
        SIZE_UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(bytes)
}

/// A size in the largest unit that divides it, as a config writes it.
fn written_size(size: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, bytes)| size >= *bytes && size.is_multiple_of(*bytes));
    match unit.and_then(|(unit, bytes)| Some((size.checked_div(*bytes)?, unit))) {
        Some((number, unit)) => format!("{number}{unit}"),
        None => format!("{size} bytes"),
    }
}

/// The known key that one slip of the fingers makes `key` from.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let slips = |word: &str| -> BTreeSet<String> {
        let cut =
            |at: usize| word.chars().enumerate().filter(move |(i, _)| *i != at).map(|(_, c)| c).collect();
        (0..=word.chars().count()).map(cut).collect()
    };
    // Long keys are no slip, and would cost their length squared.
    let typed = if key.len() <= 40 { slips(key) } else { return None };
    known.iter().copied().find(|word| !typed.is_disjoint(&slips(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, read: impl FnOnce(&mut TomlTable<'_>)) -> Vec<String> {
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
    fn every_getter_says_where_and_why_it_has_nothing() {
        const MINUTE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
        type Getter = fn(&TomlValue<'_>) -> bool;
        let cases: [(&str, Getter, &str); 16] = [
            ("k = 1", |v| v.text().is_some(), "f.toml:1:5: k: not a string but an integer"),
            ("k = 'x'", |v| v.flag().is_some(), "f.toml:1:5: k: not true or false but a string"),
            ("k = 1.0", |v| v.integer(1..=9_u16).is_some(), "f.toml:1:5: k: not a whole number but a float"),
            ("k = 10", |v| v.integer(1..=9_u16).is_some(), "f.toml:1:5: k: not a number from 1 to 9"),
            ("k = -1", |v| v.integer(1..=9_u16).is_some(), "f.toml:1:5: k: not a number from 1 to 9"),
            (
                "k = 99999999999",
                |v| v.integer(1..=9_u16).is_some(),
                "f.toml:1:5: k: not a number from 1 to 9",
            ),
            (
                "k = '30x'",
                |v| v.duration(MINUTE).is_some(),
                "f.toml:1:5: k: not a duration\nhint: write it like \"30s\", \"5m\" or \"2h\"",
            ),
            (
                "k = 30",
                |v| v.duration(MINUTE).is_some(),
                "f.toml:1:5: k: not a duration\nhint: write it like \"30s\", \"5m\" or \"2h\"",
            ),
            (
                "k = '64 MB'",
                |v| v.size(1..=9).is_some(),
                "f.toml:1:5: k: not a size\nhint: write it like \"512KiB\", \"64MiB\" or \"1GiB\"",
            ),
            ("k = '2MiB'", |v| v.size(65_536..=1 << 20).is_some(), "f.toml:1:5: k: not from 64KiB to 1MiB"),
            ("k = '61s'", |v| v.duration(MINUTE).is_some(), "f.toml:1:5: k: not from 1s to 1m"),
            ("k = []", |v| v.list().is_some(), "f.toml:1:5: k: empty list"),
            ("k = 'a'", |v| v.list().is_some(), "f.toml:1:5: k: not a list but a string"),
            (
                "k = ['1', 2]",
                |v| v.parsed_list::<u8>().is_some(),
                "f.toml:1:11: k: not a string but an integer",
            ),
            ("k = 'c'", |v| v.choice(&[("a", 1), ("b", 2)]).is_some(), "f.toml:1:5: k: not one of: a, b"),
            (
                "k = 2027-01-31T18:00:00",
                |v| v.instant().is_some(),
                "f.toml:1:5: k: neither a date nor a time with an offset\n\
                 hint: a time is written 2027-01-31 or 2027-01-31T18:00:00+01:00, without quotes",
            ),
        ];
        for (text, get, message) in cases {
            let problems = found(text, |root| assert!(!get(&root.take("k").unwrap()), "{text}"));
            assert_eq!(problems, [message]);
        }
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
                "f.toml:4:1: t.\"a\\nb\": unknown key\nhint: known here: port",
                "f.toml:2:1: t.prot: unknown key\nhint: did you mean 'port'?",
                "f.toml:3:1: t.zebra: unknown key\nhint: known here: port",
            ]
        );
    }

    #[test]
    fn a_key_of_another_section_is_sent_there() {
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
                "f.toml:2:1: a.b.port: unknown key\nhint: 'port' belongs in [t], above the next line that begins with ["
            ]
        );
    }

    #[test]
    fn every_syntax_error_is_found_at_its_place() {
        let problems = found("a = \nb = 2\nc = [1\n", |_| ());
        assert!(problems.len() >= 2, "{problems:?}");
        for place in ["f.toml:1:5: ", "f.toml:3:7: "] {
            assert!(problems.iter().any(|problem| problem.starts_with(place)), "{problems:?}");
        }
    }

    #[test]
    fn an_absent_table_is_empty_and_a_required_key_is_missed_at_its_table() {
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
