//! Any bytes are a public key, a signature of an agent or of a device, or are refused; what is accepted is encoded as the
//! same bytes again. The signed body of a knock never panics, and no key has signed random bytes.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spa_knock_core::crypto::ssh::{PublicKey, PublicKeyKind, RawSignature};
use spa_knock_core::crypto::{KeySet, PairSecret, Secret};
use spa_knock_core::wire::Envelope;

const KINDS: [PublicKeyKind; 4] =
    [PublicKeyKind::Ed25519, PublicKeyKind::EcdsaP256, PublicKeyKind::SkEd25519, PublicKeyKind::SkEcdsa];
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAw1DInpu1AUJNxvw21MVAnXYFO1LNSH4KXDra/jnQ1i";

static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    PairSecret::new(Secret::from_bytes(&[7; 32])).signed_keys(&"a".parse().expect("a server id"))
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = PublicKey::from_blob(bytes) {
        assert_eq!(key.blob(), bytes);
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    if let Ok(key) = String::from_utf8_lossy(bytes).parse::<PublicKey>() {
        assert_eq!(PublicKey::from_blob(key.blob()), Ok(key));
    }
    for kind in KINDS {
        if let Ok(signature) = RawSignature::from_agent(kind, bytes) {
            assert_eq!(agent_blob(kind, &signature), bytes, "there is only one encoding");
            assert_eq!(RawSignature::read(kind, &signature.to_bytes()), Some(signature));
        }
        if let Some(signature) = RawSignature::read(kind, bytes) {
            assert_eq!(signature.to_bytes(), bytes);
        }
    }
    let _ = RawSignature::from_der(bytes, None);
    sealed(bytes);
});

/// A body that only a holder of the pair secret could encrypt.
fn sealed(bytes: &[u8]) {
    let mut body = bytes.to_vec();
    body.resize(bytes.len().clamp(160, 223), 0);
    let client = KEYS.client();
    client.seal.seal(&[1; 12], &[2; 8], &mut body).expect("few bytes");
    let datagram = [[2; 8].as_slice(), &[1; 12], &body, &[0; 32]].concat();
    let keeper = KEYS.keeper();
    let envelope = Envelope::read(&datagram).expect("the length of a knock");
    let signed = envelope.open_signed(&keeper).expect("encrypted with this key");
    let key: PublicKey = KEY.parse().expect("a public key");
    let prefix = keeper.message.as_ref().expect("keys of version 2");
    assert!(signed.verify(&key, prefix).is_err());
    assert!(signed.evidence(&key, prefix).is_some());
}

/// The naive encoder.
fn agent_blob(kind: PublicKeyKind, signature: &RawSignature) -> Vec<u8> {
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat();
    let raw = signature.to_bytes();
    let numbers = if kind.is_ecdsa() {
        raw[..64]
            .chunks(32)
            .flat_map(|number| {
                let digits: Vec<u8> = number.iter().copied().skip_while(|digit| *digit == 0).collect();
                let sign = if digits[0] >= 0x80 { vec![0] } else { vec![] };
                string(&[sign, digits].concat())
            })
            .collect()
    } else {
        raw[..64].to_vec()
    };
    [string(kind.algorithm().as_bytes()), string(&numbers), raw[64..].to_vec()].concat()
}
