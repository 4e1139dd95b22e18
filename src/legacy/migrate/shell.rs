//! The words of a command that needs no shell.

/// The words of `text`, if a shell would make nothing of it but words: quotes are taken off, and anything that a shell
/// would replace, run or redirect is a reason for `None`.
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

/// The word at the beginning, and what follows it.
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

/// What stands for itself, wherever it stands. Braces do in sh(1), as nft's sets need them.
const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c, '_' | '-' | '.' | '/' | ':' | ',' | '%' | '@' | '+' | '=' | '{' | '}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_words_unless_a_shell_is_needed() {
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
