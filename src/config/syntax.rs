//! Messages for errors of the TOML syntax, and the names that messages about keys begin with.

use super::problem::full_name;

/// The message for a syntax error. The parser reports the place of a key that is defined twice, but not its name.
pub(super) fn syntax_message(text: &str, error: &toml::de::Error) -> String {
    let reason = error.message().replace('\n', ", ");
    let key = error.span().and_then(|span| text.get(span)).filter(|_| reason == DUPLICATE);
    match key {
        Some(key) => format!("{}: {reason}", full_name("", unquoted(key))),
        None => reason,
    }
}

/// The parser's message.
const DUPLICATE: &str = "duplicate key";

/// The key without its quotes. Escapes in it stay as they are written.
fn unquoted(key: &str) -> &str {
    let inside = |quote| key.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    use super::*;

    #[test]
    fn the_key_that_is_defined_twice_is_named() {
        for (text, message) in [
            ("port = 1\nport = 2\n", "port: duplicate key"),
            ("[client.a]\n[client.b]\n[client.a]\n", "a: duplicate key"),
            ("[t]\n\"a b\" = 1\n'a b' = 2\n", "\"a b\": duplicate key"),
            ("t = { x = 1, x = 2 }\n", "x: duplicate key"),
            ("a.b = 1\na.b = 2\n", "b: duplicate key"),
            ("a = 1\n[a]\n", "a: duplicate key"),
        ] {
            let (_, errors) = DeTable::parse_recoverable(text);
            let messages: Vec<_> = errors.iter().map(|error| syntax_message(text, error)).collect();
            assert_eq!(messages, [message], "{text}");
        }
    }

    #[test]
    fn other_syntax_errors_keep_their_message() {
        let (_, errors) = DeTable::parse_recoverable("port = \n");
        assert!(!errors.is_empty());
        for error in errors {
            assert_eq!(syntax_message("port = \n", &error), error.message().replace('\n', ", "));
        }
    }
}
