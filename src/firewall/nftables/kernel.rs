//! The kernel's side of our table over netlink: transactions, and lists that are whole or an error.

use std::io;

use nix::errno::Errno;

use super::batch::{self, Attributes, ElementOp, ListedElement, NetlinkBatch};
use super::element::Element;
use crate::firewall::FirewallError;
use crate::os::clock;
use crate::os::net::netlink::Netlink;

/// A list is longer than one datagram, and the kernel makes none longer than this.
const DATAGRAM_MAX: usize = 32 << 10;
/// How often a list is begun again that changed in the middle.
const TRIES: usize = 5;

/// What a table consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    Table,
    Chain,
    Rule,
    Set,
}

/// The way to the kernel.
pub(super) struct Kernel {
    netlink: Netlink,
    sequence: u32,
    /// What others hear our changes under.
    port: u32,
}

impl Kernel {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has no nftables.
    pub(super) fn open() -> Result<Self, FirewallError> {
        let netlink = Netlink::open().map_err(failed)?;
        let port = netlink.port().map_err(failed)?;
        Ok(Self { netlink, sequence: 0, port })
    }

    /// The number that our own changes are reported with.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Changes elements in one transaction.
    ///
    /// # Errors
    /// When the kernel does not take it; nothing has changed then.
    pub(super) fn transact(&mut self, elements: &[(Element, ElementOp)]) -> Result<(), FirewallError> {
        if elements.is_empty() {
            return Ok(());
        }
        let sequence = self.next_sequence();
        let messages = batch::transaction(elements, sequence)
            .ok_or(FirewallError::Other("too many grants at once".to_owned()))?;
        self.netlink.send(&messages).map_err(failed)?;
        self.answer()
    }

    /// All elements of a set of our table; none where there is no such set or table.
    ///
    /// # Errors
    /// When the list is not whole.
    pub(super) fn elements(&mut self, set: &'static [u8]) -> Result<Vec<ListedElement>, FirewallError> {
        self.list(batch::NFT_MSG_GETSETELEM, Some(set), |message| {
            batch::elements(set, message, clock::steady())
        })
    }

    /// All objects of a kind in our table, as `read` makes them of their attributes.
    ///
    /// # Errors
    /// When the list is not whole.
    pub(super) fn objects<T>(
        &mut self,
        object: Object,
        read: impl Fn(Attributes<'_>) -> Option<T>,
    ) -> Result<Vec<T>, FirewallError> {
        /// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and NFTA_SET_TABLE.
        const TABLE_NAME: u16 = 1;
        // NFT_MSG_GETTABLE, GETCHAIN, GETRULE and GETSET of linux/netfilter/nf_tables.h.
        let question = match object {
            Object::Table => 1,
            Object::Chain => 4,
            Object::Rule => 7,
            Object::Set => 10,
        };
        let kind = batch::NFNL_SUBSYS_NFTABLES << 8 | question;
        self.list(kind, None, |message| {
            let attributes = message.attributes();
            let is_ours = attributes.get(TABLE_NAME) == Some(batch::TABLE);
            is_ours.then(|| read(attributes)).flatten().into_iter().collect()
        })
    }

    fn list<T>(
        &mut self,
        kind: u16,
        set: Option<&[u8]>,
        read: impl Fn(&NetlinkBatch<'_>) -> Vec<T>,
    ) -> Result<Vec<T>, FirewallError> {
        for _ in 0..TRIES {
            let sequence = self.next_sequence();
            let request = batch::dump(kind, set, sequence)
                .ok_or_else(|| FirewallError::Other("netlink: a name is too long".to_owned()))?;
            self.netlink.send(&request).map_err(failed)?;
            let mut all = Vec::new();
            match self.take_list(sequence, |message| all.extend(read(message)))? {
                List::Whole => return Ok(all),
                List::Missing => return Ok(Vec::new()),
                List::Changed => {}
            }
        }
        Err(FirewallError::Other("netlink: the table changed again and again while it was read".to_owned()))
    }

    fn take_list(
        &self,
        sequence: u32,
        mut each: impl FnMut(&NetlinkBatch<'_>),
    ) -> Result<List, FirewallError> {
        let mut buffer = vec![0; DATAGRAM_MAX];
        let mut end = List::Whole;
        loop {
            let length = match self.netlink.try_recv(&mut buffer) {
                Ok(Some(length)) => length,
                // The kernel has always the next part ready.
                Ok(None) => return Err(FirewallError::Other("netlink: a list has no end".to_owned())),
                Err(error) => return Err(failed(error)),
            };
            let datagram = buffer.get(..length).unwrap_or_default();
            for message in batch::messages(datagram).filter(|message| message.sequence == sequence) {
                if message.is_interrupted() {
                    end = List::Changed;
                }
                match message.error() {
                    Some(0) => {}
                    Some(errno) if Errno::from_raw(errno) == Errno::ENOENT => return Ok(List::Missing),
                    Some(errno) => return Err(describe(errno)),
                    None if message.is_end() => return Ok(end),
                    None => each(&message),
                }
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// What came of the last transaction. The kernel has done its work: all answers are there, and all are taken, as
    /// those that stay take the room of the next one's.
    fn answer(&self) -> Result<(), FirewallError> {
        let mut answer = None;
        let mut buffer = [0; 8192];
        loop {
            let length = match self.netlink.try_recv(&mut buffer) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                // Each message that fails has an answer of its own, and thousands have no room. The first is among
                // those that had.
                Err(error) if error.raw_os_error().map(Errno::from_raw) == Some(Errno::ENOBUFS) => continue,
                Err(error) => return Err(failed(error)),
            };
            let answers = batch::answers(buffer.get(..length).unwrap_or_default());
            // What an earlier batch left behind is passed over.
            let ours = answers.into_iter().find(|(sequence, _)| *sequence == self.sequence);
            answer = answer.or(ours.map(|(_, errno)| errno));
        }
        match answer {
            Some(0) => Ok(()),
            Some(errno) => Err(describe(errno)),
            None => Err(FirewallError::Other("netlink: no answer".to_owned())),
        }
    }
}

/// How a list ended.
enum List {
    Whole,
    /// There is nothing to list.
    Missing,
    /// Something in it may be missing, or be in it twice.
    Changed,
}

fn failed(error: io::Error) -> FirewallError {
    FirewallError::Other(format!("netlink: {error}"))
}

fn describe(errno: i32) -> FirewallError {
    match Errno::from_raw(errno) {
        Errno::EPERM => FirewallError::NotAllowed,
        Errno::ENOENT => FirewallError::Gone,
        Errno::ENFILE => FirewallError::Full,
        // Of an interval: a part of it is there already.
        Errno::EEXIST | Errno::ENOTEMPTY => FirewallError::Overlap,
        other => FirewallError::Other(other.desc().to_lowercase()),
    }
}
