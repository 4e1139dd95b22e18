//! Checks a port sequence in the keeper: its time step must be valid now, and its last six ports must prove client and
//! action.

use std::net::SocketAddr;

use super::replay::KnockId;
use crate::auth::policy::ClientKey;
use crate::crypto::Fingerprint;
use crate::knock::{
    ActionName, AddressPolicy, Argument, Knock, KnockRange, ReplyWanted, TimeStep, Timestamp,
};
use crate::wire::proof;

/// Ports that one address has hit, two of which identify a client in a time step. The other ports are not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSequence {
    pub(in crate::auth) fingerprint: Fingerprint,
    pub(in crate::auth) step: TimeStep,
    pub(in crate::auth) source: SocketAddr,
    pub(in crate::auth) ports: Vec<u16>,
}

/// Ports that only a holder of the client's key could choose, in a time step that is valid now.
pub(in crate::auth) struct ProvenSequence {
    id: KnockId,
    knock: Knock,
}

impl PortSequence {
    /// Accepts the watcher's claim about the source and the ports of packets. The keeper verifies the client itself: it
    /// trusts nothing but the proof.
    #[must_use]
    pub const fn from_watcher(
        fingerprint: Fingerprint,
        step: TimeStep,
        source: SocketAddr,
        ports: Vec<u16>,
    ) -> Self {
        Self { fingerprint, step, source, ports }
    }

    /// The key that the ports identify.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The time step in which they identify it.
    #[must_use]
    pub const fn step(&self) -> TimeStep {
        self.step
    }

    /// The source of the packet that completed the sequence.
    #[must_use]
    pub const fn source(&self) -> SocketAddr {
        self.source
    }

    /// The ports, each once.
    #[must_use]
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The knocks that these ports prove: for any action allowed to `client`, *exact* or *observed*.
    pub(in crate::auth) fn prove(
        &self,
        client: &ClientKey,
        knock_range: KnockRange,
        now: Timestamp,
    ) -> Vec<ProvenSequence> {
        // Replaces step 5: ports that a watcher holds back do not stay valid for longer.
        if !self.step.is_valid_at(TimeStep::of(now)) {
            return Vec::new();
        }
        let actions = client.rules.allow.iter();
        let candidates = actions.flat_map(|action| {
            [AddressPolicy::Exact, AddressPolicy::Observed].map(|policy| (action, policy))
        });
        candidates
            .filter_map(|(action, policy)| self.prove_one(client, knock_range, action, policy))
            .collect()
    }

    fn prove_one(
        &self,
        client: &ClientKey,
        knock_range: KnockRange,
        action: &ActionName,
        policy: AddressPolicy,
    ) -> Option<ProvenSequence> {
        let address = (policy == AddressPolicy::Exact).then_some(self.source.ip());
        let proof = proof(client.keys.proof.as_ref()?, self.step, address, action, knock_range);
        // Not in constant time: a sender of port hits gets no response whose time could be measured.
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
