//! Compares with every vector of `tests/vectors/protocol-v1*.json`, created by an independent implementation, byte for
//! byte.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests read files, count, and may fail loudly"
)]

mod vector;

use serde_json::Value;
use spa_knock_core::crypto::{MacKey, PairSecret, RootSecret, SealKey};
use spa_knock_core::knock::{KnockRange, ServerId, TimeStep, Timestamp};
use spa_knock_core::wire::{Body, Datagram, Envelope, open_reply, proof, seal_reply, selector, sequence};
use vector::{array, bytes, knock, secret};

fn cases() -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("protocol-v1") && name.ends_with(".json") {
            let text = std::fs::read_to_string(&path).unwrap();
            cases.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap());
        }
    }
    assert!(cases.len() >= 24, "the vectors are missing");
    cases
}

#[test]
fn every_key_is_derived_as_in_the_vectors() {
    for case in cases() {
        let server: ServerId = case["server_id"].as_str().unwrap().parse().unwrap();
        let expected = &case["keys"];
        let mut pairs = vec![PairSecret::new(secret(&case["pair"]))];
        if !case["root"].is_null() {
            pairs.push(RootSecret::new(secret(&case["root"])).pair(&server));
        }
        for pair in pairs {
            let keys = pair.keys(&server);
            let watcher = keys.watcher();
            assert_eq!(watcher.hint.expose(), secret(&expected["hint"]).expose());
            assert_eq!(watcher.sign.expose(), secret(&expected["sign"]).expose());
            assert_eq!(watcher.selector.unwrap().expose(), secret(&expected["selector"]).expose());
            assert_eq!(keys.fingerprint.as_bytes(), &secret(&expected["id"]).expose()[..8]);
            // These three keys cannot be read, so their outputs are compared.
            let keeper = keys.keeper();
            let message: &[&[u8]] = &[b"any message"];
            assert_eq!(
                keeper.proof.unwrap().tag(message),
                MacKey::from(&secret(&expected["proof"])).tag(message)
            );
            for (key, name) in [(&keeper.seal, "seal"), (&keeper.reply.seal, "reply")] {
                let [mut ours, mut theirs] = [b"any".to_vec(), b"any".to_vec()];
                key.seal(&[7; 12], b"", &mut ours).unwrap();
                SealKey::from(&secret(&expected[name])).seal(&[7; 12], b"", &mut theirs).unwrap();
                assert_eq!(ours, theirs, "{name}");
            }
        }
    }
}

#[test]
fn every_datagram_is_sealed_and_opened_as_in_the_vectors() {
    for case in cases() {
        let server: ServerId = case["server_id"].as_str().unwrap().parse().unwrap();
        let keys = PairSecret::new(secret(&case["pair"])).keys(&server);
        let v = &case["knock"];
        let expected = bytes(&v["datagram"]);
        let padding = u8::try_from(v["padding"].as_u64().unwrap()).unwrap();

        let made = Datagram::seal_with(&knock(v), &keys.client(), array(&v["nonce"]), padding).unwrap();
        assert_eq!(made.as_bytes(), expected);

        let envelope = Envelope::read(&expected).unwrap();
        assert!(MacKey::from(&keys.watcher().sign).verify(&[envelope.signed], envelope.tag));
        let mut sealed = envelope.sealed.to_vec();
        let seal = SealKey::from(&secret(&case["keys"]["seal"]));
        assert_eq!(seal.open(envelope.nonce, envelope.hint, &mut sealed).unwrap(), bytes(&v["body"]));
        let body = envelope.open(&keys.keeper()).ok().unwrap();
        assert_eq!(body.understand(), Ok(&knock(v)));
        let whole = Body::read(&bytes(&v["body"])).unwrap();
        assert_eq!(whole.understand(), Ok(&knock(v)));
    }
}

#[test]
fn every_reply_is_sealed_and_opened_as_in_the_vectors() {
    for case in cases() {
        let server: ServerId = case["server_id"].as_str().unwrap().parse().unwrap();
        let keys = PairSecret::new(secret(&case["pair"])).keys(&server);
        let knock_nonce = array(&case["knock"]["nonce"]);
        let expected = bytes(&case["reply"]["datagram"]);

        let reply = open_reply(&expected, &keys.client().reply, &knock_nonce).unwrap();
        let nonce = array(&case["reply"]["nonce"]);
        assert_eq!(seal_reply(&reply, &keys.keeper().reply, &knock_nonce, &nonce).unwrap(), expected);

        let mut sealed = expected[12..].to_vec();
        let key = SealKey::from(&secret(&case["keys"]["reply"]));
        assert_eq!(key.open(&nonce, &knock_nonce, &mut sealed).unwrap(), bytes(&case["reply"]["body"]));
    }
}

#[test]
fn every_port_sequence_is_created_and_recognized_as_in_the_vectors() {
    let mut sequences = 0;
    for case in cases() {
        let server: ServerId = case["server_id"].as_str().unwrap().parse().unwrap();
        let keys = PairSecret::new(secret(&case["pair"])).keys(&server);
        for v in case["ports"].as_array().unwrap() {
            let number = |value: &Value| u16::try_from(value.as_u64().unwrap()).unwrap();
            let knock_range = KnockRange::try_from(number(&v["low"])).unwrap();
            let step =
                TimeStep::of(Timestamp::from_millis(v["unix_seconds"].as_u64().unwrap() * 1_000 + 999));
            let address = v["address"].as_str().map(|address| address.parse().unwrap());
            let action = v["action"].as_str().unwrap().parse().unwrap();
            let expected: Vec<u16> = v["ports"].as_array().unwrap().iter().map(number).collect();

            let client = keys.client().ports.unwrap();
            let made = proof(&client.proof, step, address, &action, knock_range);
            assert_eq!(sequence(selector(&client.selector, step, knock_range), &made), *expected, "{v}");
            let watcher = MacKey::from(&keys.watcher().selector.unwrap());
            assert_eq!(selector(&watcher, step, knock_range), expected[..2], "{v}");
            let keeper = proof(&keys.keeper().proof.unwrap(), step, address, &action, knock_range);
            assert_eq!(keeper.ports, expected[2..], "{v}");
            assert_eq!(keeper.id, made.id);
            sequences += 1;
        }
    }
    assert!(sequences >= 100, "the vectors are missing");
}
