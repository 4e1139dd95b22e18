//! A config with its clients' keys, every value checked: what the daemon decides by, and what commands read of it.

use std::path::{Path, PathBuf};

use super::client_keys::{LoadedClient, load_clients};
use super::revoked_keys::RevokedKeys;
use super::{ConfigErrors, ServerConfig, load_trusted};
use crate::console::listed;
use crate::os::host;
use spa_knock_core::auth::{ClientKey, ClientRules, KeyAge, Policy, WatchedKey};
use spa_knock_core::crypto::KeySet;

/// A config whose every value and key has been checked.
pub(crate) struct Setup {
    pub(crate) path: PathBuf,
    pub(crate) config: ServerConfig,
    pub(crate) clients: Vec<LoadedClient>,
    /// Keys of configured clients that are revoked; these clients are not among the others.
    pub(crate) revoked: RevokedKeys,
}

impl Setup {
    /// Reads config and keys.
    ///
    /// # Errors
    /// All that is wrong with them, or another user may write the config.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let config = load_trusted(path)?;
        let clients = load_clients(&config)?;
        let mut setup = Self { path: path.to_owned(), config, clients, revoked: RevokedKeys::default() };
        // At a start what cannot be read is an error, once the gate is closed.
        setup.keep_out(&RevokedKeys::read(&setup.config.state_dir).unwrap_or_default());
        Ok(setup)
    }

    /// A config alone: what it says of the gate and of the daemon.
    pub(crate) fn without_clients(path: &Path, config: ServerConfig) -> Self {
        Self { path: path.to_owned(), config, clients: Vec::new(), revoked: RevokedKeys::default() }
    }

    /// Takes out the clients whose key is revoked, whatever the config names.
    pub(crate) fn keep_out(&mut self, revoked: &RevokedKeys) {
        let kept_out = revoked.still_configured(&self.clients);
        for name in kept_out.drop_from(&mut self.clients) {
            let place = self.config.places.of(&["client", &name]);
            log::warn!(
                "client {name}: its key is revoked, and it stays out\nhint: remove it at {place}, or give it another key: spa-knockd client rotate {name}"
            );
        }
        self.revoked.merge(kept_out);
    }

    /// The ports that only a grant opens, as they are told.
    pub(crate) fn doors(&self) -> String {
        let gated = self.config.gated();
        let doors = gated.iter().chain(&self.config.published).map(ToString::to_string);
        listed(&doors.collect::<Vec<_>>())
    }

    /// The keys of all clients, as the watcher gets them.
    pub(crate) fn watched_keys(&self) -> impl Iterator<Item = WatchedKey> {
        self.clients.iter().flat_map(|client| {
            let limit = client.rules.key_limit.unwrap_or(self.config.key_limit);
            client.key_sets().map(move |keys| WatchedKey::of(keys, limit))
        })
    }

    /// What the keeper decides by.
    pub(crate) fn policy(&self) -> Policy {
        let client = |loaded: &LoadedClient, keys: &KeySet, age, rules| ClientKey {
            name: loaded.name.clone(),
            fingerprint: keys.fingerprint,
            keys: keys.keeper(),
            age,
            otp: loaded.otp.clone(),
            rules,
        };
        let with_all_keys = |loaded: &LoadedClient| {
            let rules = &loaded.rules;
            let previous = loaded.previous.as_ref().map(|(keys, until)| {
                let expires = rules.expires.map_or(*until, |expires| expires.min(*until));
                let rules = ClientRules { expires: Some(expires), ..rules.clone() };
                client(loaded, keys, KeyAge::Previous, rules)
            });
            let current = client(loaded, &loaded.keys, KeyAge::Current, rules.clone());
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
