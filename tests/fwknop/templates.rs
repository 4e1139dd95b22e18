//! The templates of `malformed.txt`, as its first lines describe them. Included by the tests of both crates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

const MALFORMED: &str = include_str!("malformed.txt");

/// Each fault with its template, and the line that contains both.
pub(super) fn malformed() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let lines = MALFORMED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (fault, template) = line.split_once(": ").unwrap();
        (fault, template, line)
    })
}

/// The plaintext that a template stands for at this time. `sha256` computes the digest of a text.
pub(super) fn plaintext(template: &str, now: u64, sha256: impl FnOnce(&str) -> Vec<u8>) -> String {
    let (template, is_signed) = match template.strip_prefix('!') {
        Some(rest) => (rest, false),
        None => (template, true),
    };
    let mut text = String::new();
    for part in template.replace("NOW", &now.to_string()).split('<') {
        let (inner, rest) = part.split_once('>').unwrap_or(("", part));
        text.push_str(&STANDARD_NO_PAD.encode(repeated(inner)));
        text.push_str(&repeated(rest));
    }
    if !is_signed {
        return text;
    }
    format!("{text}:{}", STANDARD_NO_PAD.encode(sha256(&text)))
}

/// Replaces `x{5}` by `xxxxx`.
fn repeated(text: &str) -> String {
    let mut parts = text.split('{');
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        let (count, rest) = part.split_once('}').unwrap();
        let last = out.pop().unwrap();
        out.extend(std::iter::repeat_n(last, count.parse().unwrap()));
        out.push_str(rest);
    }
    out
}
