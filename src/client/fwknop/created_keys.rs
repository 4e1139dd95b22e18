//! `--key-gen`: creates an encryption key and an HMAC key.

use std::path::Path;

use spa_knock_core::crypto::random;
use spa_knock_fwknop::{ClientOptions, KeyBytes};
use zeroize::Zeroizing;

use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::{Reporter, print};
use crate::os::env;
use crate::os::files::{self, FileMode};

/// The longest key in bytes.
const KEY_MAX: usize = 128;

/// Two new keys.
pub(super) struct CreatedKeys {
    key: KeyBytes,
    hmac_key: KeyBytes,
}

impl CreatedKeys {
    /// Creates keys of these lengths in bytes.
    pub(super) fn new(key_len: u8, hmac_key_len: u8) -> Result<Self, ClientError> {
        Ok(Self { key: new_key(key_len)?, hmac_key: new_key(hmac_key_len)? })
    }

    /// The keys as options of a stanza.
    pub(super) fn options(&self) -> ClientOptions {
        ClientOptions {
            key: Some(self.key.clone()),
            hmac_key: Some(self.hmac_key.clone()),
            ..ClientOptions::default()
        }
    }

    /// Writes them to a file that does not exist yet, else to standard output.
    pub(super) fn write(&self, path: Option<&Path>) -> Result<(), ClientError> {
        // Reserves enough room: a growing string would leave copies of the keys in memory.
        let mut text = Zeroizing::new(String::with_capacity(512));
        for (variable, key) in [("KEY_BASE64", &self.key), ("HMAC_KEY_BASE64", &self.hmac_key)] {
            for part in [variable, ": ", &key.to_base64(), "\n"] {
                text.push_str(part);
            }
        }
        let Some(path) = path else { return print(text.as_bytes()) };
        let path = &*if cfg!(windows) { env::expanded(path) } else { path.to_owned() };
        files::create_whole(path, FileMode::Private, text.as_bytes())?;
        Reporter::PLAIN.note(&format!(
            "key file {}: written\nhint: copy both lines into a stanza of ~/.fwknoprc, and into the stanza of the \
             server's access.conf",
            path.display()
        ));
        Ok(())
    }
}

fn new_key(length: u8) -> Result<KeyBytes, ClientError> {
    let bytes = random::<KEY_MAX>().map_err(|error| ClientError::new(ExitCause::Files, error.to_string()))?;
    let bytes = Zeroizing::new(bytes);
    Ok(KeyBytes::from_bytes(bytes.get(..length.into()).unwrap_or_default()))
}
