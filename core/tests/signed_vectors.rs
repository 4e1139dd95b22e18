//! Compares with every vector of `tests/vectors/protocol-v2.json`, created by an independent implementation: public keys,
//! signatures of agents, and the bytes of every knock and reply. `checks_signed.rs` compares the verdicts.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests read files, count, and may fail loudly"
)]

mod vector;

use serde_json::Value;
use spa_knock_core::crypto::ssh::{PublicKey, PublicKeyError, PublicKeyKind, RawSignature, SignatureError};
use spa_knock_core::crypto::{MacKey, PairSecret, RootSecret, SealKey};
use spa_knock_core::knock::ServerId;
use spa_knock_core::wire::{Envelope, UnsignedKnock, open_reply, seal_reply};
use vector::{array, bytes, knock, secret, vectors};

const KINDS: [PublicKeyKind; 4] =
    [PublicKeyKind::Ed25519, PublicKeyKind::EcdsaP256, PublicKeyKind::SkEd25519, PublicKeyKind::SkEcdsa];

fn kind(value: &Value) -> PublicKeyKind {
    let name = value.as_str().unwrap();
    KINDS.into_iter().find(|kind| kind.algorithm() == name).unwrap()
}

fn public_key(case: &Value) -> PublicKey {
    case["public_key"].as_str().unwrap().parse().unwrap()
}

/// The cases that have all fields.
fn accepted() -> Vec<Value> {
    let mut cases = vectors("knocks");
    cases.retain(|case| case["knock"].is_object() && case["knock"]["message"].is_string());
    assert!(cases.len() >= 21, "the vectors are missing");
    cases
}

#[test]
fn every_public_key_is_read_or_refused_as_in_the_vectors() {
    for case in vectors("public_keys") {
        let line = case["line"].as_str().unwrap();
        let read = line.parse::<PublicKey>();
        match case["refused"].as_str() {
            None => {
                let key = read.unwrap();
                assert_eq!(key.kind(), kind(&case["kind"]), "{case}");
                assert_eq!(key.fingerprint().to_string(), case["fingerprint"].as_str().unwrap(), "{case}");
                assert_eq!(key.fingerprint().to_string().parse(), Ok(key.fingerprint()));
                assert_eq!(key.to_string(), line);
                assert_eq!(format!("{line} someone@example.org").parse(), Ok(key));
            }
            Some(check) => {
                let error = match check {
                    "kind" => PublicKeyError::Kind,
                    "encoding" => PublicKeyError::Encoding,
                    "curve" => PublicKeyError::Curve,
                    "point" => PublicKeyError::Point,
                    "application" => PublicKeyError::Application,
                    other => panic!("unknown check {other}"),
                };
                assert_eq!(read, Err(error), "{case}");
            }
        }
    }
}

#[test]
fn every_signature_is_converted_or_refused_as_in_the_vectors() {
    for case in vectors("signatures") {
        let (kind, blob) = (kind(&case["kind"]), bytes(&case["blob"]));
        let converted = match case["form"].as_str().unwrap() {
            "agent" => RawSignature::from_agent(kind, &blob),
            "der" => RawSignature::from_der(&blob, None),
            other => panic!("unknown form {other}"),
        };
        match case["refused"].as_str() {
            None => {
                let converted = converted.unwrap();
                assert_eq!(converted.to_bytes(), bytes(&case["field"]), "{case}");
                assert_eq!(RawSignature::read(kind, &converted.to_bytes()), Some(converted));
            }
            Some(check) => {
                let error = match check {
                    "algorithm" => SignatureError::Algorithm,
                    "encoding" => SignatureError::Encoding,
                    "mpint" => SignatureError::Mpint,
                    "range" => SignatureError::Range,
                    other => panic!("unknown check {other}"),
                };
                assert_eq!(converted, Err(error), "{case}");
            }
        }
    }
}

#[test]
fn a_pair_secret_is_derived_from_the_root_secret_as_in_the_vectors() {
    let mut derived = 0;
    for case in accepted().iter().filter(|case| !case["root"].is_null()) {
        let server: ServerId = case["server_id"].as_str().unwrap().parse().unwrap();
        let pairs =
            [PairSecret::new(secret(&case["pair"])), RootSecret::new(secret(&case["root"])).pair(&server)];
        let [pair, from_root] = pairs.map(|pair| pair.signed_keys(&server).fingerprint);
        assert_eq!(pair, from_root);
        derived += 1;
    }
    assert!(derived >= 3, "the vectors are missing");
}

#[test]
fn every_knock_is_signed_and_sealed_as_in_the_vectors() {
    for case in accepted() {
        let (v, key) = (&case["knock"], public_key(&case));
        assert_eq!(key.fingerprint().to_string(), case["ssh_key_fingerprint"].as_str().unwrap());
        let server: ServerId = case["server_id"].as_str().unwrap().parse().unwrap();
        let keys = PairSecret::new(secret(&case["pair"])).signed_keys(&server);
        assert_eq!(keys.fingerprint.as_bytes(), &array::<32>(&case["keys"]["id"])[..8]);

        // The server reads what the vector contains.
        let expected = bytes(&case["datagram"]);
        let envelope = Envelope::read(&expected).unwrap();
        assert!(MacKey::from(&keys.watcher().sign).verify(&[envelope.signed], envelope.tag));
        let mut sealed = envelope.sealed.to_vec();
        let seal = SealKey::from(&secret(&case["keys"]["seal"]));
        assert_eq!(seal.open(envelope.nonce, envelope.hint, &mut sealed).unwrap(), bytes(&v["body"]));
        let keeper = keys.keeper();
        let signed = envelope.open_signed(&keeper).unwrap();
        let prefix = keeper.message.unwrap();
        let verified = signed.verify(&key, &prefix).unwrap();
        assert_eq!(verified.body.understand(), Ok(&knock(v)), "{case}");
        let (message, signature) = signed.evidence(&key, &prefix).unwrap();
        assert_eq!(message.as_bytes(), bytes(&v["message"]));

        // The client makes the same datagram, unless the vector's hint is not that of its timestamp.
        let agent = RawSignature::from_agent(key.kind(), &bytes(&v["agent_blob"])).unwrap();
        assert_eq!((agent, agent.to_bytes()), (signature, bytes(&v["signature"])));
        if case["name"].as_str().unwrap().starts_with("hint of the server's epoch") {
            continue;
        }
        let padding = u8::try_from(v["body_length"].as_u64().unwrap() - 160).unwrap();
        let client = keys.client();
        let unsigned = UnsignedKnock::with(&knock(v), &client, &key, array(&v["nonce"]), padding).unwrap();
        assert_eq!(unsigned.message().as_bytes(), bytes(&v["message"]), "{case}");
        assert_eq!(unsigned.message().signed_data(), bytes(&v["signed"]));
        let by_device = if key.kind().is_fido() { &v["sk_signed"] } else { &v["signed"] };
        assert_eq!(key.signed_bytes(unsigned.message(), agent.fido()).unwrap(), bytes(by_device));
        assert_eq!(unsigned.seal(&agent, &client).unwrap().as_bytes(), expected, "{case}");
    }
}

#[test]
fn every_reply_is_sealed_and_opened_as_in_the_vectors() {
    for case in accepted() {
        let server: ServerId = case["server_id"].as_str().unwrap().parse().unwrap();
        let pair = PairSecret::new(secret(&case["pair"]));
        let keys = pair.signed_keys(&server);
        let knock_nonce = array(&case["knock"]["nonce"]);
        let expected = bytes(&case["reply"]["datagram"]);

        let reply = open_reply(&expected, &keys.client().reply, &knock_nonce).unwrap();
        let nonce = array(&case["reply"]["nonce"]);
        assert_eq!(seal_reply(&reply, &keys.keeper().reply, &knock_nonce, &nonce).unwrap(), expected);
        assert!(open_reply(&expected, &pair.keys(&server).client().reply, &knock_nonce).is_err());

        let mut sealed = expected[12..].to_vec();
        let key = SealKey::from(&secret(&case["keys"]["reply"]));
        assert_eq!(key.open(&nonce, &knock_nonce, &mut sealed).unwrap(), bytes(&case["reply"]["body"]));
    }
}
