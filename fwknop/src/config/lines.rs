//! Lines of both config files: `NAME value`, up to a semicolon or the end of the line.

/// A line that is neither empty nor a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The line number, from 1.
    pub(super) number: usize,
    /// The name without the colon that may follow it.
    pub(super) name: &'a str,
    /// The value as written: space after it belongs to it, which matters for keys. None if there is no value.
    pub(super) value: Option<&'a str>,
}

/// The lines of a text. As fwknop has it, only the first character makes a line a comment; but a `#` after leading space
/// begins a comment here, too.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().zip(1..).filter_map(|(line, number)| {
        let line = line.split('\r').next().unwrap_or_default();
        let content = line.trim_start_matches([' ', '\t']);
        if content.is_empty() || content.starts_with(['#', ';']) {
            return None;
        }
        let (name, rest) = content.split_once([' ', '\t']).unwrap_or((content, ""));
        let value = rest.trim_start_matches([' ', '\t']).split(';').next().unwrap_or_default();
        let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
        Some(Line { number, name, value: Some(value).filter(|value| !value.is_empty()) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_and_a_value() {
        for (text, name, value) in [
            ("KEY foo", "KEY", Some("foo")),
            ("KEY: foo bar \t", "KEY", Some("foo bar \t")),
            ("  KEY\tfoo; bar", "KEY", Some("foo")),
            ("KEY foo\r", "KEY", Some("foo")),
            ("KEY", "KEY", None),
            ("KEY ;", "KEY", None),
            ("KEY= foo", "KEY=", Some("foo")),
            ("A a # b", "A", Some("a # b")),
        ] {
            assert_eq!(lines(text).collect::<Vec<_>>(), [Line { number: 1, name, value }], "{text}");
        }
        for text in ["", "# KEY foo", " # KEY foo", "; KEY foo", "\n \t\n"] {
            assert_eq!(lines(text).count(), 0, "{text}");
        }
        assert_eq!(lines("\n\nA b\n").next().map(|line| line.number), Some(3));
    }
}
