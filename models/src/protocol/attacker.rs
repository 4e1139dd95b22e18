//! What the attacker can send: every combination of what was on the wire, and of what they can make with the keys that
//! they have. What no server accepts is left out by the model, because it changes nothing.

use std::collections::BTreeSet;

use super::message::{
    Body, KeyName, KnockMessage, Label, Nonce, ReplyMessage, Sealed, Server, Signature, Tag, Version,
};
use super::setting::{Setting, Stolen};
use super::{ACTIONS, KNOCKS, State};

/// A nonce of the attacker.
const OWN: Nonce = 9;

impl Setting {
    /// Every knock that the attacker can send.
    pub(super) fn knocks_of_attacker(&self, state: &State) -> Vec<KnockMessage> {
        let seen: Vec<&KnockMessage> = state.sent.iter().map(|(_, knock)| knock).collect();
        let mut hints: BTreeSet<KeyName> = seen.iter().map(|knock| knock.hint).collect();
        hints.extend(self.known(Label::Hint));
        let mut nonces: BTreeSet<Nonce> = seen.iter().map(|knock| knock.nonce).collect();
        nonces.insert(OWN);
        let mut sealed: BTreeSet<Sealed> = seen.iter().map(|knock| knock.sealed).collect();
        let bodies = self.bodies(state, &nonces);
        for key in self.known(Label::Seal) {
            for (hint, nonce) in hints.iter().flat_map(|hint| nonces.iter().map(move |nonce| (hint, nonce))) {
                sealed.extend(bodies.iter().map(|body| self.sealed(key, *nonce, *hint, *body)));
            }
        }
        let mut knocks = Vec::new();
        for (hint, nonce) in hints.iter().flat_map(|hint| nonces.iter().map(move |nonce| (*hint, *nonce))) {
            for &sealed in &sealed {
                let over = (hint, nonce, sealed);
                let own = self.known(Label::Sign).into_iter().map(|key| Tag { key, over });
                let tags = seen.iter().map(|knock| knock.tag).chain(own);
                knocks.extend(tags.map(|tag| KnockMessage { hint, nonce, sealed, tag }));
            }
        }
        knocks
    }

    /// Every reply that the attacker can send.
    pub(super) fn replies_of_attacker(&self, state: &State) -> Vec<ReplyMessage> {
        let mut replies: Vec<ReplyMessage> = state.replies.iter().copied().collect();
        for key in self.known(Label::Reply) {
            let nonces = (0..KNOCKS).filter_map(|nonce| Nonce::try_from(nonce).ok());
            replies.extend(nonces.map(|to| ReplyMessage { key, to }));
        }
        replies
    }

    /// The keys with this label that the attacker has.
    fn known(&self, label: Label) -> Vec<KeyName> {
        let mut keys = Vec::new();
        for server in [Server::A, Server::B] {
            keys.extend([Version::V1, Version::V2].map(|version| self.key(server, version, label)));
        }
        keys.retain(|key| self.knows(*key));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The bodies that the attacker can encrypt: without a signature, with one that was in a knock that they can decrypt,
    /// or with one of the agent.
    fn bodies(&self, state: &State, nonces: &BTreeSet<Nonce>) -> Vec<Body> {
        let readable =
            state.sent.iter().map(|(_, knock)| knock.sealed).filter(|sealed| self.knows(sealed.key));
        let mut signatures: BTreeSet<Option<Signature>> =
            readable.map(|sealed| sealed.body.signature).collect();
        signatures.insert(None);
        if self.stolen.contains(&Stolen::Agent) {
            // The agent signs any M that the attacker can compute: k_id takes the pair secret.
            let servers = [Server::A, Server::B].into_iter();
            for server in servers.filter(|server| self.knows(self.key(*server, Version::V2, Label::Seal))) {
                for nonce in nonces {
                    signatures.extend(ACTIONS.map(|action| self.signature(server, *nonce, action)));
                }
            }
        }
        let body =
            |signature: &Option<Signature>| ACTIONS.map(|action| Body { action, signature: *signature });
        signatures.iter().flat_map(body).collect()
    }
}
