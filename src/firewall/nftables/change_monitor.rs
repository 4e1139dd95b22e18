//! Monitors changes of our table by other programs.

use crate::os::net::netlink::Netlink;

use super::batch::{
    NFNL_SUBSYS_NFTABLES, NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NetlinkBatch, TABLE, messages,
};

/// NFT_MSG_NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, DELRULE, NEWSET and DELSET of
/// linux/netfilter/nf_tables.h.
const STRUCTURE: [u16; 8] = [0, 2, 3, 5, 6, 8, 9, 11];
/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, ...: the first attribute of each of these messages is the name of the table.
const TABLE_NAME: u16 = 1;

/// Changes of our table by other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RulesetChange {
    /// The table, its chains, rules or sets.
    pub(super) structure: bool,
    /// Elements of its sets.
    pub(super) elements: bool,
}

impl RulesetChange {
    /// Reported when messages were lost.
    const ALL: Self = Self { structure: true, elements: true };

    pub(super) const fn or(self, other: Self) -> Self {
        Self { structure: self.structure || other.structure, elements: self.elements || other.elements }
    }
}

/// The monitoring socket; `None` where the system does not permit one.
pub(super) struct ChangeMonitor(Option<Netlink>);

impl ChangeMonitor {
    pub(super) fn start() -> Self {
        let socket = Netlink::listen_to_nftables();
        let socket = socket.inspect_err(|error| {
            log::warn!("firewall: changes by other programs cannot be monitored: {error}; they are noticed at the next knock");
        });
        Self(socket.ok())
    }

    pub(super) const fn socket(&self) -> Option<&Netlink> {
        self.0.as_ref()
    }

    /// What other programs have changed since the last call. Changes with the port number `own` are ours.
    pub(super) fn changed(&self, own: u32) -> RulesetChange {
        let Some(socket) = &self.0 else { return RulesetChange::default() };
        let mut all = RulesetChange::default();
        let mut buffer = [0; 16 << 10];
        loop {
            match socket.try_recv(&mut buffer) {
                Ok(Some(length)) => {
                    let received = messages(buffer.get(..length).unwrap_or_default());
                    all = received
                        .filter(|message| message.port != own)
                        .map(|message| change_in(&message))
                        .fold(all, RulesetChange::or);
                }
                Ok(None) => return all,
                // Reading continues with the next message.
                Err(_) if all != RulesetChange::ALL => all = RulesetChange::ALL,
                Err(_) => return all,
            }
        }
    }
}

/// The change of our table that a message reports.
fn change_in(message: &NetlinkBatch<'_>) -> RulesetChange {
    let (kind, subsystem) = (message.kind & 0xFF, message.kind >> 8);
    if subsystem != NFNL_SUBSYS_NFTABLES || message.attributes().get(TABLE_NAME) != Some(TABLE) {
        return RulesetChange::default();
    }
    RulesetChange {
        structure: STRUCTURE.contains(&kind),
        elements: [NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM].contains(&message.kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_of_our_table_are_reported() {
        let change = |kind: u16, name: &str| {
            let mut bytes = Vec::new();
            let padded = (name.len() + 5).next_multiple_of(4);
            bytes.extend(u32::try_from(20 + padded).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend([1, 0, 0, 10]);
            bytes.extend(u16::try_from(name.len() + 5).unwrap().to_ne_bytes());
            bytes.extend(1_u16.to_ne_bytes());
            bytes.extend(name.as_bytes());
            bytes.resize(20 + padded, 0);
            let all: Vec<RulesetChange> = messages(&bytes).map(|message| change_in(&message)).collect();
            assert_eq!(all.len(), 1);
            (all[0].structure, all[0].elements)
        };
        for kind in [0, 2, 3, 5, 6, 8, 9, 11] {
            assert_eq!(change(10 << 8 | kind, "spa_knock"), (true, false), "{kind}");
            assert_eq!(change(10 << 8 | kind, "spa_knocker"), (false, false), "{kind}");
            assert_eq!(change(11 << 8 | kind, "spa_knock"), (false, false), "{kind}");
        }
        for kind in [12, 14] {
            assert_eq!(change(10 << 8 | kind, "spa_knock"), (false, true), "{kind}");
        }
        for kind in [1, 15, 16] {
            assert_eq!(change(10 << 8 | kind, "spa_knock"), (false, false), "{kind}");
        }
    }
}
