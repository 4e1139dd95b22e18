//! Authenticates packets. The process that captures packets has nothing of a client but this key.

use hmac::{Hmac, KeyInit, Mac, SimpleHmac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use sha3::{Sha3_256, Sha3_512};
use zeroize::Zeroizing;

use super::armor::PREFIX;
use super::text::decode;
use super::{Digest, WireText};

/// Maximum length of a key in bytes (fwknop's server).
pub const HMAC_KEY_MAX: usize = 136;

/// A key for HMAC (RFC 2104), whose two key blocks are hashed once, in advance. It is wiped on drop and has no `Debug`.
pub struct HmacKey {
    key: Zeroizing<Vec<u8>>,
    state: Box<State>,
}

/// One state for each digest.
enum State {
    Md5(Hmac<Md5>),
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
    Sha3_256(SimpleHmac<Sha3_256>),
    Sha3_512(SimpleHmac<Sha3_512>),
}

/// Runs an expression with the HMAC of any digest.
macro_rules! with_any {
    ($state:expr, $mac:ident => $result:expr) => {
        match $state {
            State::Md5($mac) => $result,
            State::Sha1($mac) => $result,
            State::Sha256($mac) => $result,
            State::Sha384($mac) => $result,
            State::Sha512($mac) => $result,
            State::Sha3_256($mac) => $result,
            State::Sha3_512($mac) => $result,
        }
    };
}

/// HMAC accepts keys of any length, so the error cannot occur; an all-zero block is RFC 2104's empty key.
fn keyed<M: Mac + KeyInit>(key: &[u8]) -> M {
    <M as KeyInit>::new_from_slice(key).unwrap_or_else(|_| <M as KeyInit>::new(&Default::default()))
}

impl HmacKey {
    /// A key for HMAC with this digest.
    #[must_use]
    pub fn new(digest: Digest, key: &[u8]) -> Self {
        let state = Box::new(match digest {
            Digest::Md5 => State::Md5(keyed(key)),
            Digest::Sha1 => State::Sha1(keyed(key)),
            Digest::Sha256 => State::Sha256(keyed(key)),
            Digest::Sha384 => State::Sha384(keyed(key)),
            Digest::Sha512 => State::Sha512(keyed(key)),
            Digest::Sha3_256 => State::Sha3_256(keyed(key)),
            Digest::Sha3_512 => State::Sha3_512(keyed(key)),
        });
        Self { key: Zeroizing::new(key.to_vec()), state }
    }

    /// The key, for the process that captures packets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.key
    }

    /// The digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        match &*self.state {
            State::Md5(_) => Digest::Md5,
            State::Sha1(_) => Digest::Sha1,
            State::Sha256(_) => Digest::Sha256,
            State::Sha384(_) => Digest::Sha384,
            State::Sha512(_) => Digest::Sha512,
            State::Sha3_256(_) => Digest::Sha3_256,
            State::Sha3_512(_) => Digest::Sha3_512,
        }
    }

    /// Verifies a packet in constant time; returns the text of its ciphertext, without the constant prefix.
    #[must_use]
    pub fn verify<'a>(&self, packet: WireText<'a>) -> Option<&'a str> {
        let (sealed, tag) = packet.split(self.digest())?;
        let tag = decode(tag)?;
        with_any!(&*self.state, mac => {
            let mut mac = mac.clone();
            mac.update(PREFIX.as_bytes());
            mac.update(sealed.as_bytes());
            mac.verify_slice(&tag).is_ok()
        })
        .then_some(sealed)
    }

    /// The HMAC of the text of a ciphertext with its constant prefix.
    pub(crate) fn tag(&self, sealed: &str) -> Vec<u8> {
        with_any!(&*self.state, mac => {
            let mut mac = mac.clone();
            mac.update(sealed.as_bytes());
            mac.finalize().into_bytes().to_vec()
        })
    }
}
