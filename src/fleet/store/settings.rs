//! The settings that the keeper sends before anything else.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::fleet::ipc::{self, SecretText, StartSettings, TlsPart, ToStore};
use crate::os::process::privileges::Identity;
use spa_knock_fleet::MemberName;
use spa_knock_fleet::claim::Claimant;
use spa_knock_fleet::client::{Endpoint, Login, StoreClient, TlsIdentity};
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::rollback::StoreMark;

/// The messages received so far.
#[derive(Default)]
pub(super) struct SettingsMessages {
    endpoints: Vec<Endpoint>,
    ca: Option<SecretText>,
    certificate: Option<SecretText>,
    key: Option<SecretText>,
    login: Option<Login>,
}

/// Complete settings.
pub(super) struct StoreSettings {
    pub(super) space: KeySpace,
    pub(super) member: MemberName,
    pub(super) boot: [u8; 16],
    pub(super) window: Duration,
    /// The version of this program, as other members see it.
    pub(super) version: String,
    /// The user to become; none = keep the user.
    pub(super) identity: Option<Identity>,
    /// The ports of the endpoints.
    pub(super) ports: Vec<u16>,
    client: Option<StoreClient>,
}

impl SettingsMessages {
    /// Adds one message.
    ///
    /// # Errors
    /// If it is not a setting, or not a valid one.
    pub(super) fn add(&mut self, message: ToStore) -> Result<(), String> {
        match message {
            ToStore::Endpoint { url, addresses } => {
                self.endpoints.push(Endpoint::new(&url, &addresses).map_err(|error| error.to_string())?);
            }
            ToStore::Tls(TlsPart::Ca, text) => self.ca = Some(text),
            ToStore::Tls(TlsPart::Certificate, text) => self.certificate = Some(text),
            ToStore::Tls(TlsPart::Key, text) => self.key = Some(text),
            ToStore::Login { user, password: SecretText(password) } => {
                self.login = Some(Login { user, password });
            }
            ToStore::Start(_)
            | ToStore::Claim(_)
            | ToStore::Publish { .. }
            | ToStore::Withdraw { .. }
            | ToStore::Describe { .. } => return Err(super::invalid_message()),
        }
        Ok(())
    }

    /// The settings, once they are complete.
    ///
    /// # Errors
    /// If they are not, or certificate and key are unusable.
    pub(super) fn complete(self, start: &StartSettings) -> Result<StoreSettings, String> {
        let fleet = start.fleet.parse().map_err(|_| super::invalid_message())?;
        let member = start.member.parse().map_err(|_| super::invalid_message())?;
        let boot = ipc::array_from_hex(&start.boot).ok_or_else(super::invalid_message)?;
        let mark: Option<Result<StoreMark, _>> = start.mark.as_ref().map(|text| text.parse());
        let mark = mark.transpose().map_err(|error| format!("store process: {error}"))?;
        let empty = || SecretText(Zeroizing::default());
        let pem = [self.ca, self.certificate, self.key];
        let tls = if pem.iter().all(Option::is_none) {
            None
        } else {
            let [ca, certificate, key] = pem.map(|part| part.unwrap_or_else(empty));
            let [ca, certificate, key] = [&ca, &certificate, &key].map(|part| part.0.as_bytes());
            Some(TlsIdentity::from_pem(ca, certificate, key).map_err(|error| error.to_string())?)
        };
        let mut ports: Vec<_> =
            self.endpoints.iter().flat_map(Endpoint::addresses).map(std::net::SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        let client = StoreClient::new(self.endpoints, tls.as_ref(), self.login.as_ref(), mark);
        Ok(StoreSettings {
            space: KeySpace::new(&fleet),
            member,
            boot,
            window: Duration::from_millis(start.window_ms),
            version: start.version.clone(),
            identity: start.user.map(|(uid, gid)| Identity { uid, gid }),
            ports,
            client: Some(client),
        })
    }
}

impl StoreSettings {
    /// The client of the store; one without endpoints, if it was taken before.
    pub(super) fn take_client(&mut self) -> StoreClient {
        self.client.take().unwrap_or_else(|| StoreClient::new(Vec::new(), None, None, None))
    }

    /// Who claims.
    pub(super) fn claimant(&self) -> Claimant {
        Claimant { member: self.member.clone(), boot: self.boot }
    }
}

/// The key of the store that a key without the fleet's prefix means.
pub(super) fn prefixed(space: &KeySpace, key: &str) -> Option<StoreKey> {
    let floor = StoreKey::Floor;
    let path = space.path(&floor);
    let prefix = path.strip_suffix(&floor.to_string())?;
    space.parse(format!("{prefix}{key}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> StartSettings {
        StartSettings {
            fleet: "prod".to_owned(),
            member: "a".to_owned(),
            boot: "07".repeat(16),
            window_ms: 30_000,
            mark: None,
            user: Some((1, 2)),
            version: "0.1.0".to_owned(),
        }
    }

    fn endpoint(url: &str, addresses: &[&str]) -> ToStore {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        ToStore::Endpoint { url: url.to_owned(), addresses }
    }

    #[test]
    fn the_sandbox_permits_each_port_of_the_endpoints_once() {
        let mut messages = SettingsMessages::default();
        for (url, address) in [
            ("https://a.example:2379", "192.0.2.1:1"),
            ("https://b.example:2379", "192.0.2.2:1"),
            ("https://c.example:4001", "[2001:db8::1]:1"),
        ] {
            messages.add(endpoint(url, &[address])).unwrap();
        }
        let settings = messages.complete(&start()).unwrap();
        assert_eq!(settings.ports, [2379, 4001]);
        assert_eq!(settings.identity, Some(Identity { uid: 1, gid: 2 }));
        assert_eq!((settings.window, settings.boot), (Duration::from_secs(30), [7; 16]));
    }

    #[test]
    fn unusable_settings_are_errors() {
        let changes: [fn(&mut StartSettings); 4] = [
            |start| start.fleet = "../x".to_owned(),
            |start| start.member.clear(),
            |start| start.boot = "07".to_owned(),
            |start| start.mark = Some("1 2".to_owned()),
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut start = start();
            change(&mut start);
            assert!(SettingsMessages::default().complete(&start).is_err(), "{index}");
        }
        let mut messages = SettingsMessages::default();
        assert!(
            messages.add(endpoint("https://a.example:2379", &[])).unwrap_err().contains("has no address")
        );
        assert!(messages.add(ToStore::Withdraw { ids: Vec::new() }).is_err());
        messages.add(ToStore::Tls(TlsPart::Ca, SecretText(Zeroizing::new("x".to_owned())))).unwrap();
        let error = messages.complete(&start()).err().unwrap();
        assert!(error.starts_with("cert: "), "{error}");
    }

    #[test]
    fn keys_are_those_of_the_fleet() {
        let space = KeySpace::new(&"prod".parse().unwrap());
        assert_eq!(prefixed(&space, "floor"), Some(StoreKey::Floor));
        for other in ["", "../floor", "/spa-knock/1/prod/floor", "floor/"] {
            assert_eq!(prefixed(&space, other), None, "{other}");
        }
    }
}
