//! Access to our table in the kernel over netlink: transactions, and lists that are either complete or an error.

use std::io;

use nix::errno::Errno;

use super::batch::{self, Attributes, ElementOp, ListedElement, NetlinkBatch};
use super::element::Element;
use crate::firewall::FirewallError;
use crate::os::clock;
use crate::os::net::netlink::Netlink;

/// Buffer size for lists: the kernel splits a list into datagrams of at most this size.
const DATAGRAM_MAX: usize = 32 << 10;
/// Elements changed in one of several transactions, whose messages must fit into the socket's buffer.
const TRANSACTION_MAX: usize = 512;
/// How often a list is read if it changes while it is read.
const TRIES: usize = 5;

/// The kinds of objects in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    Table,
    Chain,
    Rule,
    Set,
}

/// Netlink connection to the kernel.
pub(super) struct Kernel {
    netlink: Netlink,
    sequence: u32,
    /// The port number under which our changes are reported.
    port: u32,
}

impl Kernel {
    /// Opens the connection.
    ///
    /// # Errors
    /// When the kernel has no nftables.
    pub(super) fn open() -> Result<Self, FirewallError> {
        let netlink = Netlink::open().map_err(failed)?;
        let port = netlink.port().map_err(failed)?;
        Ok(Self { netlink, sequence: 0, port })
    }

    /// The port number under which our own changes are reported.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Changes elements in one transaction.
    ///
    /// # Errors
    /// When the kernel refuses; nothing has changed then.
    pub(super) fn transact(&mut self, elements: &[(Element, ElementOp)]) -> Result<(), FirewallError> {
        if elements.is_empty() {
            return Ok(());
        }
        let sequence = self.next_sequence();
        let messages = batch::transaction(elements, sequence)
            .ok_or(FirewallError::Other("too many grants in one transaction".to_owned()))?;
        self.netlink.send(&messages).map_err(failed)?;
        self.acknowledgment()
    }

    /// The same for any number of elements, in several transactions.
    ///
    /// # Errors
    /// When the kernel refuses one of them; those before it are done.
    pub(super) fn transact_in_parts(
        &mut self,
        elements: &[(Element, ElementOp)],
    ) -> Result<(), FirewallError> {
        elements.chunks(TRANSACTION_MAX).try_for_each(|part| self.transact(part))
    }

    /// All elements of a set of our table; empty if the set or the table does not exist.
    ///
    /// # Errors
    /// When the list is incomplete.
    pub(super) fn elements(&mut self, set: &'static [u8]) -> Result<Vec<ListedElement>, FirewallError> {
        self.list(batch::NFT_MSG_GETSETELEM, Some(set), |message| {
            batch::elements(set, message, clock::steady())
        })
    }

    /// All objects of a kind in our table, decoded by `read`.
    ///
    /// # Errors
    /// When the list is incomplete.
    pub(super) fn objects<T>(
        &mut self,
        object: Object,
        read: impl Fn(Attributes<'_>) -> Option<T>,
    ) -> Result<Vec<T>, FirewallError> {
        /// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and NFTA_SET_TABLE.
        const TABLE_NAME: u16 = 1;
        // NFT_MSG_GETTABLE, GETCHAIN, GETRULE and GETSET of linux/netfilter/nf_tables.h.
        let message = match object {
            Object::Table => 1,
            Object::Chain => 4,
            Object::Rule => 7,
            Object::Set => 10,
        };
        let kind = batch::NFNL_SUBSYS_NFTABLES << 8 | message;
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
                .ok_or_else(|| FirewallError::Other("netlink: name too long".to_owned()))?;
            self.netlink.send(&request).map_err(failed)?;
            let mut all = Vec::new();
            match self.take_list(sequence, |message| all.extend(read(message)))? {
                List::Whole => return Ok(all),
                List::Missing => return Ok(Vec::new()),
                List::Changed => {}
            }
        }
        Err(FirewallError::Other("netlink: the table kept changing while it was read".to_owned()))
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
                // The kernel always has the next part ready.
                Ok(None) => return Err(FirewallError::Other("netlink: incomplete list".to_owned())),
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

    /// Reads the outcome of the last transaction. The kernel has finished: all acknowledgments are queued. All are
    /// read, because leftovers would use the buffer space of the next transaction.
    fn acknowledgment(&self) -> Result<(), FirewallError> {
        let mut errno = None;
        let mut buffer = [0; 8192];
        loop {
            let length = match self.netlink.try_recv(&mut buffer) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                // Each failed message has its own acknowledgment, and thousands overflow the buffer. The first one is
                // among those that fit.
                Err(error) if error.raw_os_error().map(Errno::from_raw) == Some(Errno::ENOBUFS) => continue,
                Err(error) => return Err(failed(error)),
            };
            let acknowledgments = batch::acknowledgments(buffer.get(..length).unwrap_or_default());
            // Leftovers of an earlier batch are skipped.
            let ours = acknowledgments.into_iter().find(|(sequence, _)| *sequence == self.sequence);
            errno = errno.or(ours.map(|(_, errno)| errno));
        }
        match errno {
            Some(0) => Ok(()),
            Some(errno) => Err(describe(errno)),
            None => Err(FirewallError::Other("netlink: no acknowledgment".to_owned())),
        }
    }
}

/// How a list ended.
enum List {
    Whole,
    /// There is no such set or table.
    Missing,
    /// Entries may be missing or duplicated.
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
        // A part of the interval exists already.
        Errno::EEXIST | Errno::ENOTEMPTY => FirewallError::Overlap,
        other => FirewallError::Other(other.desc().to_lowercase()),
    }
}
