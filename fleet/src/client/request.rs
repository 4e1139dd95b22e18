//! What is asked of etcd, in the JSON form of its gateway (`rpc.proto` of etcd 3.4).

use serde::Serialize;

use super::json::{bytes_out, number_out};

/// One key, or all keys from `key` up to but excluding `range_end`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct KeyRange {
    #[serde(serialize_with = "bytes_out")]
    pub(super) key: Vec<u8>,
    #[serde(serialize_with = "bytes_out", skip_serializing_if = "Vec::is_empty")]
    pub(super) range_end: Vec<u8>,
}

/// What must hold for a transaction to take its success branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compare {
    target: &'static str,
    result: &'static str,
    #[serde(serialize_with = "bytes_out")]
    key: Vec<u8>,
    #[serde(flatten)]
    operand: Operand,
}

/// Exactly one of these: of two, the gateway uses any one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Operand {
    #[serde(serialize_with = "bytes_out")]
    Value(Vec<u8>),
    #[serde(serialize_with = "number_out")]
    CreateRevision(u64),
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum TxnOp {
    /// Writes a key.
    #[serde(rename = "request_put")]
    Put(Put),
    /// Deletes keys.
    #[serde(rename = "request_delete_range")]
    Delete(KeyRange),
    /// Reads keys.
    #[serde(rename = "request_range")]
    Range(RangeRequest),
    /// A transaction inside: its comparisons are made before anything is written.
    #[serde(rename = "request_txn")]
    Txn(Txn),
}

/// Writes a value, which a lease may delete again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Put {
    #[serde(serialize_with = "bytes_out")]
    pub(crate) key: Vec<u8>,
    #[serde(serialize_with = "bytes_out")]
    pub(crate) value: Vec<u8>,
    #[serde(serialize_with = "number_out", skip_serializing_if = "is_zero")]
    pub(crate) lease: u64,
}

/// Reads keys, at the newest revision or an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RangeRequest {
    #[serde(flatten)]
    pub(super) range: KeyRange,
    #[serde(serialize_with = "number_out", skip_serializing_if = "is_zero")]
    pub(super) limit: u64,
    #[serde(serialize_with = "number_out", skip_serializing_if = "is_zero")]
    pub(super) revision: u64,
}

/// If all comparisons hold, the operations of `success`, otherwise those of `failure`: atomically.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Txn {
    /// All of them must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compare: Vec<Compare>,
    /// Done if they hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub success: Vec<TxnOp>,
    /// Done if one does not hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure: Vec<TxnOp>,
}

impl KeyRange {
    /// This key alone.
    #[must_use]
    pub fn one(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), range_end: Vec::new() }
    }

    /// From `start` up to but excluding `end`.
    #[must_use]
    pub fn between(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        Self { key: start.into(), range_end: end.into() }
    }

    /// Every key that starts with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let key = prefix.into();
        let mut range_end = key.clone();
        while let Some(last) = range_end.pop() {
            if let Some(next) = last.checked_add(1) {
                range_end.push(next);
                return Self { key, range_end };
            }
        }
        // etcd's notation for "to the end of all keys".
        Self { key, range_end: vec![0] }
    }

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.range_end.as_slice() {
            [] => key == self.key,
            [0] => key >= self.key.as_slice(),
            end => key >= self.key.as_slice() && key < end,
        }
    }

    /// The first key.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        &self.key
    }

    /// The first key behind the range; empty for a single key.
    #[must_use]
    pub fn end(&self) -> &[u8] {
        &self.range_end
    }

    /// The rest of the range behind `key`.
    pub(super) fn after(&self, key: &[u8]) -> Self {
        let mut next = key.to_vec();
        next.push(0);
        Self { key: next, range_end: self.range_end.clone() }
    }
}

impl Compare {
    /// The key does not exist.
    #[must_use]
    pub fn absent(key: impl Into<Vec<u8>>) -> Self {
        Self { target: "CREATE", result: "EQUAL", key: key.into(), operand: Operand::CreateRevision(0) }
    }

    /// The key exists, and its value is below this one, byte by byte. Never holds for a missing key.
    #[must_use]
    pub fn value_below(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self::value(key.into(), "LESS", value.into())
    }

    /// The key exists and has this value. Never holds for a missing key.
    #[must_use]
    pub fn value_is(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self::value(key.into(), "EQUAL", value.into())
    }

    const fn value(key: Vec<u8>, result: &'static str, value: Vec<u8>) -> Self {
        Self { target: "VALUE", result, key, operand: Operand::Value(value) }
    }
}

impl TxnOp {
    /// Writes a value without a lease.
    #[must_use]
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self::put_leased(key, value, 0)
    }

    /// Writes a value that is deleted when the lease ends.
    #[must_use]
    pub fn put_leased(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: u64) -> Self {
        Self::Put(Put { key: key.into(), value: value.into(), lease })
    }

    /// Reads a key.
    #[must_use]
    pub fn read(key: impl Into<Vec<u8>>) -> Self {
        Self::Range(RangeRequest::new(KeyRange::one(key)))
    }
}

impl RangeRequest {
    /// Reads all keys of the range at the newest revision.
    #[must_use]
    pub const fn new(range: KeyRange) -> Self {
        Self { range, limit: 0, revision: 0 }
    }

    /// Reads at most this many keys.
    #[must_use]
    pub fn limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// Reads what was there at this revision.
    #[must_use]
    pub fn at(self, revision: u64) -> Self {
        Self { revision, ..self }
    }
}

impl Txn {
    /// Operations without a condition.
    #[must_use]
    pub const fn unconditional(success: Vec<TxnOp>) -> Self {
        Self { compare: Vec::new(), success, failure: Vec::new() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_transaction_has_the_form_of_the_gateway() {
        let txn = Txn {
            compare: vec![Compare::absent("a"), Compare::value_below("b", "2")],
            success: vec![TxnOp::put_leased("a", "1", 7), TxnOp::Delete(KeyRange::prefix("c/"))],
            failure: vec![TxnOp::read("a")],
        };
        let expected = concat!(
            r#"{"compare":[{"target":"CREATE","result":"EQUAL","key":"YQ==","create_revision":"0"},"#,
            r#"{"target":"VALUE","result":"LESS","key":"Yg==","value":"Mg=="}],"#,
            r#""success":[{"request_put":{"key":"YQ==","value":"MQ==","lease":"7"}},"#,
            r#"{"request_delete_range":{"key":"Yy8=","range_end":"YzA="}}],"#,
            r#""failure":[{"request_range":{"key":"YQ=="}}]}"#
        );
        assert_eq!(serde_json::to_string(&txn).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn a_prefix_contains_what_starts_with_it_and_nothing_else(prefix: Vec<u8>, key: Vec<u8>) {
            let range = KeyRange::prefix(prefix.clone());
            prop_assert_eq!(range.contains(&key), key.starts_with(&prefix));
            let inside = [prefix, key].concat();
            prop_assert!(range.contains(&inside));
            prop_assert!(!range.after(&inside).contains(&inside));
        }
    }
}
