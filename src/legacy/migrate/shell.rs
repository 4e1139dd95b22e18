//! Splits a command that needs no shell into words.

/// Splits `text` into words and removes quotes. `None` if a shell would expand, run or redirect anything in it.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(is_blank);
    while !rest.is_empty() {
        let (word, after) = word(rest)?;
        words.push(word);
        rest = after.trim_start_matches(is_blank);
    }
    Some(words)
}

/// The first word, and the rest of the text.
fn word(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next().filter(|c| !is_blank(*c)) {
        let (_, after) = rest.split_at(first.len_utf8());
        if first == '\'' || first == '"' {
            let (inside, after) = after.split_once(first)?;
            if first == '"' && inside.contains(['$', '`', '\\', '!']) {
                return None;
            }
            word.push_str(inside);
            rest = after;
        } else if is_plain(first) {
            word.push(first);
            rest = after;
        } else {
            return None;
        }
    }
    Some((word, rest))
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// Whether `c` has no special meaning to a shell anywhere in a word. Braces have none in sh(1); nft's sets need them.
const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c, '_' | '-' | '.' | '/' | ':' | ',' | '%' | '@' | '+' | '=' | '{' | '}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_into_words_unless_it_needs_a_shell() {
        for (text, expected) in [
            ("", Some(vec![])),
            ("  /bin/a  -s\t%IP% ", Some(vec!["/bin/a", "-s", "%IP%"])),
            ("a 'b c' \"d 'e\" f'g'h", Some(vec!["a", "b c", "d 'e", "fgh"])),
            ("a { 22, 80 } ''", Some(vec!["a", "{", "22,", "80", "}", ""])),
            ("a '$x' '`'", Some(vec!["a", "$x", "`"])),
            ("a; b", None),
            ("a && b", None),
            ("a $(b)", None),
            ("a \"$b\"", None),
            ("a > b", None),
            ("a *", None),
            ("a # b", None),
            ("a 'b", None),
            ("ä", None),
        ] {
            let words = words(text);
            assert_eq!(
                words.as_deref().map(|words| words.iter().map(String::as_str).collect()),
                expected,
                "{text}"
            );
        }
    }
}
