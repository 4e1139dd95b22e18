//! Which arguments a command accepts from clients. No shell interprets them, but the program itself may interpret a
//! path, an option or an address.

use std::fmt;
use std::str::FromStr;

/// The arguments that a command accepts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Arguments {
    /// Names: no `/`, no `..`, no leading `-` or `@`.
    #[default]
    Names,
    /// Arguments that match one of these patterns.
    Listed(Vec<ArgumentPattern>),
}

impl Arguments {
    /// Whether the argument is accepted.
    #[must_use]
    pub fn allow(&self, argument: &str) -> bool {
        match self {
            Self::Names => is_name(argument),
            Self::Listed(patterns) => patterns.iter().any(|pattern| pattern.matches(argument)),
        }
    }
}

/// An argument or a pattern: `*` matches any number of characters of a name, as in `web-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgumentPattern {
    /// The texts before, between and after the stars; at least one.
    pieces: Vec<String>,
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidArgumentPattern;

impl fmt::Display for InvalidArgumentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an argument: only A-Z a-z 0-9 . _ : / @ % + = , - and *, at most 80, no leading -")
    }
}

impl std::error::Error for InvalidArgumentPattern {}

impl FromStr for ArgumentPattern {
    type Err = InvalidArgumentPattern;

    fn from_str(text: &str) -> Result<Self, InvalidArgumentPattern> {
        /// The maximum length of an argument (docs/internals/protocol.md, section 3).
        const LENGTH_MAX: usize = 80;
        let pieces: Vec<String> = text.split('*').map(str::to_owned).collect();
        if text.is_empty() || text.len() > LENGTH_MAX || !is_safe(&pieces.concat()) || text.starts_with('-') {
            return Err(InvalidArgumentPattern);
        }
        Ok(Self { pieces })
    }
}

impl ArgumentPattern {
    fn matches(&self, argument: &str) -> bool {
        let [first, others @ ..] = self.pieces.as_slice() else { return false };
        let Some(rest) = argument.strip_prefix(first.as_str()) else { return false };
        if others.is_empty() {
            return rest.is_empty();
        }
        // The text that a star matches must be a name, also together with the adjacent text.
        if argument.contains("..") || (first.is_empty() && argument.starts_with('@')) || !is_safe(argument) {
            return false;
        }
        let mut ends = vec![rest];
        for piece in others {
            ends = ends.into_iter().flat_map(|rest| after_star(rest, piece)).collect();
            ends.sort_unstable_by_key(|rest| rest.len());
            ends.dedup();
        }
        ends.contains(&"")
    }
}

/// Every possible rest after a star and `piece` have matched the start of `rest`.
fn after_star<'a>(rest: &'a str, piece: &str) -> Vec<&'a str> {
    let star_max = rest.find('/').unwrap_or(rest.len());
    let begins = (0..=star_max).filter_map(|begin| rest.get(begin..));
    begins.filter_map(|from| from.strip_prefix(piece)).collect()
}

/// Whether the argument has only characters that even a careless script does not interpret, and is not an option.
pub(in crate::auth) fn is_safe(argument: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"._:/@%+=,-".contains(&b);
    !argument.starts_with('-') && argument.bytes().all(safe)
}

fn is_name(argument: &str) -> bool {
    is_safe(argument) && !argument.contains('/') && !argument.contains("..") && !argument.starts_with('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(patterns: &[&str], argument: &str) -> bool {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        Arguments::Listed(patterns).allow(argument)
    }

    #[test]
    fn an_argument_must_be_a_name_if_no_list_is_configured() {
        for good in ["web", "web-1.example.org:80", "a@b", "50%", "a=b,c+d_e"] {
            assert!(Arguments::Names.allow(good), "{good}");
        }
        for bad in [
            "/etc/shadow",
            "../../x",
            "a/b",
            "..",
            "a..b",
            "@file",
            "-x",
            "http://169.254.169.254/",
            "a b",
            "$(id)",
            "ä",
        ] {
            assert!(!Arguments::Names.allow(bad), "{bad}");
        }
    }

    #[test]
    fn a_list_contains_arguments_and_patterns() {
        assert!(allowed(&["a", "/srv/www"], "/srv/www"));
        assert!(!allowed(&["a", "/srv/www"], "/srv/ww"));
        assert!(!allowed(&["a"], "aa"));
        let cases = [
            ("web-*", "web-1", true),
            ("web-*", "web-", true),
            ("web-*", "web", false),
            ("web-*", "web-a/b", false),
            ("web-*", "web-..", false),
            ("/srv/.*", "/srv/..", false),
            ("/srv/*", "/srv/a.b", true),
            ("/srv/*", "/srv/a/b", false),
            ("/srv/*/*", "/srv/a/b", true),
            ("*", "anything", true),
            ("*", "-x", false),
            ("*", "@file", false),
            ("@*", "@file", true),
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "a.example.org.x", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("*", "a b", false),
            ("*", "a;b", false),
            ("**a**a**", &"a".repeat(80), true),
        ];
        for (pattern, argument, expected) in cases {
            assert_eq!(allowed(&[pattern], argument), expected, "{pattern} {argument}");
        }
        for bad in ["", "-x", "a b", "a?", "$(id)", &"a".repeat(81)] {
            assert!(bad.parse::<ArgumentPattern>().is_err(), "{bad}");
        }
        assert!("a".repeat(80).parse::<ArgumentPattern>().is_ok(), "as long as an argument can be");
        let rule = "not an argument: only A-Z a-z 0-9 . _ : / @ % + = , - and *, at most 80, no leading -";
        assert_eq!(InvalidArgumentPattern.to_string(), rule);
    }
}
