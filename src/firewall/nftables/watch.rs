//! Hears what anybody changes in nftables, and tells when something of ours was taken away.

use crate::os::netlink::Netlink;

use super::batch::{NFNL_SUBSYS_NFTABLES, messages};

/// NFT_MSG_DELTABLE, DELCHAIN, DELRULE and DELSET of linux/netfilter/nf_tables.h. Elements go by themselves when their
/// time is over.
const TAKEN_AWAY: [u16; 4] = [2, 5, 8, 11];
/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, …: the first attribute of each of these messages is the name of the table.
const TABLE_NAME: u16 = 1;
const TABLE: &[u8] = b"spa_knock\0";

/// What others did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing that is our business.
    Nothing,
    /// They took something of ours away.
    Loss,
    /// More than there was room for: it may have been about us.
    TooMuch,
}

/// The ear; none where the system does not let us listen.
pub(super) struct Watch(Option<Netlink>);

impl Watch {
    pub(super) fn start() -> Self {
        let socket = Netlink::listen_to_nftables();
        let socket = socket.inspect_err(|error| {
            log::warn!("firewall: what others change is not noticed before the next knock: {error}");
        });
        Self(socket.ok())
    }

    pub(super) const fn socket(&self) -> Option<&Netlink> {
        self.0.as_ref()
    }

    /// What was said since this was last asked.
    pub(super) fn heard(&self) -> Heard {
        let Some(socket) = &self.0 else { return Heard::Nothing };
        let mut all = Heard::Nothing;
        let mut buffer = [0; 16 << 10];
        loop {
            match socket.try_recv(&mut buffer) {
                Ok(Some(length)) => {
                    let heard = buffer.get(..length).unwrap_or_default();
                    if messages(heard).any(|(kind, body)| is_loss(kind, body)) {
                        all = Heard::Loss;
                    }
                }
                Ok(None) => return all,
                Err(_) if all == Heard::Nothing => all = Heard::TooMuch,
                Err(_) => {}
            }
        }
    }
}

/// Whether a message says that something of our table was taken away.
fn is_loss(kind: u16, body: &[u8]) -> bool {
    /// nfgenmsg, and the length of the first attribute.
    const BEFORE: usize = 6;
    let attribute = body.get(BEFORE..).and_then(<[u8]>::split_first_chunk);
    let is_table = attribute
        .is_some_and(|(&kind, name)| u16::from_ne_bytes(kind) == TABLE_NAME && name.starts_with(TABLE));
    kind >> 8 == NFNL_SUBSYS_NFTABLES && TAKEN_AWAY.contains(&(kind & 0xFF)) && is_table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_our_table_loses_is_a_loss() {
        let body = |name: &str| {
            let mut body = vec![1, 0, 0, 10];
            body.extend(u16::try_from(name.len() + 5).unwrap().to_ne_bytes());
            body.extend(1_u16.to_ne_bytes());
            body.extend(name.as_bytes());
            body.extend([0; 4]);
            body
        };
        for kind in [2, 5, 8, 11] {
            assert!(is_loss(10 << 8 | kind, &body("spa_knock")), "{kind}");
            assert!(!is_loss(10 << 8 | kind, &body("spa_knocker")), "{kind}");
            assert!(!is_loss(11 << 8 | kind, &body("spa_knock")), "{kind}");
            assert!(!is_loss(10 << 8 | kind, &[1, 0, 0]), "{kind}");
        }
        for kind in [0, 1, 3, 6, 9, 12, 14, 15] {
            assert!(!is_loss(10 << 8 | kind, &body("spa_knock")), "{kind}");
        }
    }
}
