//! SSH keys that sign knocks, for tests: in software, also those of the FIDO kinds.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each uses a part")]

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use spa_knock_core::crypto::ClientKeys;
use spa_knock_core::crypto::ssh::{FidoData, KnockMessage, PublicKey, PublicKeyKind, RawSignature};
use spa_knock_core::knock::Knock;
use spa_knock_core::wire::{Datagram, UnsignedKnock};

/// All kinds.
pub(crate) const KINDS: [PublicKeyKind; 4] =
    [PublicKeyKind::Ed25519, PublicKeyKind::EcdsaP256, PublicKeyKind::SkEd25519, PublicKeyKind::SkEcdsa];

/// The flags of a device that states that someone was present.
pub(crate) const PRESENT: u8 = 1;

/// A key pair.
pub(crate) struct SshKey {
    /// The public half.
    pub(crate) public: PublicKey,
    private: Private,
}

enum Private {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair),
}

impl SshKey {
    /// A new key of this kind.
    pub(crate) fn new(kind: PublicKeyKind) -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        if kind.is_ecdsa() {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
            Self { public: public(kind, pair.public_key().as_ref()), private: Private::Ecdsa(pair) }
        } else {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
            let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
            Self { public: public(kind, pair.public_key().as_ref()), private: Private::Ed25519(pair) }
        }
    }

    /// The key pair of an Ed25519 seed.
    pub(crate) fn from_seed(seed: &[u8]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).unwrap();
        let public = public(PublicKeyKind::Ed25519, pair.public_key().as_ref());
        Self { public, private: Private::Ed25519(pair) }
    }

    /// The key pair of a P-256 scalar and its point.
    pub(crate) fn from_scalar(scalar: &[u8], point: &[u8]) -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair =
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, point, &SystemRandom::new())
                .unwrap();
        Self { public: public(PublicKeyKind::EcdsaP256, point), private: Private::Ecdsa(pair) }
    }

    /// Signs a message. FIDO kinds state these flags and this counter.
    pub(crate) fn sign(&self, message: &KnockMessage, flags: u8, counter: u32) -> RawSignature {
        let kind = self.public.kind();
        let fido = kind.is_fido().then_some(FidoData { flags, counter });
        let data = self.public.signed_bytes(message, fido).unwrap();
        let mut signature = match &self.private {
            Private::Ed25519(pair) => pair.sign(&data).as_ref().to_vec(),
            Private::Ecdsa(pair) => pair.sign(&SystemRandom::new(), &data).unwrap().as_ref().to_vec(),
        };
        signature.extend(fido.map(FidoData::to_bytes).into_iter().flatten());
        RawSignature::read(kind, &signature).unwrap()
    }

    /// Signs and seals a knock with a fresh nonce.
    pub(crate) fn seal(&self, knock: &Knock, keys: &ClientKeys) -> Datagram {
        self.seal_as(knock, keys, PRESENT, 0)
    }

    /// The same with these flags and this counter.
    pub(crate) fn seal_as(&self, knock: &Knock, keys: &ClientKeys, flags: u8, counter: u32) -> Datagram {
        let unsigned = UnsignedKnock::new(knock, keys, &self.public).unwrap();
        let signature = self.sign(unsigned.message(), flags, counter);
        unsigned.seal(&signature, keys).unwrap()
    }
}

fn public(kind: PublicKeyKind, point: &[u8]) -> PublicKey {
    let mut blob = Vec::new();
    let mut put = |string: &[u8]| {
        blob.extend(u32::try_from(string.len()).unwrap().to_be_bytes());
        blob.extend(string);
    };
    put(kind.algorithm().as_bytes());
    if kind.is_ecdsa() {
        put(b"nistp256");
    }
    put(point);
    if kind.is_fido() {
        put(b"ssh:");
    }
    PublicKey::from_blob(&blob).unwrap()
}
