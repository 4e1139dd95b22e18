//! The policy of a server for port sequences, for their tests and the benchmark.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each uses a part")]

use std::collections::BTreeSet;
use std::time::Duration;

use spa_knock_core::auth::{Action, ActionPart, ClientKey, ClientRules, KeyAge, Policy, Term, Uses};
use spa_knock_core::crypto::{KeySet, PairSecret, Secret};
use spa_knock_core::knock::{AddressPolicy, KnockRange, PrefixLengths};

/// The keys of a secret for the server `bastion`.
pub(crate) fn keys(secret: [u8; 32]) -> KeySet {
    PairSecret::new(Secret::from_bytes(&secret)).keys(&"bastion".parse().unwrap())
}

/// A part that opens these ports.
pub(crate) fn open(ports: &str) -> ActionPart {
    ActionPart::Open { ports: vec![ports.parse().unwrap()], uses: Uses::Many }
}

/// A client that may use these actions from any address, as often as it likes.
pub(crate) fn client(name: &str, keys: &KeySet, allow: &[&str]) -> ClientKey {
    ClientKey {
        name: name.parse().unwrap(),
        fingerprint: keys.fingerprint,
        keys: keys.keeper(),
        signer: None,
        age: KeyAge::Current,
        otp: None,
        rules: ClientRules {
            allow: allow.iter().map(|action| action.parse().unwrap()).collect(),
            sources: BTreeSet::from([AddressPolicy::Exact, AddressPolicy::Observed]),
            grant_prefix: PrefixLengths::SINGLE,
            rate: None,
            expires: None,
            uses: None,
            key_limit: None,
            grants: 64,
        },
    }
}

/// A policy with these actions, each with one part and a duration of 30 s, and these clients.
pub(crate) fn policy(
    actions: impl IntoIterator<Item = (&'static str, ActionPart)>,
    clients: impl IntoIterator<Item = ClientKey>,
) -> Policy {
    let term = Some(Term { usual: Duration::from_secs(30), max: Duration::from_secs(60) });
    let action = |part| Action { parts: vec![part], term };
    Policy {
        window: Duration::from_secs(30),
        reply: true,
        knock_range: Some(KnockRange::USUAL),
        own_addresses: BTreeSet::new(),
        actions: actions.into_iter().map(|(name, part)| (name.parse().unwrap(), action(part))).collect(),
        clients: clients.into_iter().collect(),
    }
}
