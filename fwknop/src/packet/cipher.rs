//! Encryption: AES-256-CBC with a key and an initialization vector derived from a passphrase and a salt, as
//! `openssl enc -aes-256-cbc -md md5 -salt` has it (EVP_BytesToKey with MD5 and one iteration).

use aes::Aes256;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

use super::armor::PREFIX;
use super::text::{decode, encode};
use super::{HmacKey, WireText};

/// Maximum length of a key in bytes.
pub const CIPHER_KEY_MAX: usize = 32;
/// Length of a salt in bytes.
pub const SALT_LEN: usize = 8;
/// The first bytes of OpenSSL's format.
const MAGIC: &[u8; 8] = b"Salted__";
const BLOCK: usize = 16;

/// What packets are encrypted with: a passphrase of at most 32 bytes. It is wiped on drop and has no `Debug`.
pub struct CipherKey(Zeroizing<Vec<u8>>);

/// A key is longer than fwknop can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("longer than {CIPHER_KEY_MAX} bytes")]
pub struct KeyTooLong;

impl CipherKey {
    /// A key of 0 to 32 bytes.
    ///
    /// # Errors
    /// When it is longer.
    pub fn new(key: &[u8]) -> Result<Self, KeyTooLong> {
        if key.len() > CIPHER_KEY_MAX { Err(KeyTooLong) } else { Ok(Self(Zeroizing::new(key.to_vec()))) }
    }

    /// Whether this is the same secret as another one; fwknop refuses the same key for both purposes.
    #[must_use]
    pub fn is(&self, other: &[u8]) -> bool {
        self.as_bytes() == other
    }

    /// The key itself.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Decrypts what [`HmacKey::verify`] returned. None if it was not encrypted in this way under this key, or is not
    /// printable ASCII.
    #[must_use]
    pub fn open(&self, sealed: &str) -> Option<Zeroizing<String>> {
        let bytes = decode(format!("{PREFIX}{sealed}"))?;
        let (salt, ciphertext) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<SALT_LEN>()?;
        let (key, iv) = self.derive(salt);
        let decryptor = cbc::Decryptor::<Aes256>::new((&*key).into(), (&*iv).into());
        let mut text = Zeroizing::new(ciphertext.to_vec());
        let length = decryptor.decrypt_padded::<Pkcs7>(&mut text).ok()?.len();
        text.truncate(length);
        let printable = text.iter().all(|byte| matches!(byte, b' '..=b'~'));
        printable
            .then(|| std::str::from_utf8(&text).ok().map(|text| Zeroizing::new(text.to_owned())))
            .flatten()
    }

    /// Encrypts and authenticates a text: the payload of a packet. `salt` must be random.
    #[must_use]
    pub fn seal(&self, text: &str, salt: &[u8; SALT_LEN], hmac_key: &HmacKey) -> String {
        let (key, iv) = self.derive(salt);
        let encryptor = cbc::Encryptor::<Aes256>::new((&*key).into(), (&*iv).into());
        let mut bytes = [MAGIC.as_slice(), salt].concat();
        bytes.extend(encryptor.encrypt_padded_vec::<Pkcs7>(text.as_bytes()));
        WireText::join(&encode(bytes), hmac_key)
    }

    /// EVP_BytesToKey: D1 = MD5(key ‖ salt), Dn = MD5(Dn-1 ‖ key ‖ salt); D1 ‖ D2 is the key, D3 the initialization
    /// vector.
    fn derive(&self, salt: &[u8; SALT_LEN]) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; BLOCK]>) {
        let digest = |previous: &[u8]| -> Zeroizing<[u8; BLOCK]> {
            let hash = Md5::new().chain_update(previous).chain_update(&self.0).chain_update(salt);
            Zeroizing::new(hash.finalize().into())
        };
        let first = digest(&[]);
        let second = digest(&*first);
        let iv = digest(&*second);
        let mut key = Zeroizing::new([0; 32]);
        let (left, right) = key.split_at_mut(BLOCK);
        left.copy_from_slice(&*first);
        right.copy_from_slice(&*second);
        (key, iv)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_vector_are_derived_as_openssl_does() {
        let key = CipherKey::new(b"fwknoptest").unwrap();
        let (key, iv) = key.derive(&[0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&*key), "075a3342ea600b0930061e8686292aa36d7316fcb598a9a192194ffb675288db");
        assert_eq!(hex(&*iv), "ff8df60b072e19ddca17cbf2e32823ba");
    }

    #[test]
    fn a_key_has_at_most_32_bytes() {
        assert!(CipherKey::new(&[7; 32]).is_ok());
        assert_eq!(CipherKey::new(&[7; 33]).err(), Some(KeyTooLong));
    }
}
