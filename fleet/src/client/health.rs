//! How each endpoint is, for `check` and `status`, and what keeps connections and tokens warm.

use super::connection::parse;
use super::response::StatusResponse;
use super::{KeyRange, Patience, RangeRequest, RangeResponse, StoreClient, StoreError, StoreFault};
use crate::rollback::AnswerKind;

/// So many revisions without compaction fill etcd's database sooner or later.
const MANY_REVISIONS: u64 = 1_000_000;

/// What one endpoint answers.
#[derive(Debug, Clone)]
pub struct EndpointReport {
    /// Its URL.
    pub endpoint: String,
    /// Its version, if it answers, and the version loses no data.
    pub version: Result<String, StoreError>,
    /// Its state, if it answers to our certificate and login.
    pub status: Result<StatusResponse, StoreError>,
    /// Whether a read through it is confirmed by a majority.
    pub quorum: Result<(), StoreError>,
}

/// Whether the store forgets old revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactionState {
    /// It has forgotten some, or is still small.
    Fine,
    /// It has kept this many: nothing seems to compact it.
    Missing(u64),
}

impl EndpointReport {
    /// Whether its database has reached its quota.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        let full = |error: &String| error.contains("NOSPACE") || error.contains("space exceeded");
        self.status.as_ref().is_ok_and(|status| status.errors.iter().any(full))
    }
}

impl StoreClient {
    /// Asks every endpoint, one after the other. Run every 10 s, this keeps connections open, tokens valid and versions
    /// checked, so that no claim waits for these. `key` is any key that the user may read.
    #[must_use]
    pub fn inspect(&self, key: &str, patience: Patience) -> Vec<EndpointReport> {
        self.connections.iter().map(|connection| self.inspect_one(connection, key, patience)).collect()
    }

    fn inspect_one(
        &self,
        connection: &super::StoreConnection,
        key: &str,
        patience: Patience,
    ) -> EndpointReport {
        let url = connection.endpoint.url();
        let failed = |fault| StoreError::new(url, fault);
        let before = self.mark();
        let post = |path: &str, body: &[u8]| connection.post(path, body, patience.each);
        let status = post("/v3/maintenance/status", b"{}")
            .and_then(|body| parse::<StatusResponse>(&body))
            .map_err(failed)
            .and_then(|status| self.compare(before, status.header, AnswerKind::Stale).map(|()| status));
        let read = serde_json::to_vec(&RangeRequest::new(KeyRange::one(key))).unwrap_or_default();
        let quorum = post("/v3/kv/range", &read)
            .and_then(|body| parse::<RangeResponse>(&body))
            .map_err(failed)
            .and_then(|range| self.compare(before, range.header, AnswerKind::Read));
        let version = connection.version(patience.each).map_err(failed);
        EndpointReport { endpoint: url.to_owned(), version, status, quorum }
    }

    /// Whether anything compacts the store. `key` is any key that the user may read.
    ///
    /// # Errors
    /// If the store does not answer in time, or rejects it.
    pub fn compaction(&self, key: &str) -> Result<CompactionState, StoreError> {
        let read = RangeRequest::new(KeyRange::one(key));
        let revision = self.range(&read, Patience::BACKGROUND)?.header.revision;
        let Some(old) = revision.checked_sub(MANY_REVISIONS).filter(|old| *old > 0) else {
            return Ok(CompactionState::Fine);
        };
        match self.range(&read.at(old), Patience::BACKGROUND) {
            Ok(_) => Ok(CompactionState::Missing(MANY_REVISIONS)),
            Err(error) if matches!(error.fault(), StoreFault::Compacted(_)) => Ok(CompactionState::Fine),
            Err(error) => Err(error),
        }
    }
}
