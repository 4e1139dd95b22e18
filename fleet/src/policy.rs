//! Changes of the fleet's policy, by the administrator: an entry is replaced only if it is still the one that was read, so
//! that two administrators do not overwrite each other.

use crate::client::{Compare, Txn, TxnOp};
use crate::keys::{KeySpace, StoreKey};

/// Writes a sealed entry. `known` is the sealed value that it replaces, or nothing for a new one.
#[must_use]
pub fn write(space: &KeySpace, key: &StoreKey, known: Option<&[u8]>, sealed: &[u8]) -> Txn {
    conditional(space, key, known, |path| TxnOp::put(path, sealed))
}

/// Deletes the entry with this sealed value.
#[must_use]
pub fn delete(space: &KeySpace, key: &StoreKey, known: &[u8]) -> Txn {
    conditional(space, key, Some(known), |path| TxnOp::Delete(crate::client::KeyRange::one(path)))
}

fn conditional(
    space: &KeySpace,
    key: &StoreKey,
    known: Option<&[u8]>,
    change: impl Fn(String) -> TxnOp,
) -> Txn {
    let path = space.path(key);
    let compare = match known {
        Some(known) => Compare::value_is(path.as_str(), known),
        None => Compare::absent(path.as_str()),
    };
    Txn { compare: vec![compare], success: vec![change(path.clone())], failure: vec![TxnOp::read(path)] }
}
