//! The only place that names a cryptographic library: secrets, the key schedule, tags, sealing, key files.

mod example;
mod keyfile;
mod mac;
mod otp;
mod random;
mod schedule;
mod seal;
mod secret;
mod token;

pub use keyfile::{Holder, KeyFile, KeyFileError, is_host};
pub use mac::{MacKey, Tag, checksum};
pub use otp::{OtpDigits, OtpFileError, OtpHash, OtpSeed, OtpStep};
pub use random::{RandomFailed, random};
pub use schedule::{ClientKeys, Fingerprint, KeeperKeys, KeySet, PairSecret, RootSecret, WatcherKeys};
pub use seal::{AEAD_TAG, NONCE, Nonce, NotSealed, SealKey};
pub use secret::Secret;
pub use token::TokenError;
