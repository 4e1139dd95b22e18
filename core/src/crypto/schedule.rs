//! The key schedule: root secret → pair secret → seven keys, each bound to one server (`docs/protocol.md`).

use std::fmt;

use super::mac::hkdf;
use super::{MacKey, SealKey, Secret};
use crate::knock::ServerId;

const SALT_KEYS: &[u8] = b"spa-knock/1";
const SALT_PAIR: &[u8] = b"spa-knock/1 pair";

/// The secret that one client and one server share.
#[derive(Clone)]
pub struct PairSecret(Secret);

/// One secret from which a client derives a pair secret for each of its servers.
#[derive(Clone)]
pub struct RootSecret(Secret);

/// The first 8 bytes of the `id` key: names a key without telling it. Printed as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 8]);

/// What finds and checks datagrams and the first two ports of a sequence, but opens nothing.
#[derive(Clone)]
pub struct WatcherKeys {
    /// Names the key on the wire, for a minute.
    pub hint: Secret,
    /// Signs datagrams.
    pub sign: Secret,
    /// Makes the first two ports of a sequence.
    pub selector: Secret,
}

/// What opens datagrams, proves sequences and answers.
#[derive(Clone)]
pub struct KeeperKeys {
    /// Seals a datagram's body.
    pub seal: SealKey,
    /// Makes the last six ports of a sequence.
    pub proof: MacKey,
    /// Seals answers.
    pub reply: SealKey,
}

/// What a client needs to knock and to read the answer.
#[derive(Clone)]
pub struct ClientKeys {
    /// Names the key on the wire, for a minute.
    pub hint: MacKey,
    /// Signs datagrams.
    pub sign: MacKey,
    /// Seals a datagram's body.
    pub seal: SealKey,
    /// Opens answers.
    pub reply: SealKey,
    /// Makes the first two ports of a sequence.
    pub selector: MacKey,
    /// Makes the last six ports of a sequence.
    pub proof: MacKey,
}

/// All keys of one pair secret at one server.
pub struct KeySet {
    /// Names the key.
    pub fingerprint: Fingerprint,
    hint: Secret,
    sign: Secret,
    selector: Secret,
    seal: Secret,
    proof: Secret,
    reply: Secret,
}

impl RootSecret {
    /// A root secret of these bytes.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// The pair secret for one server; from it nobody learns the root or another server's pair.
    #[must_use]
    pub fn pair(&self, server: &ServerId) -> PairSecret {
        PairSecret(hkdf(SALT_PAIR, &self.0, &[server.as_str().as_bytes()]))
    }

    pub(super) const fn secret(&self) -> &Secret {
        &self.0
    }
}

impl PairSecret {
    /// A pair secret of these bytes.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// The seven keys for one server.
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
    /// The watcher's share.
    #[must_use]
    pub fn watcher(&self) -> WatcherKeys {
        WatcherKeys { hint: self.hint.clone(), sign: self.sign.clone(), selector: self.selector.clone() }
    }

    /// The keeper's share.
    #[must_use]
    pub fn keeper(&self) -> KeeperKeys {
        KeeperKeys {
            seal: SealKey::from(&self.seal),
            proof: MacKey::from(&self.proof),
            reply: SealKey::from(&self.reply),
        }
    }

    /// The client's share.
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

    /// The fingerprint of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
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
