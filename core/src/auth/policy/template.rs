//! One argument of a command, with placeholders. There is no shell: an argument stays one argument, whatever is
//! inserted.

use std::fmt;
use std::str::FromStr;

/// The known placeholders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// The granted address.
    Address,
    /// The UDP source port of the knock.
    Port,
    /// The client's name.
    Client,
    /// The action's name.
    Action,
    /// The client's argument.
    Argument,
    /// The duration of the action in seconds.
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

/// One argument of a command, such as `--from={address}`. `{{` and `}}` stand for a literal brace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<TemplatePiece>);

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidTemplate {
    /// An unmatched brace.
    LoneBrace,
    /// This placeholder is unknown.
    UnknownPlaceholder(String),
    /// A NUL byte, which a command line cannot contain.
    Nul,
}

impl fmt::Display for InvalidTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoneBrace => f.write_str("unmatched brace (write {{ or }} for a literal brace)"),
            Self::UnknownPlaceholder(name) => write!(
                f,
                "unknown placeholder {{{}}} (known: {{address}}, {{port}}, {{client}}, {{action}}, {{argument}}, {{seconds}})",
                name.escape_debug()
            ),
            Self::Nul => f.write_str("a command cannot contain a NUL byte"),
        }
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
                let (_, value) = value.ok_or_else(|| InvalidTemplate::UnknownPlaceholder(name.to_owned()))?;
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
    /// Whether the template contains this placeholder.
    #[must_use]
    pub fn uses(&self, placeholder: Placeholder) -> bool {
        self.0.contains(&TemplatePiece::Value(placeholder))
    }

    /// Whether the template contains no placeholder.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, TemplatePiece::Text(_)))
    }

    /// The text, if it contains no placeholder.
    #[must_use]
    pub fn constant(&self) -> Option<String> {
        self.is_constant().then(|| self.fill(|_| String::new()))
    }

    /// The text with every placeholder replaced by its `value`.
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
    fn placeholders_are_replaced_and_doubled_braces_are_literal() {
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
            ("{ip}", UnknownPlaceholder("ip".to_owned())),
            ("{}", UnknownPlaceholder(String::new())),
            ("a\0b", Nul),
        ] {
            assert_eq!(text.parse::<Template>(), Err(error), "{text}");
        }
    }

    #[test]
    fn each_fault_of_a_template_has_its_text() {
        let error = |text: &str| text.parse::<Template>().unwrap_err().to_string();
        assert_eq!(error("{"), "unmatched brace (write {{ or }} for a literal brace)");
        assert_eq!(error("a\0b"), "a command cannot contain a NUL byte");
        let unknown = "unknown placeholder {i\\np} (known: {address}, {port}, {client}, {action}, {argument}, {seconds})";
        assert_eq!(error("{i\np}"), unknown);
    }

    #[test]
    fn a_template_without_placeholders_is_constant_and_knows_which_ones_it_has() {
        for (text, constant) in [("plain", Some("plain")), ("{{x}}", Some("{x}")), ("a{port}", None)] {
            let template: Template = text.parse().unwrap();
            assert_eq!(template.is_constant(), constant.is_some(), "{text}");
            assert_eq!(template.constant().as_deref(), constant, "{text}");
            assert_eq!(template.uses(Placeholder::Port), constant.is_none(), "{text}");
            assert!(!template.uses(Placeholder::Address), "{text}");
        }
    }
}
