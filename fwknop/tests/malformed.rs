//! Packets that only the owner of a key can send: each is refused for its fault.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "tests panic on failure"
)]

#[path = "../../tests/fwknop/templates.rs"]
mod templates;

use sha2::{Digest as _, Sha256};
use spa_knock_fwknop::{CipherKey, Digest, HmacKey, Message, WireText};
use templates::{malformed, plaintext};

#[test]
fn a_malformed_packet_made_with_valid_keys_is_refused_for_its_fault() {
    let (key, hmac_key) = (CipherKey::new(b"key").unwrap(), HmacKey::new(Digest::Sha256, b"hmac-key"));
    let mut count = 0;
    for (fault, template, line) in malformed() {
        let plain = plaintext(template, 1_700_000_000, |text| Sha256::digest(text).to_vec());
        let wire = key.seal(&plain, &[7; 8], &hmac_key);
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
