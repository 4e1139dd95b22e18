//! The wire protocol with an attacker who controls the network: `docs/internals/protocol.md` and `protocol-2.md`. One
//! client, two servers, A and B. All properties are about A; B is a server that anyone else could run.
//!
//! The primitives are perfect (Dolev and Yao): without its key, nothing can be learned from a ciphertext, and no tag or
//! signature can be made. Within that, the attacker takes everything apart, combines all parts that they know, and
//! delivers the result as often as they like. All timestamps are fresh: within the window, time refuses nothing.

mod attacker;
mod message;
mod setting;

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

pub use message::{Body, KnockMessage, Label, ReplyMessage, Sealed, Server, Signature, Tag, Version};
pub use setting::{ProtocolVariant, Setting, Stolen};

use message::{Action, Nonce};

/// The number of knocks that the client sends.
const KNOCKS: usize = 2;
/// The actions that it can ask for.
const ACTIONS: [Action; 2] = [1, 2];
/// The number of knocks that a server accepts before the model ends.
const ACCEPTED_MAX: usize = 3;

/// A model of the protocol.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// What is agreed on, and what is wrong.
    pub setting: Setting,
}

/// What has happened so far.
#[derive(Debug, Clone, Hash, PartialEq, Eq, Default)]
pub struct State {
    /// The knocks of the client, in the order of their nonces.
    pub(crate) sent: Vec<(Server, KnockMessage)>,
    /// What server A has acted on: nonce and action, and how often.
    acted: BTreeMap<(Nonce, Action), u8>,
    /// The replay memory of each server.
    remembered: BTreeSet<(Server, Nonce)>,
    /// The replies that servers have sent.
    pub(crate) replies: BTreeSet<ReplyMessage>,
    /// The knocks to which the client believes to have got a reply.
    concluded: BTreeSet<Nonce>,
    /// Whether A has refused a knock of the client that it had not acted on.
    is_consumed: bool,
}

/// A step of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// The client sends a knock for an action to a server.
    Send(Server, u8),
    /// The attacker delivers a knock to a server.
    Deliver(Server, KnockMessage),
    /// The attacker delivers a reply to the client.
    Reply(ReplyMessage),
}

/// A knock that A acts on was sent by the client, to A, with this nonce and for this action.
pub const SENT: &str = "A acts only on what the client sent to it";
/// The same knock acts at most once, also if it was changed.
pub const ONCE: &str = "A acts at most once on each knock";
/// A reply is genuine.
pub const REPLIED: &str = "a reply that the client believes means that A has acted on this knock";
/// The content is secret.
pub const SECRET: &str = "the attacker does not learn what a knock to A asks for";
/// An attacker cannot use knocks up.
pub const USABLE: &str = "a knock of the client is refused only if it has acted";
/// The model is not empty.
pub const ACTS: &str = "A can act on each knock";
/// The same for replies.
pub const CONCLUDES: &str = "the client can get a reply";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.sent.len() < KNOCKS {
            for server in [Server::A, Server::B] {
                steps.extend(ACTIONS.map(|action| Step::Send(server, action)));
            }
        }
        let knocks = self.setting.knocks_of_attacker(state);
        for server in [Server::A, Server::B] {
            // The others are dropped without a trace.
            let passing = knocks.iter().filter(|knock| self.setting.opens(server, knock).is_some());
            steps.extend(passing.map(|knock| Step::Deliver(server, *knock)));
        }
        steps.extend(self.setting.replies_of_attacker(state).into_iter().map(Step::Reply));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        let is_possible = match step {
            Step::Send(server, action) => next.send(server, action, &self.setting),
            Step::Deliver(server, knock) => next.receive(server, &knock, &self.setting),
            Step::Reply(reply) => next.conclude(&reply, &self.setting),
        };
        is_possible.then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SENT, |_: &Self, state: &State| {
                state.acted.keys().all(|(nonce, action)| state.has_sent(*nonce, Some(*action)))
            }),
            Property::always(ONCE, |_: &Self, state: &State| {
                // Under any nonce: as many acts as knocks.
                let of = |wanted: Action| {
                    let acts: u8 =
                        state.acted.iter().filter(|((_, action), _)| *action == wanted).map(|(_, n)| n).sum();
                    let sent = state.sent_to_a().filter(|knock| knock.sealed.body.action == wanted).count();
                    usize::from(acts) <= sent
                };
                ACTIONS.into_iter().all(of)
            }),
            Property::always(REPLIED, |_: &Self, state: &State| {
                let has_acted = |nonce: &Nonce| state.acted.keys().any(|(acted, _)| acted == nonce);
                state.concluded.iter().all(has_acted)
            }),
            Property::always(SECRET, |model: &Self, state: &State| {
                state.sent_to_a().all(|knock| !model.setting.knows(knock.sealed.key))
            }),
            Property::always(USABLE, |_: &Self, state: &State| !state.is_consumed),
            Property::sometimes(ACTS, |_: &Self, state: &State| state.acted.len() == KNOCKS),
            Property::sometimes(CONCLUDES, |_: &Self, state: &State| !state.concluded.is_empty()),
        ]
    }
}

impl State {
    fn sent_to_a(&self) -> impl Iterator<Item = &KnockMessage> {
        self.sent.iter().filter(|(server, _)| *server == Server::A).map(|(_, knock)| knock)
    }

    fn has_sent(&self, nonce: Nonce, action: Option<Action>) -> bool {
        self.sent_to_a().any(|knock| {
            knock.nonce == nonce && action.is_none_or(|action| knock.sealed.body.action == action)
        })
    }

    /// The client: sections 3 of both versions.
    fn send(&mut self, server: Server, action: Action, setting: &Setting) -> bool {
        let nonce = Nonce::try_from(self.sent.len()).unwrap_or(Nonce::MAX);
        let signature = setting.signature(server, nonce, action);
        self.sent.push((server, setting.knock(server, nonce, Body { action, signature })));
        true
    }

    /// A server: section 5 of the protocol. False if nothing changes.
    fn receive(&mut self, server: Server, knock: &KnockMessage, setting: &Setting) -> bool {
        let Some(version) = setting.opens(server, knock) else { return false };
        let id = (server, knock.nonce);
        let is_genuine = server == Server::A && self.sent_to_a().any(|sent| sent == knock);
        let has_acted = self.acted.contains_key(&(knock.nonce, knock.sealed.body.action));
        if self.remembered.contains(&id) {
            let was_consumed = self.is_consumed;
            self.is_consumed |= is_genuine && !has_acted;
            return self.is_consumed && !was_consumed;
        }
        let is_signed = version == Version::V1 || setting.verifies(server, knock);
        let records = is_signed || setting.variant == ProtocolVariant::RecordsBeforeSignature;
        if records && setting.variant != ProtocolVariant::NonceForgotten {
            self.remembered.insert(id);
        }
        if !is_signed {
            return records;
        }
        if server == Server::A && self.acted.len() < ACCEPTED_MAX {
            let acts = self.acted.entry((knock.nonce, knock.sealed.body.action)).or_default();
            *acts = acts.saturating_add(1).min(2);
        }
        self.replies.insert(setting.reply(server, knock.nonce));
        true
    }

    /// The client: section 4. It waits for the replies to all of its knocks to A.
    fn conclude(&mut self, reply: &ReplyMessage, setting: &Setting) -> bool {
        let nonces: Vec<Nonce> = self.sent_to_a().map(|knock| knock.nonce).collect();
        let mut is_new = false;
        for nonce in nonces.into_iter().filter(|nonce| setting.believes(reply, *nonce)) {
            is_new |= self.concluded.insert(nonce);
        }
        is_new
    }
}
