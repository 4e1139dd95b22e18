//! Finds parts of keys in bytes, in any common encoding.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::net::SERVER_ID;

/// Number of consecutive bytes that do not occur by chance.
const PART: usize = 8;
/// Length of a fingerprint in bytes.
const FINGERPRINT: usize = 8;
/// The labels of the derived keys (`docs/internals/protocol.md`).
const LABELS: [&str; 7] = ["hint", "sign", "selector", "seal", "proof", "reply", "id"];

/// Parts of secrets, each with the name of its secret.
#[derive(Default)]
pub(super) struct Secrets(HashMap<[u8; PART], String>);

impl Secrets {
    /// Adds the secret of a key file and the seven keys derived from it.
    pub(super) fn add(&mut self, file: &Path) {
        let text = fs::read_to_string(file).unwrap();
        let secret = text.lines().find_map(|line| line.strip_prefix("secret: ")).unwrap();
        let secret = STANDARD.decode(secret.trim()).unwrap();
        let name = file.file_name().unwrap().display();
        self.add_bytes(&format!("the secret of {name}"), &secret);
        for label in LABELS {
            let key = derived(&secret, label);
            // The first bytes of the `id` key are the fingerprint, which is not secret.
            let public = if label == "id" { FINGERPRINT } else { 0 };
            self.add_bytes(&format!("the {label} key of {name}"), &key[public..]);
        }
        assert_eq!(
            self.search(text.as_bytes()),
            Some(format!("the secret of {name}")),
            "the search finds a known secret"
        );
    }

    fn add_bytes(&mut self, name: &str, secret: &[u8]) {
        for part in secret.windows(PART) {
            self.0.insert(part.try_into().unwrap(), name.to_owned());
        }
    }

    /// The name of a secret of which a part is in `content`: as raw bytes, in hex, in base64 or as decimal numbers.
    pub(super) fn search(&self, content: &[u8]) -> Option<String> {
        let mut readings = vec![content.to_vec()];
        for run in content.split(|byte| !byte.is_ascii_hexdigit()) {
            readings.extend([run, run.get(1..).unwrap_or_default()].map(from_hex));
        }
        // Convert the URL alphabet of RFC 4648 to the standard alphabet.
        let standard: Vec<u8> = content
            .iter()
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                other => *other,
            })
            .collect();
        for run in standard.split(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))) {
            readings.extend((0..4).map(|skip| from_base64(run.get(skip..).unwrap_or_default())));
        }
        readings.extend(numbers(content));
        let mut parts = readings.iter().flat_map(|reading| reading.windows(PART));
        parts.find_map(|part| self.0.get(part).cloned())
    }
}

fn from_hex(digits: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap();
    digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&[high, low]| u8::try_from(digit(high) * 16 + digit(low)).unwrap())
        .collect()
}

fn from_base64(characters: &[u8]) -> Vec<u8> {
    let whole = characters.len() / 4 * 4;
    STANDARD_NO_PAD.decode(&characters[..whole]).unwrap_or_default()
}

/// Lists of numbers below 256, as `Debug` writes them.
fn numbers(content: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(content);
    let lists = text.split(|c: char| !(c.is_ascii_digit() || matches!(c, ',' | ' ')));
    lists.map(|list| list.split([',', ' ']).filter_map(|number| number.parse().ok()).collect()).collect()
}

/// HKDF-SHA256 (RFC 5869) with a different implementation from the daemon's.
fn derived(secret: &[u8], label: &str) -> [u8; 32] {
    let info = [label.as_bytes(), &[0], SERVER_ID.as_bytes()];
    let extracted = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, b"spa-knock/1").extract(secret);
    let mut key = [0; 32];
    extracted.expand(&info, ring::hkdf::HKDF_SHA256).unwrap().fill(&mut key).unwrap();
    key
}

#[test]
fn parts_of_a_key_are_found_in_every_encoding() {
    let key = derived(&[7; 32], "seal");
    let mut secrets = Secrets::default();
    secrets.add_bytes("it", &key);
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let cases: [(&str, Vec<u8>); 9] = [
        ("raw", [b"before".as_slice(), &key, b"after"].concat()),
        ("a part", key[5..13].to_vec()),
        ("hex", format!("key={hex}.").into_bytes()),
        ("hex behind a digit", format!("0{hex}").into_bytes()),
        ("hex in capitals", hex.to_uppercase().into_bytes()),
        ("base64", STANDARD.encode(key).into_bytes()),
        ("base64 of more", STANDARD.encode([b"x".as_slice(), &key].concat()).into_bytes()),
        ("base64 for URLs", base64::engine::general_purpose::URL_SAFE.encode(key).into_bytes()),
        ("numbers", format!("Secret({key:?})").into_bytes()),
    ];
    for (what, content) in cases {
        assert_eq!(secrets.search(&content).as_deref(), Some("it"), "{what}");
    }
    assert_eq!(secrets.search(&derived(&[8; 32], "seal")), None);
    assert_eq!(secrets.search(&hex.as_bytes()[..15]), None, "seven and a half bytes are not found");
}
