//! One word of a command with placeholders. There is no shell: a word stays one word, whatever is filled in.

use std::fmt;
use std::str::FromStr;

/// What may stand in braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// The address that is let in.
    Address,
    /// The UDP port that the knock came from.
    Port,
    /// The client's name.
    Client,
    /// The action's name.
    Action,
    /// The client's argument.
    Argument,
    /// For how many seconds: as long as the action lasts.
    Seconds,
}

impl Placeholder {
    const ALL: [(&'static str, Self); 6] = [
        ("address", Self::Address),
        ("port", Self::Port),
        ("client", Self::Client),
        ("action", Self::Action),
        ("argument", Self::Argument),
        ("seconds", Self::Seconds),
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePiece {
    Text(String),
    Value(Placeholder),
}

/// One word of a command, e.g. `--from={address}`. `{{` and `}}` stand for a brace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<TemplatePiece>);

/// Why a word is no template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidTemplate {
    /// A brace without its partner.
    LoneBrace,
    /// A word in braces that is no placeholder.
    UnknownPlaceholder,
    /// A NUL byte, which no command line can carry.
    Nul,
}

impl fmt::Display for InvalidTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LoneBrace => "a brace without its partner (write {{ or }} for the character itself)",
            Self::UnknownPlaceholder => {
                "unknown placeholder (known: {address}, {port}, {client}, {action}, {argument}, {seconds})"
            }
            Self::Nul => "a command cannot carry a NUL byte",
        })
    }
}

impl std::error::Error for InvalidTemplate {}

impl FromStr for Template {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, InvalidTemplate> {
        if text.contains('\0') {
            return Err(InvalidTemplate::Nul);
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else {
                let (name, after) = from
                    .strip_prefix('{')
                    .and_then(|inside| inside.split_once('}'))
                    .ok_or(InvalidTemplate::LoneBrace)?;
                let value = Placeholder::ALL.into_iter().find(|(known, _)| *known == name);
                let (_, value) = value.ok_or(InvalidTemplate::UnknownPlaceholder)?;
                pieces.push(TemplatePiece::Text(std::mem::take(&mut literal)));
                pieces.push(TemplatePiece::Value(value));
                rest = after;
            }
        }
        literal.push_str(rest);
        pieces.push(TemplatePiece::Text(literal));
        Ok(Self(pieces))
    }
}

impl Template {
    /// Whether this placeholder stands in it.
    #[must_use]
    pub fn uses(&self, placeholder: Placeholder) -> bool {
        self.0.contains(&TemplatePiece::Value(placeholder))
    }

    /// Whether any placeholder stands in it.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, TemplatePiece::Text(_)))
    }

    /// The word itself, if no placeholder stands in it.
    #[must_use]
    pub fn constant(&self) -> Option<String> {
        self.is_constant().then(|| self.fill(|_| String::new()))
    }

    /// The word with every placeholder replaced by what `value` says.
    #[must_use]
    pub fn fill(&self, value: impl Fn(Placeholder) -> String) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                TemplatePiece::Text(text) => text.clone(),
                TemplatePiece::Value(placeholder) => value(*placeholder),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_and_doubled_braces_are_braces() {
        let cases = [
            ("plain", "plain"),
            ("{address}", "<Address>"),
            ("a={address},c={client}!", "a=<Address>,c=<Client>!"),
            ("{{address}}", "{address}"),
            ("{{{port}}}", "{<Port>}"),
            ("", ""),
        ];
        for (text, filled) in cases {
            let template: Template = text.parse().unwrap();
            assert_eq!(template.fill(|p| format!("<{p:?}>")), filled, "{text}");
        }
    }

    #[test]
    fn malformed_templates_are_refused() {
        use InvalidTemplate::{LoneBrace, Nul, UnknownPlaceholder};
        for (text, error) in [
            ("{", LoneBrace),
            ("}", LoneBrace),
            ("a}b", LoneBrace),
            ("{address", LoneBrace),
            ("{ip}", UnknownPlaceholder),
            ("{}", UnknownPlaceholder),
            ("a\0b", Nul),
        ] {
            assert_eq!(text.parse::<Template>(), Err(error), "{text}");
        }
    }
}
