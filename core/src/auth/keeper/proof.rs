//! A port sequence as the keeper checks it: its step is good now, and its last six ports prove who asks for what.

use std::net::SocketAddr;

use super::replay::KnockId;
use crate::auth::policy::ClientKey;
use crate::crypto::Fingerprint;
use crate::knock::{
    ActionName, AddressPolicy, Argument, Knock, KnockRange, ReplyWanted, TimeStep, Timestamp,
};
use crate::wire::proof;

/// Ports that one address has touched, two of which name a client in a step. Says nothing about the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSequence {
    pub(in crate::auth) fingerprint: Fingerprint,
    pub(in crate::auth) step: TimeStep,
    pub(in crate::auth) source: SocketAddr,
    pub(in crate::auth) ports: Vec<u16>,
}

/// Ports that only who has the client's key could choose, in a step that is good now.
pub(in crate::auth) struct ProvenSequence {
    id: KnockId,
    knock: Knock,
}

impl PortSequence {
    /// Takes the watcher's word for where packets came from and went to. Whom they name is looked at again: the
    /// keeper believes nothing but the proof.
    #[must_use]
    pub const fn from_watcher(
        fingerprint: Fingerprint,
        step: TimeStep,
        source: SocketAddr,
        ports: Vec<u16>,
    ) -> Self {
        Self { fingerprint, step, source, ports }
    }

    /// Whom they name.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// In which step.
    #[must_use]
    pub const fn step(&self) -> TimeStep {
        self.step
    }

    /// Where the packet came from that completed them.
    #[must_use]
    pub const fn source(&self) -> SocketAddr {
        self.source
    }

    /// The ports, each once.
    #[must_use]
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// What these ports ask for: of all that `client` may do, for the address that they came from or for any.
    pub(in crate::auth) fn prove(
        &self,
        client: &ClientKey,
        knock_range: KnockRange,
        now: Timestamp,
    ) -> Vec<ProvenSequence> {
        // In place of step 5: a watcher that holds ports back does not make them good for longer.
        if !self.step.is_good_at(TimeStep::of(now)) {
            return Vec::new();
        }
        let actions = client.rules.allow.iter();
        let asked = actions.flat_map(|action| {
            [AddressPolicy::Exact, AddressPolicy::Observed].map(|policy| (action, policy))
        });
        asked.filter_map(|(action, policy)| self.prove_one(client, knock_range, action, policy)).collect()
    }

    fn prove_one(
        &self,
        client: &ClientKey,
        knock_range: KnockRange,
        action: &ActionName,
        policy: AddressPolicy,
    ) -> Option<ProvenSequence> {
        let address = (policy == AddressPolicy::Exact).then_some(self.source.ip());
        let proof = proof(&client.keys.proof, self.step, address, action, knock_range);
        // Not in constant time: who touches ports learns nothing from when nothing happens.
        if !proof.ports.iter().all(|port| self.ports.contains(port)) {
            return None;
        }
        let knock = Knock {
            timestamp: self.step.begin(),
            reply: ReplyWanted::No,
            seconds: 0,
            otp: None,
            policy,
            ipv4: None,
            ipv6: None,
            action: action.clone(),
            argument: Argument::none(),
        };
        Some(ProvenSequence { id: proof.id, knock })
    }
}

impl ProvenSequence {
    pub(in crate::auth) const fn id(&self) -> &KnockId {
        &self.id
    }

    pub(in crate::auth) const fn knock(&self) -> &Knock {
        &self.knock
    }
}
