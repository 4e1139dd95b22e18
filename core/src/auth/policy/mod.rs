//! What the administrator allows: actions, and which client may use which of them. Data only; `authorization` decides.

pub(super) mod argument;
pub(super) mod key_limit;
pub(super) mod rate;
pub(super) mod ssh_signer;
pub(super) mod template;
pub(super) mod undo;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Arguments, KeyLimit, Placeholder, Rate, SshSigner, Template};
use crate::crypto::{Fingerprint, KeeperKeys, OtpSeed};
use crate::knock::{
    ActionName, AddressPolicy, ClientName, KnockRange, PortRange, PortSpec, PrefixLengths, Timestamp,
};

/// An action: all of its parts are executed, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// At least one part.
    pub parts: Vec<ActionPart>,
    /// The duration of what the action opens or later undoes, if any.
    pub term: Option<Term>,
}

impl ActionPart {
    /// Whether it opens a port for a single connection.
    #[must_use]
    pub const fn opens_once(&self) -> bool {
        matches!(self, Self::Open { uses: Uses::One, .. } | Self::OpenArgument { uses: Uses::One, .. })
    }

    /// Whether a command of this part contains the placeholder.
    #[must_use]
    pub fn uses(&self, placeholder: Placeholder) -> bool {
        let Self::Run { argv, undo, .. } = self else { return false };
        argv.iter().chain(undo.iter().flatten()).any(|word| word.uses(placeholder))
    }
}

impl Action {
    /// How many grants one knock needs for each of its addresses.
    #[must_use]
    pub fn accesses(&self) -> u32 {
        let of_part = |part: &ActionPart| match part {
            ActionPart::Open { ports, .. } => u32::try_from(ports.len()).unwrap_or(u32::MAX),
            ActionPart::OpenArgument { .. } => 1,
            // A port that is forwarded to another port of this host also opens that port.
            ActionPart::Forward { to, .. } if to.iter().any(|to| to.ip().is_unspecified()) => 2,
            ActionPart::Forward { .. } => 1,
            ActionPart::Close(_) | ActionPart::Run { .. } => 0,
        };
        self.parts.iter().map(of_part).fold(0, u32::saturating_add)
    }

    /// Whether a part opens a port for a single connection.
    #[must_use]
    pub fn opens_once(&self) -> bool {
        self.parts.iter().any(ActionPart::opens_once)
    }
}

/// One part of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionPart {
    /// Opens ports for an address until the kernel closes them.
    Open {
        /// The ports; at least one.
        ports: Vec<PortRange>,
        /// The number of connections.
        uses: Uses,
    },
    /// Opens the ports that the client names, if `allowed` contains them.
    OpenArgument {
        /// The ports that clients may name; at least one.
        allowed: Vec<PortRange>,
        /// The number of connections.
        uses: Uses,
    },
    /// Forwards a port of this host for an address.
    Forward {
        /// The port on this host.
        port: PortSpec,
        /// The forward targets; at most one for each IP version. An unspecified address means this host.
        to: Vec<SocketAddr>,
    },
    /// Revokes what the client has opened with another action, and runs its undo commands.
    Close(ActionName),
    /// Runs a command without a shell.
    Run {
        /// Program (an absolute path without placeholders) and arguments.
        argv: Vec<Template>,
        /// The time after which the command is killed.
        timeout: Duration,
        /// The undo command, which runs in the same way when the action's duration has expired.
        undo: Option<Vec<Template>>,
        /// The arguments that clients may pass for `{argument}`.
        arguments: Arguments,
    },
}

/// The number of connections that a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uses {
    /// Any number while the grant is active.
    Many,
    /// One.
    One,
}

/// The duration of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// The default if the client requests none; whole seconds.
    pub usual: Duration,
    /// The maximum that a client may request.
    pub max: Duration,
}

impl Term {
    /// The duration for a client that requests this many seconds; 0 requests the default.
    #[must_use]
    pub fn granted(&self, requested: u32) -> Duration {
        match requested {
            0 => self.usual,
            requested => Duration::from_secs(requested.into()).min(self.max),
        }
    }
}

/// The rules of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRules {
    /// The actions it may use.
    pub allow: BTreeSet<ActionName>,
    /// The address policies it may use.
    pub sources: BTreeSet<AddressPolicy>,
    /// The prefix lengths of its grants.
    pub grant_prefix: PrefixLengths,
    /// How often it may act.
    pub rate: Option<Rate>,
    /// The time at which its access expires.
    pub expires: Option<Timestamp>,
    /// How many times it may act in total.
    pub uses: Option<u64>,
    /// The knock limit of each of its keys; `None` for the default.
    pub key_limit: Option<KeyLimit>,
    /// How many grants it may hold at the same time: a port, a range of ports or a prefix of addresses counts as one.
    pub grants: u32,
}

/// Whether a key is the client's current key or has been replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAge {
    /// The current key.
    Current,
    /// The previous key, which remains valid for a limited time.
    Previous,
}

/// A client with one of its keys.
pub struct ClientKey {
    /// The administrator's name for the client.
    pub name: ClientName,
    /// Identifies the key.
    pub fingerprint: Fingerprint,
    /// The keys with which the keeper decrypts its knocks and encrypts replies.
    pub keys: KeeperKeys,
    /// Who must sign its knocks, if it is a client of protocol version 2. Its keys must then be of that version, too.
    pub signer: Option<SshSigner>,
    /// Whether the key has been replaced.
    pub age: KeyAge,
    /// The seed of the one-time passwords that each of its knocks must contain, if any.
    pub otp: Option<OtpSeed>,
    /// Its rules.
    pub rules: ClientRules,
}

/// The data on which the keeper's decisions are based.
pub struct Policy {
    /// The largest accepted difference between a knock's timestamp and the server's clock.
    pub window: Duration,
    /// Whether the server replies to clients that request it.
    pub reply: bool,
    /// The range in which port sequences are accepted, if any.
    pub knock_range: Option<KnockRange>,
    /// The addresses of this host, which cannot be granted access.
    pub own_addresses: BTreeSet<IpAddr>,
    /// The actions by name.
    pub actions: BTreeMap<ActionName, Action>,
    /// The clients, with one entry for each key; all fingerprints differ.
    pub clients: Vec<ClientKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<(ActionPart, u32, bool)> {
        let ports =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<PortRange>>();
        let forward = |to: &[&str]| ActionPart::Forward {
            port: "tcp/80".parse().unwrap(),
            to: to.iter().map(|to| to.parse().unwrap()).collect(),
        };
        let run = ActionPart::Run {
            argv: vec!["/bin/lend".parse().unwrap(), "{client}".parse().unwrap()],
            timeout: Duration::from_secs(10),
            undo: Some(vec!["/bin/fetch".parse().unwrap(), "{argument}".parse().unwrap()]),
            arguments: Arguments::default(),
        };
        vec![
            (ActionPart::Open { ports: ports(&["tcp/22", "udp/53"]), uses: Uses::Many }, 2, false),
            (ActionPart::Open { ports: ports(&["tcp/22"]), uses: Uses::One }, 1, true),
            (ActionPart::OpenArgument { allowed: ports(&["tcp/1-9", "udp/9"]), uses: Uses::Many }, 1, false),
            (ActionPart::OpenArgument { allowed: ports(&["tcp/1-9"]), uses: Uses::One }, 1, true),
            (forward(&["10.0.0.5:80", "[2001:db8::5]:80"]), 1, false),
            (forward(&["10.0.0.5:80", "[::]:8080"]), 2, false),
            (ActionPart::Close("open-ssh".parse().unwrap()), 0, false),
            (run, 0, false),
        ]
    }

    #[test]
    fn each_part_of_an_action_needs_its_grants_and_one_connection_is_known_as_such() {
        let action = |parts| Action { parts, term: None };
        for (part, accesses, opens_once) in parts() {
            assert_eq!(part.opens_once(), opens_once, "{part:?}");
            let alone = action(vec![part.clone()]);
            assert_eq!((alone.accesses(), alone.opens_once()), (accesses, opens_once), "{part:?}");
        }
        let all = action(parts().into_iter().map(|(part, ..)| part).collect());
        assert_eq!((all.accesses(), all.opens_once()), (8, true));
    }

    #[test]
    fn only_a_command_or_its_undo_command_uses_a_placeholder() {
        for (part, ..) in parts() {
            let runs = matches!(part, ActionPart::Run { .. });
            for (placeholder, is_in_it) in
                [(Placeholder::Client, true), (Placeholder::Argument, true), (Placeholder::Address, false)]
            {
                assert_eq!(part.uses(placeholder), runs && is_in_it, "{part:?} {placeholder:?}");
            }
        }
    }
}
