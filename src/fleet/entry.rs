//! A client of the fleet as it is in the store: the text of its file in `clients.d` and of its key files, sealed with the
//! fleet key.

use serde::{Deserialize, Serialize};
use spa_knock_core::knock::ClientName;
use zeroize::Zeroizing;

/// The files of a client.
#[derive(Serialize, Deserialize)]
pub(crate) struct ClientEntryFiles {
    /// The text of `clients.d/NAME.toml`.
    pub(crate) definition: String,
    /// The name of each file in the keys directory, and its text.
    pub(crate) keys: Vec<(String, Zeroizing<String>)>,
}

impl ClientEntryFiles {
    /// The content to seal.
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        super::ipc::to_bytes(self)
    }

    /// Reads the content of an entry. The names of key files are plain file names that begin with the client's.
    pub(crate) fn read(client: &ClientName, content: &[u8]) -> Option<Self> {
        let entry: Self = serde_json::from_slice(content).ok()?;
        let is_own = |file: &str| {
            let rest = file.strip_prefix(client.as_str());
            rest.is_some_and(|rest| {
                rest.starts_with('.') && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
            })
        };
        entry.keys.iter().all(|(file, _)| is_own(file)).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_only_files_of_its_own_client() {
        let client: ClientName = "laptop".parse().unwrap();
        let entry = |file: &str| ClientEntryFiles {
            definition: "[client.laptop]\n".to_owned(),
            keys: vec![(file.to_owned(), Zeroizing::new("key".to_owned()))],
        };
        for file in ["laptop.key", "laptop.2.key", "laptop.otp"] {
            let read = ClientEntryFiles::read(&client, &entry(file).to_bytes()).unwrap();
            assert_eq!((read.keys[0].0.as_str(), read.keys[0].1.as_str()), (file, "key"));
        }
        for file in ["../laptop.key", "laptop/../x", "laptop.key/x", "other.key", "laptopx.key", ""] {
            assert!(ClientEntryFiles::read(&client, &entry(file).to_bytes()).is_none(), "{file}");
        }
        assert!(ClientEntryFiles::read(&client, b"{}").is_none());
    }
}
