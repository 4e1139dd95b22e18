//! What the store must neither read nor forge is sealed with the fleet key: ChaCha20-Poly1305 with a key of its own for
//! each nonce, bound to its path and its serial. Sealed in the keeper or by the administrator; the store process has no
//! fleet key.

use spa_knock_core::crypto::{AEAD_TAG, MacKey, NONCE, Nonce, RandomError, SealKey, Secret, random};
use zeroize::Zeroizing;

use crate::keys::{KeySpace, StoreKey};

/// The first byte of a sealed entry.
const FORMAT: u8 = 1;
/// Format, serial and nonce.
const HEAD: usize = 1 + 8 + NONCE;
/// A policy entry is a few lines.
const LONGEST: usize = 64 << 10;

/// The secret that all members of a fleet share. It has no `Debug` and is wiped on drop.
#[derive(Clone)]
pub struct FleetKey(SealKey);

/// An entry that this fleet has sealed.
pub struct SealedEntry {
    /// Rises with each change of the same name.
    pub serial: u64,
    /// The content.
    pub content: Zeroizing<Vec<u8>>,
}

/// Why an entry was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// It is shorter than any sealed entry, longer than allowed, or of another format.
    #[error("entry {0}: has no form of a sealed entry\nhint: write it with spa-knockd, not with etcdctl")]
    Form(String),
    /// Another key, path or serial, or changed bytes.
    #[error(
        "entry {0}: not sealed with this fleet's key\nhint: compare the fleet keys of the members; someone may have changed the store"
    )]
    Forged(String),
}

/// Sealing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    /// No random nonce.
    #[error("the system's random number generator failed")]
    Random,
    /// The content is over 64 KiB.
    #[error("content is longer than 64 KiB\nhint: split it")]
    TooLong,
}

impl FleetKey {
    /// The key of this fleet. The same bytes seal differently in a fleet of another name.
    #[must_use]
    pub fn new(secret: &Secret, space: &KeySpace) -> Self {
        let prefix = space.everything();
        let derived = MacKey::from(secret).derive(&[b"spa-knock/1 fleet seal", &[0], prefix.start()]);
        Self(SealKey::from(&derived))
    }

    /// Seals the content of a key.
    ///
    /// # Errors
    /// If the content is longer than 64 KiB, or the system's random number generator fails.
    pub fn seal(
        &self,
        space: &KeySpace,
        key: &StoreKey,
        serial: u64,
        content: &[u8],
    ) -> Result<Vec<u8>, SealFault> {
        let nonce: Nonce = random().map_err(|RandomError| SealFault::Random)?;
        if content.len() > LONGEST {
            return Err(SealFault::TooLong);
        }
        let mut sealed = Vec::with_capacity(content.len().saturating_add(AEAD_TAG));
        sealed.extend_from_slice(content);
        let bound = associated(serial, &space.path(key));
        self.0.seal(&nonce, &bound, &mut sealed).map_err(|_| SealFault::TooLong)?;
        let head = [&[FORMAT][..], &serial.to_be_bytes(), &nonce].concat();
        Ok([head, sealed].concat())
    }

    /// Opens the content of a key.
    ///
    /// # Errors
    /// If it was not sealed with this key for this path.
    pub fn open(&self, space: &KeySpace, key: &StoreKey, value: &[u8]) -> Result<SealedEntry, UnsealError> {
        let path = space.path(key);
        let form = || UnsealError::Form(key.to_string());
        if value.len() > LONGEST.saturating_add(HEAD).saturating_add(AEAD_TAG) {
            return Err(form());
        }
        let ([FORMAT], rest) = value.split_first_chunk().ok_or_else(form)? else { return Err(form()) };
        let (serial, rest) = rest.split_first_chunk().ok_or_else(form)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or_else(form)?;
        let serial = u64::from_be_bytes(*serial);
        let mut content = Zeroizing::new(sealed.to_vec());
        let length = self
            .0
            .open(nonce, &associated(serial, &path), &mut content)
            .map_err(|_| UnsealError::Forged(key.to_string()))?
            .len();
        content.truncate(length);
        Ok(SealedEntry { serial, content })
    }
}

fn associated(serial: u64, path: &str) -> Vec<u8> {
    [&serial.to_be_bytes(), path.as_bytes()].concat()
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests panic on overflow")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space(fleet: &str) -> KeySpace {
        KeySpace::new(&fleet.parse().unwrap())
    }

    fn client(name: &str) -> StoreKey {
        StoreKey::PolicyClient(name.parse().unwrap())
    }

    fn key(fleet: &str, secret: u8) -> FleetKey {
        FleetKey::new(&Secret::from_bytes(&[secret; 32]), &space(fleet))
    }

    #[test]
    fn an_entry_opens_only_with_its_key_at_its_path() {
        let prod = space("prod");
        let sealed = key("prod", 1).seal(&prod, &client("laptop"), 7, b"content").unwrap();
        let opened = key("prod", 1).open(&prod, &client("laptop"), &sealed).unwrap();
        assert_eq!((opened.serial, opened.content.as_slice()), (7, &b"content"[..]));
        let forged = |path| Err(UnsealError::Forged(path));
        let open = |fleet, secret, name| {
            key(fleet, secret).open(&space(fleet), &client(name), &sealed).map(|entry| entry.serial)
        };
        assert_eq!(open("prod", 2, "laptop"), forged("policy/client/laptop".to_owned()));
        assert_eq!(open("prod", 1, "desktop"), forged("policy/client/desktop".to_owned()));
        assert_eq!(open("test", 1, "laptop"), forged("policy/client/laptop".to_owned()));
    }

    proptest! {
        #[test]
        fn no_changed_bit_opens(content in proptest::collection::vec(any::<u8>(), 0..100), serial: u64, at: usize, bit in 0_u8..8) {
            let (prod, key, path) = (space("prod"), key("prod", 1), client("laptop"));
            let mut sealed = key.seal(&prod, &path, serial, &content).unwrap();
            let opened = key.open(&prod, &path, &sealed).unwrap();
            prop_assert_eq!((opened.serial, opened.content.as_slice()), (serial, content.as_slice()));
            let at = at % sealed.len();
            sealed[at] ^= 1 << bit;
            prop_assert!(key.open(&prod, &path, &sealed).is_err());
            prop_assert!(key.open(&prod, &path, &sealed[..at]).is_err());
        }
    }
}
