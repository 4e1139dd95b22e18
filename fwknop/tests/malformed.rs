//! Packets that only the owner of a key can send: each is refused for its fault.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "tests panic on failure"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};
use spa_knock_fwknop::{CipherKey, Digest, HmacKey, Message, WireText};

const MALFORMED: &str = include_str!("../../tests/fwknop/malformed.txt");

#[test]
fn a_malformed_packet_made_with_valid_keys_is_refused_for_its_fault() {
    let (key, hmac_key) = (CipherKey::new(b"key").unwrap(), HmacKey::new(Digest::Sha256, b"hmac-key"));
    let cases = MALFORMED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    for line in cases {
        let (fault, template) = line.split_once(": ").unwrap();
        let wire = key.seal(&plaintext(template, 1_700_000_000), &[7; 8], &hmac_key);
        let found = match WireText::parse(wire.as_bytes()) {
            None => "silent".to_owned(),
            Some(text) => match key.open(hmac_key.verify(text).unwrap()) {
                None => "encryption".to_owned(),
                Some(text) => Message::parse(&text).unwrap_err().to_string(),
            },
        };
        assert_eq!(found, fault, "{line}");
        count += 1;
    }
    assert!(count > 60, "{count}");
}

/// Fills in a template as `tests/fwknop/malformed.txt` describes it.
fn plaintext(template: &str, now: u64) -> String {
    let (template, is_signed) = match template.strip_prefix('!') {
        Some(rest) => (rest, false),
        None => (template, true),
    };
    let mut text = String::new();
    for part in template.replace("NOW", &now.to_string()).split('<') {
        match part.split_once('>') {
            Some((inner, rest)) => {
                text.push_str(&STANDARD_NO_PAD.encode(repeated(inner)));
                text.push_str(&repeated(rest));
            }
            None => text.push_str(&repeated(part)),
        }
    }
    if !is_signed {
        return text;
    }
    let digest = Sha256::digest(&text);
    format!("{text}:{}", STANDARD_NO_PAD.encode(digest))
}

/// Replaces `x{5}` by `xxxxx`.
fn repeated(text: &str) -> String {
    let mut out = String::new();
    let mut parts = text.split('{');
    out.push_str(parts.next().unwrap());
    for part in parts {
        let (count, rest) = part.split_once('}').unwrap();
        let last = out.pop().unwrap();
        out.extend(std::iter::repeat_n(last, count.parse().unwrap()));
        out.push_str(rest);
    }
    out
}
