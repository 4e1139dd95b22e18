//! What the admin allows: actions, and which client may do which of them. Data only; `authorization` decides by it.

pub(super) mod argument;
pub(super) mod key_limit;
pub(super) mod rate;
pub(super) mod template;
pub(super) mod undo;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Arguments, KeyLimit, Placeholder, Rate, Template};
use crate::crypto::{Fingerprint, KeeperKeys, OtpSeed};
use crate::knock::{
    ActionName, AddressPolicy, ClientName, KnockRange, PortRange, PortSpec, PrefixLengths, Timestamp,
};

/// What an action does: all of it, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// At least one thing.
    pub parts: Vec<ActionPart>,
    /// For how long, where that has a meaning: for all that is opened or undone.
    pub term: Option<Term>,
}

impl ActionPart {
    /// Whether a command of it has this placeholder.
    #[must_use]
    pub fn uses(&self, placeholder: Placeholder) -> bool {
        let Self::Run { argv, undo, .. } = self else { return false };
        argv.iter().chain(undo.iter().flatten()).any(|word| word.uses(placeholder))
    }
}

impl Action {
    /// How many passages one knock opens for each of its addresses.
    #[must_use]
    pub fn accesses(&self) -> u32 {
        let of_part = |part: &ActionPart| match part {
            ActionPart::Open { ports, .. } => u32::try_from(ports.len()).unwrap_or(u32::MAX),
            ActionPart::OpenArgument { .. } => 1,
            // Behind a port that leads to another port of this host, that one opens too.
            ActionPart::Forward { to, .. } if to.iter().any(|to| to.ip().is_unspecified()) => 2,
            ActionPart::Forward { .. } => 1,
            ActionPart::Close(_) | ActionPart::Run { .. } => 0,
        };
        self.parts.iter().map(of_part).fold(0, u32::saturating_add)
    }

    /// Whether some of what it opens is for one connection only.
    #[must_use]
    pub fn opens_once(&self) -> bool {
        self.parts.iter().any(|part| {
            matches!(
                part,
                ActionPart::Open { uses: Uses::One, .. } | ActionPart::OpenArgument { uses: Uses::One, .. }
            )
        })
    }
}

/// One thing that an action does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionPart {
    /// Opens ports for an address until the kernel closes them.
    Open {
        /// Which; at least one.
        ports: Vec<PortRange>,
        /// For how many connections.
        uses: Uses,
    },
    /// Opens the ports that the client names, if they are among these.
    OpenArgument {
        /// At least one.
        allowed: Vec<PortRange>,
        /// For how many connections.
        uses: Uses,
    },
    /// Leads a port of this host elsewhere, for an address.
    Forward {
        /// The port.
        door: PortSpec,
        /// Where to; at most one for each IP version, an unspecified address stands for this host.
        to: Vec<SocketAddr>,
    },
    /// Closes early what the client has opened by another action, and undoes what that ran.
    Close(ActionName),
    /// Runs a command without a shell.
    Run {
        /// Program (an absolute path, no placeholder) and arguments.
        argv: Vec<Template>,
        /// When it is ended.
        timeout: Duration,
        /// What is run, in the same way, to undo it when the action's time is over.
        undo: Option<Vec<Template>>,
        /// What clients may have in place of `{argument}`.
        arguments: Arguments,
    },
}

/// How many connections a grant is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uses {
    /// Any number, while it lasts.
    Many,
    /// One.
    One,
}

/// For how long an action lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// If the client does not say; in whole seconds.
    pub usual: Duration,
    /// The most that a client may ask for.
    pub max: Duration,
}

impl Term {
    /// How long it lasts for a client that asks for so many seconds; 0 = it does not say.
    #[must_use]
    pub fn granted(&self, asked: u32) -> Duration {
        match asked {
            0 => self.usual,
            asked => Duration::from_secs(asked.into()).min(self.max),
        }
    }
}

/// What one client may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRules {
    /// The actions.
    pub allow: BTreeSet<ActionName>,
    /// How it may name the address to let in.
    pub sources: BTreeSet<AddressPolicy>,
    /// How many of its neighbours are let in with an address.
    pub grant_prefix: PrefixLengths,
    /// How often it may act.
    pub rate: Option<Rate>,
    /// From when on it may do nothing.
    pub expires: Option<Timestamp>,
    /// How often it may act in all.
    pub uses: Option<u64>,
    /// How many knocks of each of its keys are looked at; none = as many as of any other.
    pub key_limit: Option<KeyLimit>,
    /// How many passages it may hold at a time: a port, a range of ports or a prefix of addresses is one.
    pub grants: u32,
}

/// Whether a client's key has been replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAge {
    /// It is the client's key.
    Current,
    /// It was, and is still good for a while.
    Previous,
}

/// A client with one of its keys.
pub struct ClientKey {
    /// The admin's name for it.
    pub name: ClientName,
    /// Names its key.
    pub fingerprint: Fingerprint,
    /// What the keeper needs to open its knocks and to answer.
    pub keys: KeeperKeys,
    /// Whether it has another one by now.
    pub age: KeyAge,
    /// What makes the one-time passwords that each of its knocks needs.
    pub otp: Option<OtpSeed>,
    /// What it may do.
    pub rules: ClientRules,
}

/// Everything that the keeper decides by.
pub struct Policy {
    /// How far a knock's time may be from ours.
    pub window: Duration,
    /// Whether clients that ask for an answer get one.
    pub reply: bool,
    /// Where port sequences are looked for; nothing = nowhere.
    pub knock_range: Option<KnockRange>,
    /// The addresses of this host: nobody else is let in by them.
    pub own_addresses: BTreeSet<IpAddr>,
    /// The actions by name.
    pub actions: BTreeMap<ActionName, Action>,
    /// The clients, once for each key; all fingerprints differ.
    pub clients: Vec<ClientKey>,
}
