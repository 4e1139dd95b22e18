//! One value of a TOML text. Each getter accepts one type, and reports any other at the value's location.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::quantities::{read_size, written, written_size};
use super::{Document, TomlTable};
use crate::config::datetime::{DateTime, InvalidInstant};
use crate::config::problem::{SourceLocation, full_name};
use spa_knock_core::knock::Timestamp;

/// A value with its full name and location. Unless noted otherwise, a getter that returns `None` reports the reason.
#[derive(Clone)]
pub struct TomlValue<'d> {
    document: &'d Document<'d>,
    name: String,
    at: usize,
    value: &'d DeValue<'d>,
}

impl<'d> TomlValue<'d> {
    pub(super) fn new(
        table: &TomlTable<'d>,
        key_at: usize,
        key: &str,
        value: &'d Spanned<DeValue<'d>>,
    ) -> Self {
        // A table is located at its name, any other value at the value itself.
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

    /// A string that is parsed as `T`.
    pub fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.text()?.parse().map_err(|error| self.problem(error, None)).ok()
    }

    /// One of the given strings.
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

    /// A decimal integer in this range.
    pub fn integer<T: FromStr + PartialOrd + Display>(&self, range: RangeInclusive<T>) -> Option<T> {
        let integer = self.expect("a whole number", self.value.as_integer())?;
        let number = integer.as_str().parse().ok().filter(|_| integer.radix() == 10);
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.problem(format_args!("not a number from {} to {}", range.start(), range.end()), None);
        }
        number
    }

    /// A duration in this range, e.g. `"30s"`.
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
            self.problem(format_args!("must be from {from} to {to}"), None);
            return None;
        }
        Some(duration)
    }

    /// A size in bytes in this range, e.g. `"64MiB"`.
    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        const FORM: &str = "write it like \"512KiB\", \"64MiB\" or \"1GiB\"";
        let Some(size) = self.value.as_str().and_then(read_size) else {
            self.problem("not a size", Some(FORM));
            return None;
        };
        if !range.contains(&size) {
            let [from, to] = [range.start(), range.end()].map(|&end| written_size(end));
            self.problem(format_args!("must be from {from} to {to}"), None);
            return None;
        }
        Some(size)
    }

    /// A date, or a time with an offset.
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

    /// The items of a non-empty list.
    #[must_use]
    pub fn list(&self) -> Option<Vec<TomlValue<'d>>> {
        let items = self.expect("a list", self.value.as_array())?;
        if items.is_empty() {
            self.problem("must not be empty", None);
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

    /// The items of a non-empty list; a string counts as a list of one item.
    #[must_use]
    pub fn one_or_more(&self) -> Option<Vec<Self>> {
        if self.as_text().is_some() { Some(vec![self.clone()]) } else { self.list() }
    }

    /// A list of strings, each parsed as `T`. Reports every invalid item; `None` if there is one.
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

    /// Reports a problem with this value.
    pub fn problem(&self, message: impl Display, hint: Option<&str>) {
        self.document.problem(Some(self.at), format!("{}: {message}", self.name), hint.map(str::to_owned));
    }

    /// The location of the value.
    #[must_use]
    pub fn place(&self) -> SourceLocation {
        self.document.lines.place(Some(self.at))
    }

    fn expect<T>(&self, what: &str, found: Option<T>) -> Option<T> {
        if found.is_none() {
            let (name, kind) = (&self.name, self.value.type_str());
            self.document.problem(
                Some(self.at),
                format!("{name}: expected {what}, found {}", with_article(kind)),
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

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn every_getter_reports_the_location_and_reason_of_a_failure() {
        const MINUTE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
        type Getter = fn(&TomlValue<'_>) -> bool;
        let cases: [(&str, Getter, &str); 16] = [
            ("k = 1", |v| v.text().is_some(), "f.toml:1:5: k: expected a string, found an integer"),
            ("k = 'x'", |v| v.flag().is_some(), "f.toml:1:5: k: expected true or false, found a string"),
            (
                "k = 1.0",
                |v| v.integer(1..=9_u16).is_some(),
                "f.toml:1:5: k: expected a whole number, found a float",
            ),
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
            (
                "k = '2MiB'",
                |v| v.size(65_536..=1 << 20).is_some(),
                "f.toml:1:5: k: must be from 64KiB to 1MiB",
            ),
            ("k = '61s'", |v| v.duration(MINUTE).is_some(), "f.toml:1:5: k: must be from 1s to 1m"),
            ("k = []", |v| v.list().is_some(), "f.toml:1:5: k: must not be empty"),
            ("k = 'a'", |v| v.list().is_some(), "f.toml:1:5: k: expected a list, found a string"),
            (
                "k = ['1', 2]",
                |v| v.parsed_list::<u8>().is_some(),
                "f.toml:1:11: k: expected a string, found an integer",
            ),
            ("k = 'c'", |v| v.choice(&[("a", 1), ("b", 2)]).is_some(), "f.toml:1:5: k: not one of: a, b"),
            (
                "k = 2027-01-31T18:00:00",
                |v| v.instant().is_some(),
                "f.toml:1:5: k: neither a date nor a time with an offset\n\
                 hint: write a time as 2027-01-31 or 2027-01-31T18:00:00+01:00, without quotes",
            ),
        ];
        for (text, get, message) in cases {
            let problems = found(text, |root| assert!(!get(&root.take("k").unwrap()), "{text}"));
            assert_eq!(problems, [message]);
        }
    }
}
