//! A digest of what each client is allowed to do, to compare two servers that should have the same policy. Contains no
//! secret: keys appear only by their fingerprints.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use super::client_keys::LoadedClient;
use super::setup::Setup;
use spa_knock_core::crypto::checksum_hex;

/// The first word of the text. Digests of another version of this program can differ although the policies are equal.
const TITLE: &str = "spa-knock-policy";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// More lines than any server has clients and actions.
const LINES_MAX: usize = 100_000;

/// The digest of each part of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyDigest {
    version: String,
    parts: BTreeMap<PolicyPart, String>,
}

/// A part of a policy, by its kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PolicyPart {
    /// What `[server]`, `[ports]` and `[firewall]` specify for knocks and ports.
    Server,
    Action(String),
    Client(String),
}

/// How two policies differ in a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyDifference {
    OnlyHere,
    OnlyThere,
    Changed,
}

impl PolicyDigest {
    /// The digest of this server's policy.
    pub(crate) fn of(setup: &Setup) -> Self {
        let config = &setup.config;
        let server = (
            (&config.id, config.port, config.window, config.reply, config.ports, config.key_limit),
            (config.backend, &config.protect, &config.published),
        );
        let actions = config
            .actions
            .iter()
            .map(|(name, action)| (PolicyPart::Action(name.to_string()), digest(action)));
        let clients = setup
            .clients
            .iter()
            .map(|client| (PolicyPart::Client(client.name.to_string()), digest(&outline(client))));
        let parts = std::iter::once((PolicyPart::Server, digest(&server))).chain(actions).chain(clients);
        Self { version: VERSION.to_owned(), parts: parts.collect() }
    }

    /// One digest of all that the members of a fleet must have in common: without the clients that only this server has.
    #[cfg(feature = "fleet")]
    pub(crate) fn of_fleet(setup: &Setup) -> String {
        let fleet = super::fleet_folder(&setup.config.state_dir);
        let is_common = |part: &PolicyPart| match part {
            PolicyPart::Server | PolicyPart::Action(_) => true,
            PolicyPart::Client(name) => {
                let entry = setup.config.clients.iter().find(|(client, _)| client.as_str() == name);
                entry.is_some_and(|(_, entry)| entry.defined_in.starts_with(&fleet))
            }
        };
        let mut digest = Self::of(setup);
        digest.parts.retain(|part, _| is_common(part));
        checksum_hex(&[digest.to_string().as_bytes()])
    }

    /// Reads what `Display` writes; the error is the reason.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().enumerate();
        let version = lines.next().and_then(|(_, line)| line.strip_prefix(TITLE)).map(str::trim);
        let Some(version) = version.filter(|version| !version.is_empty()) else {
            return Err("not a policy".to_owned());
        };
        let mut parts = BTreeMap::new();
        for (index, line) in lines.take(LINES_MAX) {
            let words: Vec<_> = line.split(' ').collect();
            let (part, value) = match words.as_slice() {
                ["server", value] => (PolicyPart::Server, *value),
                ["action", name, value] => (PolicyPart::Action((*name).to_owned()), *value),
                ["client", name, value] => (PolicyPart::Client((*name).to_owned()), *value),
                _ => return Err(format!("line {}: not a part of a policy", index.saturating_add(1))),
            };
            parts.insert(part, value.to_owned());
        }
        if !parts.contains_key(&PolicyPart::Server) {
            return Err("incomplete".to_owned());
        }
        Ok(Self { version: version.to_owned(), parts })
    }

    /// The version of the program that has made it, if it is not this one.
    pub(crate) fn other_version(&self) -> Option<&str> {
        (self.version != VERSION).then_some(&self.version)
    }

    /// Where the other policy differs from this one.
    pub(crate) fn differences(&self, other: &Self) -> Vec<(PolicyPart, PolicyDifference)> {
        let here = self.parts.iter().filter_map(|(part, value)| match other.parts.get(part) {
            Some(there) if there == value => None,
            Some(_) => Some((part.clone(), PolicyDifference::Changed)),
            None => Some((part.clone(), PolicyDifference::OnlyHere)),
        });
        let missing = other.parts.keys().filter(|part| !self.parts.contains_key(part));
        here.chain(missing.map(|part| (part.clone(), PolicyDifference::OnlyThere))).collect()
    }
}

impl Display for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE} {}", self.version)?;
        self.parts.iter().try_for_each(|(part, value)| writeln!(f, "{part} {value}"))
    }
}

impl Display for PolicyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("server"),
            Self::Action(name) => write!(f, "action {name}"),
            Self::Client(name) => write!(f, "client {name}"),
        }
    }
}

/// What a client is allowed to do and who it is, without the paths of its files.
fn outline(client: &LoadedClient) -> impl fmt::Debug {
    let signing = client.signing.as_ref().map(|(key, touch)| (key.fingerprint().to_string(), *touch));
    let previous = client.previous.as_ref().map(|previous| {
        let public_key = previous.public_key.as_ref().map(|key| key.fingerprint().to_string());
        (previous.keys.fingerprint, previous.until, public_key)
    });
    let otp = client.otp.as_ref().map(|seed| seed.fingerprint());
    (client.rules.clone(), client.keys.fingerprint, otp, signing, previous)
}

/// The digest of a value's debug text: it contains every field, also those that a later version adds.
fn digest(value: &impl fmt::Debug) -> String {
    checksum_hex(&[format!("{value:?}").as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> PolicyDigest {
        PolicyDigest::parse(text).unwrap()
    }

    #[test]
    fn a_text_that_is_no_policy_is_refused_with_the_reason() {
        let cases = [
            ("", "not a policy"),
            ("spa-knock-policy", "not a policy"),
            ("[server]\nid = 'a'\n", "not a policy"),
            ("spa-knock-policy 1\n", "incomplete"),
            ("spa-knock-policy 1\nserver 0\nclient a\n", "line 3: not a part of a policy"),
            ("spa-knock-policy 1\nserver 0\ndoor a 0\n", "line 3: not a part of a policy"),
        ];
        for (text, reason) in cases {
            assert_eq!(PolicyDigest::parse(text), Err(reason.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_differences_of_two_policies_name_their_parts() {
        let here = policy("spa-knock-policy 1\nserver 0\naction a 1\naction b 2\nclient a 3\nclient b 4\n");
        let there = policy("spa-knock-policy 1\nserver 9\naction a 1\nclient a 5\nclient b 4\nclient c 6\n");
        let found: Vec<_> = here
            .differences(&there)
            .into_iter()
            .map(|(part, difference)| format!("{part}: {difference:?}"))
            .collect();
        assert_eq!(
            found,
            ["server: Changed", "action b: OnlyHere", "client a: Changed", "client c: OnlyThere"]
        );
        assert!(here.differences(&here).is_empty());
        assert_eq!(policy(&here.to_string()), here);
    }
}
