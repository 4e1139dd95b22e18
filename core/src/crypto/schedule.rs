//! The key schedule: root secret → pair secret → seven keys, each bound to one server (`docs/internals/protocol.md`).

use std::fmt;

use super::mac::hkdf;
use super::ssh::MessagePrefix;
use super::{MacKey, SealKey, Secret};
use crate::knock::{ProtocolVersion, ServerId};

const SALT_V1: &[u8] = b"spa-knock/1";
const SALT_V2: &[u8] = b"spa-knock/2";
/// The same in all versions.
const SALT_PAIR: &[u8] = b"spa-knock/1 pair";

/// The secret shared by one client and one server.
#[derive(Clone)]
pub struct PairSecret(Secret);

/// The secret from which a client derives a pair secret for each of its servers.
#[derive(Clone)]
pub struct RootSecret(Secret);

/// The first 8 bytes of the `id` key: identifies a key without revealing it. Printed as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 8]);

/// The keys with which the watcher identifies and verifies datagrams and the first two ports of a sequence. They
/// decrypt nothing.
#[derive(Clone)]
pub struct WatcherKeys {
    /// Computes hints, which select the key for one epoch.
    pub hint: Secret,
    /// Verifies the tags of datagrams.
    pub sign: Secret,
    /// Computes the first two ports of a sequence; none in version 2, which has no port sequences.
    pub selector: Option<Secret>,
}

/// The keys that decrypt datagrams, verify the proofs of sequences and encrypt replies.
#[derive(Clone)]
pub struct KeeperKeys {
    /// Decrypts the body of a datagram.
    pub seal: SealKey,
    /// Computes the last six ports of a sequence; none in version 2, which has no port sequences.
    pub proof: Option<MacKey>,
    /// Encrypts replies.
    pub reply: ReplyKey,
    /// The start of the messages that the client's SSH key signs; version 2 only.
    pub message: Option<MessagePrefix>,
}

/// The keys with which a client knocks and reads replies.
#[derive(Clone)]
pub struct ClientKeys {
    /// Computes hints, which select the key for one epoch.
    pub hint: MacKey,
    /// Computes the tags of datagrams.
    pub sign: MacKey,
    /// Encrypts the body of a datagram.
    pub seal: SealKey,
    /// Decrypts replies.
    pub reply: ReplyKey,
    /// Computes port sequences; none in version 2.
    pub ports: Option<PortKeys>,
    /// The start of the messages that the client's SSH key signs; version 2 only.
    pub message: Option<MessagePrefix>,
}

/// The keys with which a client computes port sequences.
#[derive(Clone)]
pub struct PortKeys {
    /// Computes the first two ports.
    pub selector: MacKey,
    /// Computes the last six ports.
    pub proof: MacKey,
}

/// The key of replies, which determines their version.
#[derive(Clone)]
pub struct ReplyKey {
    /// Encrypts and decrypts.
    pub seal: SealKey,
    /// The version of the replies.
    pub version: ProtocolVersion,
}

/// All keys derived from one pair secret for one server.
pub struct KeySet {
    /// Identifies the key.
    pub fingerprint: Fingerprint,
    /// The version of the protocol in which the keys are used.
    pub version: ProtocolVersion,
    hint: Secret,
    sign: Secret,
    seal: Secret,
    reply: Secret,
    /// Selector and proof; version 1 only.
    ports: Option<[Secret; 2]>,
    /// Version 2 only.
    message: Option<MessagePrefix>,
}

impl RootSecret {
    /// A root secret from these bytes.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// The pair secret for one server. It reveals neither the root secret nor the pair secret of another server.
    #[must_use]
    pub fn pair(&self, server: &ServerId) -> PairSecret {
        PairSecret(hkdf(SALT_PAIR, &self.0, &[server.as_str().as_bytes()]))
    }

    pub(super) const fn secret(&self) -> &Secret {
        &self.0
    }
}

impl PairSecret {
    /// A pair secret from these bytes.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Derives the keys of version 1 for one server.
    #[must_use]
    pub fn keys(&self, server: &ServerId) -> KeySet {
        let key = |label| self.key(ProtocolVersion::V1, label, server);
        self.key_set(ProtocolVersion::V1, server, Some([key("selector"), key("proof")]))
    }

    /// Derives the keys of version 2 for one server: those of a client with a public key.
    #[must_use]
    pub fn signed_keys(&self, server: &ServerId) -> KeySet {
        self.key_set(ProtocolVersion::V2, server, None)
    }

    /// The fingerprint in this version. Derives no other key.
    #[must_use]
    pub fn fingerprint(&self, version: ProtocolVersion, server: &ServerId) -> Fingerprint {
        Fingerprint::of(&self.key(version, "id", server))
    }

    fn key_set(&self, version: ProtocolVersion, server: &ServerId, ports: Option<[Secret; 2]>) -> KeySet {
        let key = |label| self.key(version, label, server);
        let id = key("id");
        let message = (version == ProtocolVersion::V2).then(|| MessagePrefix::new(server, id.expose()));
        KeySet {
            fingerprint: Fingerprint::of(&id),
            version,
            hint: key("hint"),
            sign: key("sign"),
            seal: key("seal"),
            reply: key("reply"),
            ports,
            message,
        }
    }

    fn key(&self, version: ProtocolVersion, label: &str, server: &ServerId) -> Secret {
        let salt = match version {
            ProtocolVersion::V1 => SALT_V1,
            ProtocolVersion::V2 => SALT_V2,
        };
        hkdf(salt, &self.0, &[label.as_bytes(), &[0], server.as_str().as_bytes()])
    }

    pub(super) const fn secret(&self) -> &Secret {
        &self.0
    }
}

impl KeySet {
    /// The keys of the watcher.
    #[must_use]
    pub fn watcher(&self) -> WatcherKeys {
        let selector = self.ports.as_ref().map(|[selector, _]| selector.clone());
        WatcherKeys { hint: self.hint.clone(), sign: self.sign.clone(), selector }
    }

    /// The keys of the keeper.
    #[must_use]
    pub fn keeper(&self) -> KeeperKeys {
        KeeperKeys {
            seal: SealKey::from(&self.seal),
            proof: self.ports.as_ref().map(|[_, proof]| MacKey::from(proof)),
            reply: self.reply(),
            message: self.message.clone(),
        }
    }

    /// The keys of the client.
    #[must_use]
    pub fn client(&self) -> ClientKeys {
        let ports = self.ports.as_ref().map(|[selector, proof]| PortKeys {
            selector: MacKey::from(selector),
            proof: MacKey::from(proof),
        });
        ClientKeys {
            hint: MacKey::from(&self.hint),
            sign: MacKey::from(&self.sign),
            seal: SealKey::from(&self.seal),
            reply: self.reply(),
            ports,
            message: self.message.clone(),
        }
    }

    fn reply(&self) -> ReplyKey {
        ReplyKey { seal: SealKey::from(&self.reply), version: self.version }
    }
}

impl Fingerprint {
    fn of(id: &Secret) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *id.expose();
        Self([a, b, c, d, e, f, g, h])
    }

    /// A fingerprint from these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The fingerprint as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Including the keys of version 2 that nothing uses.
    #[test]
    fn every_key_is_derived_as_in_the_vectors_of_both_versions() {
        let files = [
            (ProtocolVersion::V1, include_str!("../../tests/vectors/protocol-v1.json")),
            (ProtocolVersion::V2, include_str!("../../tests/vectors/protocol-v2.json")),
        ];
        for (version, text) in files {
            let file: serde_json::Value = serde_json::from_str(text).unwrap();
            let cases = file.as_array().or_else(|| file["knocks"].as_array()).unwrap();
            let mut derived = 0;
            for case in cases.iter().filter(|case| case["keys"].is_object()) {
                let number = |hex: &str, at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
                let bytes = |value: &serde_json::Value| -> [u8; 32] {
                    std::array::from_fn(|at| number(value.as_str().unwrap(), at))
                };
                let server = case["server_id"].as_str().unwrap().parse().unwrap();
                let pair = PairSecret::new(Secret::from_bytes(&bytes(&case["pair"])));
                for (label, expected) in case["keys"].as_object().unwrap() {
                    assert_eq!(pair.key(version, label, &server).expose(), &bytes(expected), "{label}");
                    derived += 1;
                }
            }
            assert!(derived >= 7 * 20, "the vectors are missing");
        }
    }

    #[test]
    fn a_fingerprint_is_written_as_sixteen_hex_digits() {
        let fingerprint = Fingerprint::from_bytes([0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]);
        assert_eq!(fingerprint.to_string(), "0123456789abcdef");
        assert_eq!(format!("{fingerprint:?}"), "0123456789abcdef");
    }
}
