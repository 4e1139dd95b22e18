//! What etcd answers, in the JSON form of its gateway. Unknown fields are ignored.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::json::{bytes_in, number_in};
use crate::rollback::AnswerKind;

/// From which store, and at which revision, an answer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct StoreHeader {
    /// Identifies the cluster. A store that was set up again has another one.
    #[serde(default, deserialize_with = "number_in")]
    pub cluster_id: u64,
    /// Identifies the member of the store.
    #[serde(default, deserialize_with = "number_in")]
    pub member_id: u64,
    /// Rises with every write.
    #[serde(default, deserialize_with = "number_in")]
    pub revision: u64,
    /// Rises with every election.
    #[serde(default, deserialize_with = "number_in")]
    pub raft_term: u64,
}

/// A key and its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct KeyValue {
    /// The key.
    #[serde(default, deserialize_with = "bytes_in")]
    pub key: Vec<u8>,
    /// Its value; empty in the event of a deletion.
    #[serde(default, deserialize_with = "bytes_in")]
    pub value: Vec<u8>,
    /// When it was last written.
    #[serde(default, deserialize_with = "number_in")]
    pub mod_revision: u64,
    /// The lease that deletes it, or 0.
    #[serde(default, deserialize_with = "number_in")]
    pub lease: u64,
}

/// The keys of a range.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RangeResponse {
    /// Missing inside of a transaction.
    #[serde(default)]
    pub header: StoreHeader,
    /// In the order of their keys.
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    /// Whether the limit has cut some off.
    #[serde(default)]
    pub more: bool,
}

/// The answer to a transaction.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct TxnResponse {
    /// Missing inside of another transaction.
    #[serde(default)]
    pub header: StoreHeader,
    /// Whether all comparisons held.
    #[serde(default)]
    pub succeeded: bool,
    /// One for each operation of the branch.
    #[serde(default)]
    pub responses: Vec<TxnResult>,
}

/// The answer to one operation of a transaction.
#[derive(Debug, Clone, Deserialize)]
pub enum TxnResult {
    /// Of a read.
    #[serde(rename = "response_range")]
    Range(RangeResponse),
    /// Of a write.
    #[serde(rename = "response_put")]
    Put(IgnoredAny),
    /// Of a deletion.
    #[serde(rename = "response_delete_range")]
    Delete(IgnoredAny),
    /// Of a transaction inside.
    #[serde(rename = "response_txn")]
    Txn(TxnResponse),
}

/// The answer to the grant, renewal or query of a lease.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct LeaseResponse {
    #[serde(default)]
    pub(super) header: StoreHeader,
    /// The lease.
    #[serde(default, rename = "ID", deserialize_with = "number_in")]
    pub id: u64,
    /// Seconds left; 0 if it has ended.
    #[serde(default, rename = "TTL", deserialize_with = "number_in")]
    pub ttl: u64,
}

/// A line of a stream: a result or an error.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StreamLine<T> {
    Result(T),
    Error(ErrorAnswer),
}

/// An error, in the forms of etcd 3.4 to 3.6.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ErrorAnswer {
    #[serde(default)]
    pub(super) error: String,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default, alias = "grpc_code")]
    pub(super) code: u32,
}

/// Part of a watch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct WatchResponse {
    #[serde(default)]
    pub(super) canceled: bool,
    #[serde(default, deserialize_with = "number_in")]
    pub(super) compact_revision: u64,
    #[serde(default)]
    pub(super) cancel_reason: String,
    #[serde(default)]
    pub(super) events: Vec<WatchEvent>,
}

/// A key was written or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WatchEvent {
    #[serde(default, rename = "type")]
    kind: EventKind,
    /// The key, its new value, and when.
    #[serde(default)]
    pub kv: KeyValue,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EventKind {
    #[default]
    Put,
    Delete,
}

impl WatchEvent {
    /// The new value, or nothing if the key was deleted.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        match self.kind {
            EventKind::Put => Some(&self.kv.value),
            EventKind::Delete => None,
        }
    }
}

/// The state of one member of the store.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct StatusResponse {
    /// Which member answers.
    #[serde(default)]
    pub header: StoreHeader,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// The size of its database in bytes.
    #[serde(default, rename = "dbSize", deserialize_with = "number_in")]
    pub db_size: u64,
    /// The member that leads, or 0.
    #[serde(default, deserialize_with = "number_in")]
    pub leader: u64,
    /// Alarms and other problems, as text.
    #[serde(default)]
    pub errors: Vec<String>,
}

/// The token of a login.
#[derive(Deserialize)]
pub(super) struct TokenResponse {
    pub(super) token: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct VersionResponse {
    pub(super) etcdserver: String,
}

/// An answer whose content does not matter.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Done {
    #[serde(default)]
    pub(super) header: StoreHeader,
}

/// An answer with a header, and what its revision shows.
pub(super) trait HasHeader {
    fn header(&self) -> StoreHeader;
    fn kind(&self) -> AnswerKind;
}

macro_rules! has_header {
    ($($type:ty: $kind:expr),*) => {
        $(impl HasHeader for $type {
            fn header(&self) -> StoreHeader {
                self.header
            }

            fn kind(&self) -> AnswerKind {
                $kind
            }
        })*
    };
}

has_header!(
    RangeResponse: AnswerKind::Read,
    LeaseResponse: AnswerKind::Stale,
    StatusResponse: AnswerKind::Stale
);

impl HasHeader for TxnResponse {
    fn header(&self) -> StoreHeader {
        self.header
    }

    fn kind(&self) -> AnswerKind {
        if self.has_written() { AnswerKind::Write } else { AnswerKind::Read }
    }
}

impl TxnResponse {
    /// Whether it has written a key. A deletion alone does not count: there may have been nothing to delete.
    fn has_written(&self) -> bool {
        self.responses.iter().any(|result| match result {
            TxnResult::Put(_) => true,
            TxnResult::Txn(inner) => inner.has_written(),
            TxnResult::Range(_) | TxnResult::Delete(_) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_transaction_is_read_as_etcd_writes_it() {
        let text = r#"{"header":{"cluster_id":"14841639068965178418","member_id":"1","revision":"3","raft_term":"2"},
            "succeeded":true,"responses":[{"response_txn":{"responses":[{"response_range":{"header":{"revision":"3"},
            "kvs":[{"key":"YQ==","create_revision":"2","mod_revision":"2","version":"1","value":"MQ=="}],"count":"1"}}]}},
            {"response_put":{"header":{"revision":"3"}}}]}"#;
        let response: TxnResponse = serde_json::from_str(text).unwrap();
        assert_eq!((response.header.cluster_id, response.header.revision), (14_841_639_068_965_178_418, 3));
        let [TxnResult::Txn(inner), TxnResult::Put(_)] = response.responses.as_slice() else { panic!() };
        assert!(!inner.succeeded);
        let [TxnResult::Range(range)] = inner.responses.as_slice() else { panic!() };
        assert_eq!((range.kvs[0].key.as_slice(), range.kvs[0].value.as_slice()), (&b"a"[..], &b"1"[..]));
    }
}
