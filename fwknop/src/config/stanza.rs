//! A stanza of `access.conf`: one key pair, and the rights of its packets.

use std::net::Ipv4Addr;

use sha2::{Digest as _, Sha256};

use super::network::Networks;
use super::problem::Place;
use crate::packet::{CipherKey, HmacKey, Port};

/// A stanza whose values fit together. Has no `Debug`, because it contains keys.
pub struct Stanza {
    /// The line of its `SOURCE`.
    pub place: Place,
    /// The line of its `FORCE_NAT`, if it has one, else of its `SOURCE`.
    pub nat_place: Place,
    /// The line of its `CMD_EXEC_USER` or `CMD_EXEC_GROUP`, if it has one, else of its `SOURCE`.
    pub run_as_place: Place,
    /// From where its packets may come.
    pub sources: Networks,
    /// Which of this host's addresses its packets may be sent to.
    pub destinations: Networks,
    /// Authenticates its packets.
    pub hmac_key: HmacKey,
    /// Decrypts its packets.
    pub key: CipherKey,
    /// The only ports that may be requested; none for any.
    pub open_ports: Option<Vec<Port>>,
    /// Ports that may not be requested.
    pub restrict_ports: Vec<Port>,
    /// The user name that a packet must contain.
    pub user: Option<String>,
    /// Whether a packet must contain an address other than `0.0.0.0`.
    pub require_address: bool,
    /// How long access lasts if the packet does not ask for a time, in seconds, at most `timeout_max`.
    pub timeout: u32,
    /// The most that a packet may ask for, in seconds.
    pub timeout_max: u32,
    /// When the stanza ends.
    pub expires: Option<Expiry>,
    /// Who runs commands that packets contain; none if that is not allowed.
    pub commands: Option<CommandRules>,
    /// Commands that run instead of a change of the firewall.
    pub cycle: Option<Cycle>,
    /// How connections are forwarded.
    pub nat: NatRules,
}

impl Stanza {
    /// Identifies its pair of keys without revealing them: stanzas with the same keys accept the same packets.
    #[must_use]
    pub fn keys_identity(&self) -> [u8; 32] {
        let [hmac_key, key] = [self.hmac_key.as_bytes(), self.key.as_bytes()];
        let length = u64::try_from(key.len()).unwrap_or(u64::MAX);
        Sha256::new()
            .chain_update(length.to_be_bytes())
            .chain_update(key)
            .chain_update(hmac_key)
            .finalize()
            .into()
    }
}

/// `ACCESS_EXPIRE`, or `ACCESS_EXPIRE_EPOCH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// The start of this day in local time: year, month, day.
    Date(u16, u8, u8),
    /// Seconds since 1970.
    Epoch(u64),
}

/// How commands that packets contain are run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandRules {
    /// The account that runs them; root if it is not named.
    pub run_as: CommandUser,
    /// The account that sudo is asked for, if commands are run by sudo.
    pub sudo: Option<CommandUser>,
}

/// A user and a group by name; none is the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandUser {
    /// The user.
    pub user: Option<String>,
    /// The group.
    pub group: Option<String>,
}

/// `CMD_CYCLE_OPEN`, `CMD_CYCLE_CLOSE`, `CMD_CYCLE_TIMER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle {
    /// The command that opens, with variables.
    pub open: String,
    /// The command that closes; none if nothing closes.
    pub close: Option<String>,
    /// Seconds between the two, 1 to 8388608; 0 without a command that closes.
    pub timer: u32,
}

/// How connections of a stanza are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NatRules {
    /// All connections go there.
    pub to: Option<(Ipv4Addr, u16)>,
    /// The source address of forwarded connections.
    pub source: Option<Ipv4Addr>,
    /// Forwarded connections have an address of this host as their source.
    pub masquerade: bool,
    /// All traffic is forwarded, not only what is requested.
    pub forward_all: bool,
    /// The destination is not changed.
    pub no_destination: bool,
}
