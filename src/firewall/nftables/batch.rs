//! Elements as one netlink transaction of nf_tables, of which the kernel takes all or none, and the kernel's answers
//! (linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h). Headers are in the machine's byte
//! order, values of nf_tables big-endian.

use std::time::Duration;

use super::element::{self, Element};
use crate::firewall::held::{Before, Change};

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_HEADER: usize = 16;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 12;
const NFT_MSG_DELSETELEM: u16 = NFNL_SUBSYS_NFTABLES << 8 | 14;
const NFPROTO_INET: u8 = 1;

const NLA_F_NESTED: u16 = 0x8000;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_DATA_VALUE: u16 = 1;
/// libnftnl's tag for the comment that `nft list set` shows.
const UDATA_COMMENT: u8 = 0;

/// What becomes of an element.
pub(super) enum Fate {
    /// It is there for this time from now on, with this comment.
    Stays(Duration, Option<String>),
    /// The same, and it is not there yet.
    Comes(Duration, Option<String>),
    /// It is not there any more.
    Goes,
}

/// The element that a change is about, and what becomes of it.
pub(super) fn fate(change: &Change, now: Duration) -> (Element, Fate) {
    let element = element::of(&change.passage);
    let Some(holder) = &change.holder else { return (element, Fate::Goes) };
    let (left, comment) = (holder.end.saturating_sub(now), Some(holder.comment()));
    // In a set of ranges each step costs as much as all that is there.
    match change.before {
        Before::Closed if element.last_key.is_some() => (element, Fate::Comes(left, comment)),
        _ => (element, Fate::Stays(left, comment)),
    }
}

/// One transaction for these elements, however many: each has messages of its own, so that their bounds (64 KiB an
/// attribute) are far away. Adding what is there does not renew its timeout, and deleting what is not there fails, so
/// each is added, deleted and, to stay, added again. `None` when a message would be too long for its own headers.
pub(super) fn transaction(elements: &[(Element, Fate)], sequence: u32) -> Option<Vec<u8>> {
    let mut batch = Batch { bytes: Vec::with_capacity(1024), sequence };
    batch.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, |_| Some(()))?;
    for (left, (element, fate)) in (0..elements.len()).rev().zip(elements) {
        // Errors always come back; success only where it is asked for, once.
        let last = if left == 0 { NLM_F_ACK } else { 0 };
        let add =
            |batch: &mut Batch, flags| batch.element(NFT_MSG_NEWSETELEM, NLM_F_CREATE | flags, element, fate);
        match fate {
            Fate::Comes(..) => add(&mut batch, last)?,
            Fate::Goes => {
                add(&mut batch, 0)?;
                batch.element(NFT_MSG_DELSETELEM, last, element, &Fate::Goes)?;
            }
            Fate::Stays(..) => {
                add(&mut batch, 0)?;
                batch.element(NFT_MSG_DELSETELEM, 0, element, &Fate::Goes)?;
                add(&mut batch, last)?;
            }
        }
    }
    batch.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, |_| Some(()))?;
    Some(batch.bytes)
}

/// The answers in one datagram of the kernel: sequence number and errno, 0 for success.
pub(super) fn answers(bytes: &[u8]) -> Vec<(u32, i32)> {
    let errors = Messages(bytes).filter(|message| message.kind == NLMSG_ERROR);
    let answer = |message: Message<'_>| {
        let errno = i32::from_ne_bytes(*message.body.first_chunk()?);
        Some((message.sequence, errno.saturating_neg()))
    };
    errors.filter_map(answer).collect()
}

/// The messages in one datagram: kind and body.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    Messages(bytes).map(|message| (message.kind, message.body))
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header: &[u8; NLMSG_HEADER] = self.0.first_chunk()?;
        let [l0, l1, l2, l3, t0, t1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = self.0.get(NLMSG_HEADER..length)?;
        self.0 = self.0.get(aligned(length)?..).unwrap_or_default();
        let (kind, sequence) = (u16::from_ne_bytes([t0, t1]), u32::from_ne_bytes([s0, s1, s2, s3]));
        Some(Message { kind, sequence, body })
    }
}

struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    /// One element is added or deleted.
    fn element(&mut self, kind: u16, flags: u16, element: &Element, fate: &Fate) -> Option<()> {
        self.message(kind, NLM_F_REQUEST | flags, NFPROTO_INET, 0, |batch| {
            batch.attribute(NFTA_SET_ELEM_LIST_TABLE, b"spa_knock\0")?;
            batch.attribute(NFTA_SET_ELEM_LIST_SET, element.set)?;
            batch.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |batch| {
                batch.nested(NFTA_LIST_ELEM, |batch| {
                    batch.value(NFTA_SET_ELEM_KEY, Some(&element.key))?;
                    batch.value(NFTA_SET_ELEM_KEY_END, element.last_key.as_ref())?;
                    if kind == NFT_MSG_NEWSETELEM {
                        batch.value(NFTA_SET_ELEM_DATA, element.value.as_ref())?;
                    }
                    let (Fate::Stays(time, text) | Fate::Comes(time, text)) = fate else { return Some(()) };
                    batch.attribute(NFTA_SET_ELEM_TIMEOUT, &milliseconds(*time).to_be_bytes())?;
                    let Some(text) = text else { return Some(()) };
                    batch.attribute(NFTA_SET_ELEM_USERDATA, &comment(text))
                })
            })
        })
    }

    /// A key or value, if there is one.
    fn value(&mut self, kind: u16, value: Option<&Vec<u8>>) -> Option<()> {
        let Some(value) = value else { return Some(()) };
        self.nested(kind, |batch| batch.attribute(NFTA_DATA_VALUE, value))
    }

    /// One message: header, nfgenmsg, attributes.
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

    /// Length (without padding) and kind, then the value, padded to four bytes.
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
    // Client and action are 32 bytes each at most; nftables takes 128.
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

    #[test]
    fn answers_are_read_by_sequence_and_errno() {
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
        assert_eq!(answers(&bytes), [(7, 2), (8, 0)]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answers_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = answers(&bytes);
        }
    }
}
