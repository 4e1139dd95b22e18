//! The only module that uses cryptographic libraries: secrets, the key schedule, tags, encryption, key files.

mod formats;
mod mac;
mod random;
mod schedule;
mod seal;
mod secret;
pub mod ssh;

pub use formats::keyfile::{KeyFile, KeyFileError, KeyOwner, is_host};
pub use formats::otp::{OtpDigits, OtpFileError, OtpHash, OtpSeed, OtpStep};
pub use formats::token::TokenError;
pub use mac::{MacKey, Tag, checksum, checksum_hex};
pub use random::{RandomError, random};
pub use schedule::{
    ClientKeys, Fingerprint, KeeperKeys, KeySet, PairSecret, PortKeys, ReplyKey, RootSecret, WatcherKeys,
};
pub use seal::{AEAD_TAG, DecryptionFailed, NONCE, Nonce, SealKey};
pub use secret::Secret;
