//! etcd's HTTP/JSON gateway: requests with deadlines, at the next endpoint if one does not answer, over TLS connections
//! that stay open. Runs in the store process; knows keys and values, and not what they mean.

mod certificate;
mod connection;
mod deadline;
mod endpoint;
mod error;
mod health;
mod identity;
mod json;
mod request;
mod response;
mod watch;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use spa_knock_core::knock::Timestamp;

pub use certificate::has_common_name;
pub use deadline::Patience;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use error::{StoreError, StoreFault};
pub use health::{CompactionState, EndpointReport};
pub use identity::{Login, TlsIdentity, TlsIdentityError};
pub use request::{Compare, KeyRange, Put, RangeRequest, Txn, TxnOp};
pub use response::{
    KeyValue, LeaseResponse, RangeResponse, StatusResponse, StoreHeader, TxnResponse, TxnResult, WatchEvent,
};
pub use watch::{KeyWatch, WatchProgress};

pub(crate) use deadline::Deadline;
pub(crate) use json::encode;

use self::connection::{StoreConnection, parse};
use self::response::{Done, HasHeader};
use crate::rollback::{AnswerKind, StoreMark, WentBack};

/// So many keys are read with one request.
const PAGE: u64 = 256;
/// More keys than this in one range are not a fleet.
const MOST_KEYS: usize = 100_000;
/// Between two rounds through all endpoints.
const PAUSE: Duration = Duration::from_millis(20);

/// A client of the store, for several threads. After it has seen the store go back, it answers nothing more.
pub struct StoreClient {
    connections: Vec<StoreConnection>,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
    mark: Mutex<MarkState>,
}

#[derive(Default)]
struct MarkState {
    mark: Option<StoreMark>,
    went_back: Option<WentBack>,
}

impl StoreClient {
    /// A client of these endpoints. `mark` is what was seen of the store before, and `None` only for a new member.
    #[must_use]
    pub fn new(
        endpoints: Vec<Endpoint>,
        tls: Option<&TlsIdentity>,
        login: Option<&Login>,
        mark: Option<StoreMark>,
    ) -> Self {
        Self {
            connections: endpoints
                .into_iter()
                .map(|endpoint| StoreConnection::new(endpoint, tls, login.cloned()))
                .collect(),
            preferred: AtomicUsize::new(0),
            mark: Mutex::new(MarkState { mark, went_back: None }),
        }
    }

    /// Runs a transaction. After a timeout it may be sent again, so that it must have the same effect twice as once.
    ///
    /// # Errors
    /// If the store does not answer in time, or rejects it.
    pub fn txn(&self, txn: &Txn, patience: Patience) -> Result<TxnResponse, StoreError> {
        self.call("/v3/kv/txn", txn, patience)
    }

    /// Reads keys.
    ///
    /// # Errors
    /// If the store does not answer in time, or rejects it.
    pub fn range(&self, request: &RangeRequest, patience: Patience) -> Result<RangeResponse, StoreError> {
        self.call("/v3/kv/range", request, patience)
    }

    /// Reads all keys of a range as they were at one revision, in pages.
    ///
    /// # Errors
    /// If the store does not answer in time, or rejects it, or there are more than 100,000 keys.
    pub fn read_all(&self, range: &KeyRange, patience: Patience) -> Result<(u64, Vec<KeyValue>), StoreError> {
        let mut response = self.range(&RangeRequest::new(range.clone()).limit(PAGE), patience)?;
        let revision = response.header.revision;
        let mut found = Vec::new();
        loop {
            let rest = response.kvs.last().map(|last| range.after(&last.key));
            found.append(&mut response.kvs);
            let Some(rest) = rest.filter(|_| response.more) else { return Ok((revision, found)) };
            if found.len() > MOST_KEYS {
                return Err(self.error(StoreFault::Invalid(format!("over {MOST_KEYS} keys"))));
            }
            response = self.range(&RangeRequest::new(rest).limit(PAGE).at(revision), patience)?;
        }
    }

    /// Writes one key.
    ///
    /// # Errors
    /// If the store does not answer in time, or rejects it.
    pub fn put(
        &self,
        key: &str,
        value: &[u8],
        lease: u64,
        patience: Patience,
    ) -> Result<StoreHeader, StoreError> {
        let txn = Txn::unconditional(vec![TxnOp::put_leased(key, value, lease)]);
        self.txn(&txn, patience).map(|response| response.header)
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// If the store does not answer in time, or rejects it.
    pub fn delete(&self, range: KeyRange, patience: Patience) -> Result<StoreHeader, StoreError> {
        let txn = Txn::unconditional(vec![TxnOp::Delete(range)]);
        self.txn(&txn, patience).map(|response| response.header)
    }

    /// Creates a lease that ends after this many seconds, or earlier.
    ///
    /// # Errors
    /// If the store does not answer in time, or rejects it.
    pub fn grant_lease(&self, seconds: u64, patience: Patience) -> Result<LeaseResponse, StoreError> {
        self.call("/v3/lease/grant", &json!({"TTL": seconds.to_string()}), patience)
    }

    /// Renews a lease for as long as it was created for.
    ///
    /// # Errors
    /// [`StoreFault::NoLease`] if it has ended, otherwise if the store does not answer in time, or rejects it.
    pub fn keep_lease(&self, lease: u64, patience: Patience) -> Result<LeaseResponse, StoreError> {
        let body = json!({"ID": lease.to_string()});
        // The answer is a stream with one line.
        let body = self.exchange("/v3/lease/keepalive", &body, patience)?;
        let line = parse(&body).map_err(|fault| self.error(fault))?;
        let response: LeaseResponse = match line {
            response::StreamLine::Result(response) => response,
            response::StreamLine::Error(answer) => return Err(self.error(StoreFault::of_error(&answer))),
        };
        if response.ttl == 0 { Err(self.error(StoreFault::NoLease)) } else { Ok(response) }
    }

    /// The seconds that a lease still has.
    ///
    /// # Errors
    /// [`StoreFault::NoLease`] if it has ended, otherwise if the store does not answer in time, or rejects it.
    pub fn lease_left(&self, lease: u64, patience: Patience) -> Result<u64, StoreError> {
        let body = json!({"ID": lease.to_string()});
        let response: LeaseResponse = self.call("/v3/lease/timetolive", &body, patience)?;
        if response.ttl == 0 { Err(self.error(StoreFault::NoLease)) } else { Ok(response.ttl) }
    }

    /// Sends a request of the administrator, such as those of [`crate::init`].
    ///
    /// # Errors
    /// If the store does not answer in time, or rejects it.
    pub fn administer(&self, path: &str, body: &[u8]) -> Result<(), StoreError> {
        let before = self.mark();
        let answer: Done =
            parse(&self.send(path, body, Patience::BACKGROUND)?).map_err(|fault| self.error(fault))?;
        self.compare(before, answer.header, AnswerKind::Stale)
    }

    /// What was seen of the store so far, for the next start.
    #[must_use]
    pub fn mark(&self) -> Option<StoreMark> {
        self.mark_state().mark
    }

    /// Records a floor that a transaction or a watch has reported; `before` is [`Self::mark`]'s floor from before it was
    /// sent.
    ///
    /// # Errors
    /// If it fell.
    pub fn record_floor(&self, floor: Timestamp, before: Timestamp) -> Result<(), StoreError> {
        let mut state = self.mark_state();
        let recorded = state.mark.as_mut().map_or(Ok(()), |mark| mark.record_floor(floor, before));
        recorded.map_err(|went_back| {
            state.went_back = Some(went_back);
            self.error(StoreFault::WentBack(went_back))
        })
    }

    fn call<T: DeserializeOwned + HasHeader>(
        &self,
        path: &str,
        request: &impl Serialize,
        patience: Patience,
    ) -> Result<T, StoreError> {
        let before = self.mark();
        let body = self.exchange(path, request, patience)?;
        let answer: T = parse(&body).map_err(|fault| self.error(fault))?;
        self.compare(before, answer.header(), answer.kind())?;
        Ok(answer)
    }

    fn exchange(
        &self,
        path: &str,
        request: &impl Serialize,
        patience: Patience,
    ) -> Result<Vec<u8>, StoreError> {
        let body = json::body(request).map_err(|error| self.error(StoreFault::Invalid(error.to_string())))?;
        self.send(path, &body, patience)
    }

    /// Sends a request to one endpoint after the other, beginning with the one that answered last, until one answers or
    /// the time is over.
    fn send(&self, path: &str, body: &[u8], patience: Patience) -> Result<Vec<u8>, StoreError> {
        let deadline = Deadline::within(patience.total);
        let mut error = self.error(StoreFault::Timeout(patience.total.as_millis()));
        loop {
            let first = self.preferred.load(Ordering::Relaxed);
            let order = self.connections.iter().enumerate();
            for (index, connection) in order.clone().skip(first).chain(order.take(first)) {
                if deadline.left().is_none_or(|left| left < patience.each) {
                    return Err(error);
                }
                match connection.post(path, body, patience.each) {
                    Ok(answer) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(fault) if fault.is_temporary() => {
                        error = StoreError::new(connection.endpoint.url(), fault);
                    }
                    Err(fault) => return Err(StoreError::new(connection.endpoint.url(), fault)),
                }
            }
            if self.connections.is_empty() || deadline.left().is_none_or(|left| left < patience.each) {
                return Err(error);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Compares an answer with what was seen before the request.
    fn compare(
        &self,
        before: Option<StoreMark>,
        header: StoreHeader,
        kind: AnswerKind,
    ) -> Result<(), StoreError> {
        let mut state = self.mark_state();
        if let Some(Err(went_back)) = before.map(|mark| mark.check(header, kind)) {
            state.went_back = Some(went_back);
        }
        if let Some(went_back) = state.went_back {
            return Err(self.error(StoreFault::WentBack(went_back)));
        }
        if kind != AnswerKind::Stale {
            state.mark.get_or_insert_with(|| StoreMark::first(header)).advance(header);
        }
        Ok(())
    }

    fn mark_state(&self) -> std::sync::MutexGuard<'_, MarkState> {
        self.mark.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn preferred(&self) -> Option<&StoreConnection> {
        self.connections.get(self.preferred.load(Ordering::Relaxed))
    }

    /// An error at the preferred endpoint.
    fn error(&self, fault: StoreFault) -> StoreError {
        StoreError::new(self.preferred().map_or("(none)", |connection| connection.endpoint.url()), fault)
    }
}
