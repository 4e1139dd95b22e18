//! A checked config with the loaded keys of its clients, for the daemon and for commands.

use std::path::{Path, PathBuf};

use super::client_keys::{LoadedClient, PreviousKeys, load_clients};
use super::revoked_keys::RevokedKeys;
use super::{ConfigErrors, ServerConfig, load_trusted};
use crate::console::{listed, own_command};
use crate::os::host;
use spa_knock_core::auth::{ClientKey, ClientRules, KeyAge, Policy, SshSigner, WatchedKey};
use spa_knock_core::crypto::KeySet;
use spa_knock_core::crypto::ssh::PublicKey;

/// A config in which all values and keys have been checked.
pub(crate) struct Setup {
    pub(crate) path: PathBuf,
    pub(crate) config: ServerConfig,
    pub(crate) clients: Vec<LoadedClient>,
    /// Revoked keys of configured clients. Clients whose current key is revoked are not in `clients`.
    pub(crate) revoked: RevokedKeys,
}

impl Setup {
    /// Loads the config and all keys, and removes clients whose key is revoked.
    ///
    /// # Errors
    /// All problems of config and keys, including files that another user can write to.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let config = load_trusted(path)?;
        #[cfg(feature = "fleet")]
        for problem in &config.left_out {
            log::warn!("{problem}; the client of the fleet is left out");
        }
        let clients = load_clients(&config)?;
        let mut setup = Self { path: path.to_owned(), config, clients, revoked: RevokedKeys::default() };
        // A list that cannot be read is ignored here; the daemon reports it at startup, after the gate is closed.
        setup.remove_revoked(&RevokedKeys::read(&setup.config.state_dir).unwrap_or_default());
        Ok(setup)
    }

    /// A config without clients, for commands that need only the gate or the daemon.
    pub(crate) fn without_clients(path: &Path, config: ServerConfig) -> Self {
        Self { path: path.to_owned(), config, clients: Vec::new(), revoked: RevokedKeys::default() }
    }

    /// Removes clients whose key is revoked although the config names them.
    pub(crate) fn remove_revoked(&mut self, revoked: &RevokedKeys) {
        let revoked = revoked.still_configured(&self.clients);
        for name in revoked.drop_from(&mut self.clients) {
            let place = self.config.places.of(&["client", &name]);
            log::warn!(
                "client {name}: its key is revoked, so its knocks are refused\nhint: remove the client at {place}, or give it a new key: {}",
                own_command(&format!("client rotate {name}"))
            );
        }
        self.revoked.merge(revoked);
    }

    /// The protected ports, formatted for messages.
    pub(crate) fn protected_ports(&self) -> String {
        let gated = self.config.gated();
        let ports = gated.iter().chain(&self.config.published).map(ToString::to_string);
        listed(&ports.collect::<Vec<_>>())
    }

    /// The keys of all clients that are sent to the watcher.
    pub(crate) fn watched_keys(&self) -> impl Iterator<Item = WatchedKey> {
        self.clients.iter().flat_map(|client| {
            let limit = client.rules.key_limit.unwrap_or(self.config.key_limit);
            client.key_sets().map(move |keys| WatchedKey::of(keys, limit))
        })
    }

    /// The policy by which the keeper judges knocks.
    pub(crate) fn policy(&self) -> Policy {
        let signer = |loaded: &LoadedClient, previous: Option<&PublicKey>| {
            let (current, touch) = loaded.signing.as_ref()?;
            Some(SshSigner {
                public_key: previous.unwrap_or(current).clone(),
                touch: *touch,
                limit: loaded.rules.key_limit.unwrap_or(self.config.key_limit),
            })
        };
        let client = |loaded: &LoadedClient, keys: &KeySet, age, signer, rules| ClientKey {
            name: loaded.name.clone(),
            fingerprint: keys.fingerprint,
            keys: keys.keeper(),
            signer,
            age,
            otp: loaded.otp.clone(),
            rules,
        };
        let with_all_keys = |loaded: &LoadedClient| {
            let rules = &loaded.rules;
            let previous = loaded.previous.as_ref().map(|PreviousKeys { keys, until, public_key }| {
                let expires = rules.expires.map_or(*until, |expires| expires.min(*until));
                let rules = ClientRules { expires: Some(expires), ..rules.clone() };
                client(loaded, keys, KeyAge::Previous, signer(loaded, public_key.as_ref()), rules)
            });
            let current = client(loaded, &loaded.keys, KeyAge::Current, signer(loaded, None), rules.clone());
            std::iter::once(current).chain(previous).collect::<Vec<_>>()
        };
        Policy {
            window: self.config.window,
            reply: self.config.reply,
            knock_range: self.config.ports,
            own_addresses: host::own_addresses(),
            actions: self.config.actions.clone(),
            clients: self.clients.iter().flat_map(with_all_keys).collect(),
        }
    }
}
