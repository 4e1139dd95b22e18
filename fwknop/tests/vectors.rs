//! Compares with 40 packets that fwknop 2.6.10 created.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests panic on failure")]

use serde_json::Value;
use spa_knock_fwknop::{CipherKey, Content, Digest, HmacKey, Message, NatTarget, Transport, WireText};

const VECTORS: &str = include_str!("vectors/fwknop-3.0.0.json");

fn vectors() -> Vec<Value> {
    serde_json::from_str(VECTORS).unwrap()
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap()
}

fn hmac_key(vector: &Value) -> HmacKey {
    HmacKey::new(text(vector, "hmac_digest").parse().unwrap(), text(vector, "hmac_key").as_bytes())
}

fn cipher_key(vector: &Value) -> CipherKey {
    CipherKey::new(text(vector, "key").as_bytes()).unwrap()
}

fn salt(vector: &Value) -> [u8; 8] {
    u64::from_str_radix(text(vector, "salt"), 16).unwrap().to_be_bytes()
}

#[test]
fn each_packet_is_authentic_under_its_key_only() {
    for vector in vectors() {
        let wire = WireText::parse(text(&vector, "wire").as_bytes()).unwrap();
        let key = hmac_key(&vector);
        assert!(key.verify(wire).is_some(), "{vector}");
        for digest in Digest::ALL {
            let other = HmacKey::new(digest, text(&vector, "hmac_key").as_bytes());
            assert_eq!(other.verify(wire).is_some(), digest == key.digest(), "{vector}");
        }
        assert!(HmacKey::new(key.digest(), b"another").verify(wire).is_none());
    }
}

#[test]
fn no_changed_character_is_authentic() {
    for vector in vectors() {
        let (wire, key) = (text(&vector, "wire"), hmac_key(&vector));
        for at in 0..wire.len() {
            let mut changed = wire.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(WireText::parse(&changed).is_none_or(|changed| key.verify(changed).is_none()), "{at}");
        }
        for changed in [format!("{wire}A"), format!("AAAA{wire}"), format!("{wire}="), wire[1..].to_owned()] {
            let parsed = WireText::parse(changed.as_bytes());
            assert!(parsed.is_none_or(|changed| key.verify(changed).is_none()));
        }
    }
}

#[test]
fn a_packet_in_cbc_mode_contains_its_fields_and_another_mode_is_not_understood() {
    let mut understood = 0;
    for vector in vectors() {
        let wire = WireText::parse(text(&vector, "wire").as_bytes()).unwrap();
        let opened = cipher_key(&vector).open(hmac_key(&vector).verify(wire).unwrap());
        if text(&vector, "mode") != "CBC" {
            assert!(opened.is_none_or(|text| Message::parse(&text).is_err()), "{vector}");
            continue;
        }
        let opened = opened.unwrap();
        let message = Message::parse(&opened).unwrap();
        let fields = &vector["fields"];
        assert_eq!(message.user, text(fields, "user"));
        assert_eq!(message.time, fields["ts"].as_u64().unwrap());
        assert_eq!(message.timeout.map(u64::from), fields["timeout"].as_u64());
        let target = |target: &NatTarget| format!("{},{}", target.host, target.port);
        let (request, nat, kind) = match &message.content {
            Content::Command(command) => (command.clone(), None, 0),
            Content::Access(ports) => (list(ports), None, if message.timeout.is_some() { 3 } else { 1 }),
            Content::Nat(ports, to) => {
                (list(ports), Some(target(to)), if message.timeout.is_some() { 4 } else { 2 })
            }
            Content::LocalNat(ports, to) => {
                (list(ports), Some(target(to)), if message.timeout.is_some() { 6 } else { 5 })
            }
        };
        assert_eq!(format!("{},{request}", message.allow), text(fields, "msg"));
        assert_eq!(nat.as_deref(), fields["nat"].as_str());
        assert_eq!(fields["type"].as_u64(), Some(kind));

        // The way back: the same text, and the same packet.
        let random = text(fields, "rand").parse().unwrap();
        assert_eq!(message.to_text(random, text(&vector, "digest").parse().unwrap()), *opened);
        let sealed = cipher_key(&vector).seal(&opened, &salt(&vector), &hmac_key(&vector));
        assert_eq!(sealed, text(&vector, "wire"));
        understood += 1;
    }
    assert_eq!(understood, 15);
}

#[test]
fn a_packet_is_not_understood_under_another_key() {
    for vector in vectors().iter().filter(|vector| text(vector, "mode") == "CBC") {
        let wire = WireText::parse(text(vector, "wire").as_bytes()).unwrap();
        let sealed = hmac_key(vector).verify(wire).unwrap();
        let other = CipherKey::new(b"another").unwrap().open(sealed);
        assert!(other.is_none_or(|text| Message::parse(&text).is_err()));
    }
}

fn list(ports: &[spa_knock_fwknop::Port]) -> String {
    let word = |port: &spa_knock_fwknop::Port| match port.transport {
        Transport::Tcp => format!("tcp/{}", port.number),
        Transport::Udp => format!("udp/{}", port.number),
    };
    ports.iter().map(word).collect::<Vec<_>>().join(",")
}
