//! Encodes set elements as one netlink transaction of nf_tables, which the kernel applies completely or not at all, and
//! decodes the kernel's messages (linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h). Headers
//! are in host byte order, values of nf_tables in big-endian order.

use std::time::Duration;

use super::element::Element;
use spa_knock_core::knock::Steady;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_HEADER: usize = 16;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(super) const NFT_MSG_NEWSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 12;
pub(super) const NFT_MSG_GETSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 13;
pub(super) const NFT_MSG_DELSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 14;
const NFPROTO_INET: u8 = 1;
/// The name of our table, as a C string.
pub(super) const TABLE: &[u8] = b"spa_knock\0";

const NLA_F_NESTED: u16 = 0x8000;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_DATA_VALUE: u16 = 1;
/// libnftnl's tag for the comment that `nft list set` shows.
const UDATA_COMMENT: u8 = 0;

/// What to do with an element.
pub(super) enum ElementOp {
    /// Add it, or replace it, with this timeout and comment.
    Renew(Duration, Option<String>),
    /// The same for an element that does not exist yet.
    Add(Duration, Option<String>),
    /// Delete it, if it exists.
    Delete,
}

/// Encodes one transaction for any number of elements. Each element has messages of its own, which keeps them far from
/// the limit of 64 KiB per attribute. Adding an existing element does not renew its timeout, and deleting a missing one
/// fails, so each is added, deleted and, if it should stay, added again. `None` when a message would exceed the length
/// field of a header.
pub(super) fn transaction(elements: &[(Element, ElementOp)], sequence: u32) -> Option<Vec<u8>> {
    let mut batch = Batch { bytes: Vec::with_capacity(1024), sequence };
    batch.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, |_| Some(()))?;
    for (left, (element, op)) in (0..elements.len()).rev().zip(elements) {
        // The kernel always reports errors, but success only on request: once.
        let last = if left == 0 { NLM_F_ACK } else { 0 };
        let add =
            |batch: &mut Batch, flags| batch.element(NFT_MSG_NEWSETELEM, NLM_F_CREATE | flags, element, op);
        match op {
            ElementOp::Add(..) => add(&mut batch, last)?,
            ElementOp::Delete => {
                add(&mut batch, 0)?;
                batch.element(NFT_MSG_DELSETELEM, last, element, &ElementOp::Delete)?;
            }
            ElementOp::Renew(..) => {
                add(&mut batch, 0)?;
                batch.element(NFT_MSG_DELSETELEM, 0, element, &ElementOp::Delete)?;
                add(&mut batch, last)?;
            }
        }
    }
    batch.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, |_| Some(()))?;
    Some(batch.bytes)
}

/// Acknowledgments in one datagram from the kernel: sequence number and errno, 0 for success.
pub(super) fn acknowledgments(bytes: &[u8]) -> Vec<(u32, i32)> {
    Messages(bytes).filter_map(|message| Some((message.sequence, message.error()?))).collect()
}

/// Encodes a request for all objects of a kind in our table, or for all elements of one of its sets.
pub(super) fn dump(kind: u16, set: Option<&[u8]>, sequence: u32) -> Option<Vec<u8>> {
    // The first attribute of each kind is the table's name.
    const TABLE_NAME: u16 = 1;
    let mut batch = Batch { bytes: Vec::with_capacity(64), sequence };
    batch.message(kind, NLM_F_REQUEST | NLM_F_DUMP, NFPROTO_INET, 0, |batch| {
        batch.attribute(TABLE_NAME, TABLE)?;
        set.map_or(Some(()), |set| batch.attribute(NFTA_SET_ELEM_LIST_SET, set))
    })?;
    Some(batch.bytes)
}

/// Iterates over the messages in one datagram.
pub(super) const fn messages(bytes: &[u8]) -> Messages<'_> {
    Messages(bytes)
}

/// One netlink message.
pub(super) struct NetlinkBatch<'a> {
    pub(super) kind: u16,
    flags: u16,
    pub(super) sequence: u32,
    /// The socket whose change or request it belongs to.
    pub(super) port: u32,
    /// The bytes after the header.
    pub(super) body: &'a [u8],
}

impl<'a> NetlinkBatch<'a> {
    /// Whether it ends a list.
    pub(super) const fn is_end(&self) -> bool {
        self.kind == NLMSG_DONE
    }

    /// Whether the listed objects have changed while they were listed.
    pub(super) const fn is_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// The errno, if this is an error or an acknowledgment (0).
    pub(super) fn error(&self) -> Option<i32> {
        let errno = i32::from_ne_bytes(*self.body.first_chunk()?);
        (self.kind == NLMSG_ERROR).then_some(errno.saturating_neg())
    }

    /// The attributes of a message of nf_tables.
    pub(super) fn attributes(&self) -> Attributes<'a> {
        /// struct nfgenmsg.
        const BEFORE: usize = 4;
        Attributes(self.body.get(BEFORE..).unwrap_or_default())
    }
}

/// Iterates over attributes: kind, without its flag bits, and value.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a kind.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(of, _)| *of == kind).map(|(_, value)| value)
    }

    /// The attributes nested in the first attribute of a kind.
    pub(super) fn within(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Attributes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        const HEADER: usize = 4;
        let [l0, l1, k0, k1] = *self.0.first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.0.get(HEADER..length)?;
        self.0 = self.0.get(aligned(length)?..).unwrap_or_default();
        // Without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
        Some((u16::from_ne_bytes([k0, k1]) & 0x3FFF, value))
    }
}

/// An element as the kernel lists it.
pub(super) struct ListedElement {
    pub(super) element: Element,
    /// When it expires; `None` = never.
    pub(super) end: Option<Steady>,
    pub(super) comment: Option<String>,
}

/// The elements in one message of a set's list that was read at `now`. Reading a long list takes a while.
pub(super) fn elements(set: &'static [u8], message: &NetlinkBatch<'_>, now: Steady) -> Vec<ListedElement> {
    let list = message.attributes().within(NFTA_SET_ELEM_LIST_ELEMENTS);
    let elements = list.into_iter().flatten().filter(|(kind, _)| *kind == NFTA_LIST_ELEM);
    elements.filter_map(|(_, bytes)| listed(set, Attributes(bytes), now)).collect()
}

fn listed(set: &'static [u8], attributes: Attributes<'_>, now: Steady) -> Option<ListedElement> {
    let bytes = |kind| Some(attributes.within(kind)?.get(NFTA_DATA_VALUE)?.to_vec());
    let element = Element {
        set,
        key: bytes(NFTA_SET_ELEM_KEY)?,
        last_key: bytes(NFTA_SET_ELEM_KEY_END),
        value: bytes(NFTA_SET_ELEM_DATA),
    };
    let expires = attributes.get(NFTA_SET_ELEM_EXPIRATION).and_then(<[u8]>::first_chunk);
    let left = expires.map(|bytes| Duration::from_millis(u64::from_be_bytes(*bytes)));
    let end = left.map(|left| now.plus(left));
    let comment = attributes.get(NFTA_SET_ELEM_USERDATA).and_then(|userdata| {
        let [UDATA_COMMENT, length, text @ ..] = userdata else { return None };
        let text = text.get(..usize::from(*length))?.strip_suffix(b"\0")?;
        String::from_utf8(text.to_vec()).ok()
    });
    Some(ListedElement { element, end, comment })
}

/// Iterator over netlink messages.
pub(super) struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = NetlinkBatch<'a>;

    fn next(&mut self) -> Option<NetlinkBatch<'a>> {
        let header: &[u8; NLMSG_HEADER] = self.0.first_chunk()?;
        let [l0, l1, l2, l3, t0, t1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = self.0.get(NLMSG_HEADER..length)?;
        self.0 = self.0.get(aligned(length)?..).unwrap_or_default();
        Some(NetlinkBatch {
            kind: u16::from_ne_bytes([t0, t1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            body,
        })
    }
}

struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    /// Appends a message that adds or deletes one element.
    fn element(&mut self, kind: u16, flags: u16, element: &Element, op: &ElementOp) -> Option<()> {
        self.message(kind, NLM_F_REQUEST | flags, NFPROTO_INET, 0, |batch| {
            batch.attribute(NFTA_SET_ELEM_LIST_TABLE, TABLE)?;
            batch.attribute(NFTA_SET_ELEM_LIST_SET, element.set)?;
            batch.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |batch| {
                batch.nested(NFTA_LIST_ELEM, |batch| {
                    batch.value(NFTA_SET_ELEM_KEY, Some(&element.key))?;
                    batch.value(NFTA_SET_ELEM_KEY_END, element.last_key.as_ref())?;
                    if kind == NFT_MSG_NEWSETELEM {
                        batch.value(NFTA_SET_ELEM_DATA, element.value.as_ref())?;
                    }
                    let (ElementOp::Renew(time, text) | ElementOp::Add(time, text)) = op else {
                        return Some(());
                    };
                    batch.attribute(NFTA_SET_ELEM_TIMEOUT, &milliseconds(*time).to_be_bytes())?;
                    let Some(text) = text else { return Some(()) };
                    batch.attribute(NFTA_SET_ELEM_USERDATA, &comment(text))
                })
            })
        })
    }

    /// Appends a key or value, if there is one.
    fn value(&mut self, kind: u16, value: Option<&Vec<u8>>) -> Option<()> {
        let Some(value) = value else { return Some(()) };
        self.nested(kind, |batch| batch.attribute(NFTA_DATA_VALUE, value))
    }

    /// Appends a message: header, nfgenmsg, attributes.
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: impl FnOnce(&mut Self) -> Option<()>,
    ) -> Option<()> {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        let [high, low] = resource.to_be_bytes();
        self.bytes.extend([family, 0, high, low]);
        attributes(self)?;
        let length = u32::try_from(self.bytes.len().checked_sub(start)?).ok()?;
        self.patch(start, &length.to_ne_bytes())
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> Option<()> {
        self.attribute_with(kind, |batch| {
            batch.bytes.extend(value);
            Some(())
        })
    }

    fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        self.attribute_with(kind | NLA_F_NESTED, inside)
    }

    /// Appends an attribute: length (without padding) and kind, then the value, padded to four bytes.
    fn attribute_with(&mut self, kind: u16, value: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        value(self)?;
        let length = u16::try_from(self.bytes.len().checked_sub(start)?).ok()?;
        self.patch(start, &length.to_ne_bytes())?;
        self.bytes.resize(aligned(self.bytes.len())?, 0);
        Some(())
    }

    fn patch(&mut self, at: usize, value: &[u8]) -> Option<()> {
        self.bytes.get_mut(at..)?.get_mut(..value.len())?.copy_from_slice(value);
        Some(())
    }
}

fn comment(text: &str) -> Vec<u8> {
    // Client and action have at most 32 bytes each; nftables allows 128.
    let length = u8::try_from(text.len().saturating_add(1)).unwrap_or(u8::MAX);
    [&[UDATA_COMMENT, length], text.as_bytes(), &[0]].concat()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn aligned(length: usize) -> Option<usize> {
    length.checked_next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::os::clock;

    #[test]
    fn acknowledgments_are_decoded_into_sequence_and_errno() {
        let message = |kind: u16, sequence: u32, errno: i32| {
            let mut bytes = Vec::new();
            bytes.extend(36_u32.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(errno.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes
        };
        let bytes = [message(2, 7, -2), message(3, 7, -9), message(2, 8, 0)].concat();
        assert_eq!(acknowledgments(&bytes), [(7, 2), (8, 0)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = acknowledgments(&bytes);
            for message in messages(&bytes) {
                let _ = elements(b"grants4\0", &message, clock::steady());
            }
        }
    }
}
