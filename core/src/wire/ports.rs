//! Port sequences: which eight ports a knock without a payload uses (`docs/internals/protocol.md`, section 7).

use std::net::IpAddr;

use crate::crypto::{MacKey, Nonce, Tag};
use crate::knock::{ActionName, KnockRange, SLICES, TimeStep, mapped};

/// Number of ports that the selector determines; the proof determines the others.
pub const SELECTED: usize = 2;
/// Number of ports that the proof determines.
pub const PROVEN: usize = SLICES - SELECTED;

/// The proof for a time step, an address and an action. Only a holder of the proof key can compute it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Ports 2 to 7.
    pub ports: [u16; PROVEN],
    /// The knock's id: the bytes from which the ports are derived.
    pub id: Nonce,
}

/// Ports 0 and 1: they identify a key for one time step.
#[must_use]
pub fn selector(key: &MacKey, step: TimeStep, knock_range: KnockRange) -> [u16; SELECTED] {
    let [a1, a0, b1, b0, ..] = key.tag(&[&step.number().to_be_bytes()]);
    [(0, [a1, a0]), (1, [b1, b0])].map(|(slice, number)| knock_range.port(slice, u16::from_be_bytes(number)))
}

/// Ports 2 to 7, bound to the client's `address` (*exact*) or valid from any source address if it is `None`
/// (*observed*).
#[must_use]
pub fn proof(
    key: &MacKey,
    step: TimeStep,
    address: Option<IpAddr>,
    action: &ActionName,
    knock_range: KnockRange,
) -> Proof {
    let address = address.map_or([0; 16], |address| mapped(address).octets());
    let tag = key.tag(&[&step.number().to_be_bytes(), &address, action.as_str().as_bytes()]);
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..]: Tag = tag;
    let numbers = [(2, [a, b]), (3, [c, d]), (4, [e, f]), (5, [g, h]), (6, [i, j]), (7, [k, l])];
    let ports = numbers.map(|(slice, number)| knock_range.port(slice, u16::from_be_bytes(number)));
    Proof { ports, id: [a, b, c, d, e, f, g, h, i, j, k, l] }
}

/// All eight ports, ordered by slice.
#[must_use]
pub fn sequence(selector: [u16; SELECTED], proof: &Proof) -> [u16; SLICES] {
    let ([a, b], [c, d, e, f, g, h]) = (selector, proof.ports);
    [a, b, c, d, e, f, g, h]
}
