//! The key schedule: root secret → pair secret → seven keys, each bound to one server (`docs/internals/protocol.md`).

use std::fmt;

use super::mac::hkdf;
use super::{MacKey, SealKey, Secret};
use crate::knock::ServerId;

const SALT_KEYS: &[u8] = b"spa-knock/1";
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
    /// Computes the first two ports of a sequence.
    pub selector: Secret,
}

/// The keys that decrypt datagrams, verify the proofs of sequences and encrypt replies.
#[derive(Clone)]
pub struct KeeperKeys {
    /// Decrypts the body of a datagram.
    pub seal: SealKey,
    /// Computes the last six ports of a sequence.
    pub proof: MacKey,
    /// Encrypts replies.
    pub reply: SealKey,
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
    pub reply: SealKey,
    /// Computes the first two ports of a sequence.
    pub selector: MacKey,
    /// Computes the last six ports of a sequence.
    pub proof: MacKey,
}

/// All keys derived from one pair secret for one server.
pub struct KeySet {
    /// Identifies the key.
    pub fingerprint: Fingerprint,
    hint: Secret,
    sign: Secret,
    selector: Secret,
    seal: Secret,
    proof: Secret,
    reply: Secret,
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

    /// Derives the seven keys for one server.
    #[must_use]
    pub fn keys(&self, server: &ServerId) -> KeySet {
        let key =
            |label: &str| hkdf(SALT_KEYS, &self.0, &[label.as_bytes(), &[0], server.as_str().as_bytes()]);
        KeySet {
            fingerprint: Fingerprint::of(&key("id")),
            hint: key("hint"),
            sign: key("sign"),
            selector: key("selector"),
            seal: key("seal"),
            proof: key("proof"),
            reply: key("reply"),
        }
    }

    pub(super) const fn secret(&self) -> &Secret {
        &self.0
    }
}

impl KeySet {
    /// The keys of the watcher.
    #[must_use]
    pub fn watcher(&self) -> WatcherKeys {
        WatcherKeys { hint: self.hint.clone(), sign: self.sign.clone(), selector: self.selector.clone() }
    }

    /// The keys of the keeper.
    #[must_use]
    pub fn keeper(&self) -> KeeperKeys {
        KeeperKeys {
            seal: SealKey::from(&self.seal),
            proof: MacKey::from(&self.proof),
            reply: SealKey::from(&self.reply),
        }
    }

    /// The keys of the client.
    #[must_use]
    pub fn client(&self) -> ClientKeys {
        ClientKeys {
            hint: MacKey::from(&self.hint),
            sign: MacKey::from(&self.sign),
            seal: SealKey::from(&self.seal),
            reply: SealKey::from(&self.reply),
            selector: MacKey::from(&self.selector),
            proof: MacKey::from(&self.proof),
        }
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
