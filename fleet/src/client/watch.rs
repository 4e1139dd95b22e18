//! A watch: a stream of JSON lines, one for each change, from a revision on.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use ureq::BodyReader;

use super::connection::{LONGEST_ANSWER, io_fault, parse};
use super::response::{StreamLine, WatchEvent, WatchResponse};
use super::{KeyRange, StoreClient, StoreError, StoreFault};

/// A stream of the changes in a range of keys. It ends with its first error: then open another one, from
/// [`KeyWatch::next_revision`] on.
pub struct KeyWatch {
    lines: BufReader<BodyReader<'static>>,
    endpoint: String,
    next_revision: u64,
    silence: Duration,
}

/// Changes of one or more revisions, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchProgress {
    /// All changes up to this revision are known now.
    pub revision: u64,
    /// What has changed.
    pub events: Vec<WatchEvent>,
}

impl StoreClient {
    /// Opens a watch from `revision` on. It fails after this much silence, because a connection whose other side has
    /// disappeared is as silent as one on which nothing happens.
    ///
    /// # Errors
    /// If no endpoint opens it. The compaction of `revision` is reported by [`KeyWatch::read`].
    pub fn watch(&self, range: &KeyRange, revision: u64, silence: Duration) -> Result<KeyWatch, StoreError> {
        let create = json!({"create_request": {
            "key": super::encode(&range.key),
            "range_end": super::encode(&range.range_end),
            "start_revision": revision.to_string(),
        }});
        let body = create.to_string();
        let mut error = self.error(StoreFault::Other("has no endpoints".to_owned()));
        let first = self.preferred.load(Ordering::Relaxed);
        let order = self.connections.iter().enumerate();
        for (index, connection) in order.clone().skip(first).chain(order.take(first)) {
            match connection.stream("/v3/watch", body.as_bytes(), silence) {
                Ok(response) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
                    return Ok(KeyWatch {
                        lines: BufReader::new(reader),
                        endpoint: connection.endpoint.url().to_owned(),
                        next_revision: revision,
                        silence,
                    });
                }
                Err(fault) => error = StoreError::new(connection.endpoint.url(), fault),
            }
        }
        Err(error)
    }
}

impl KeyWatch {
    /// Waits for the next changes. Nothing, if the store only confirms that the watch exists.
    ///
    /// # Errors
    /// After the longest silence, at the end of the connection, and [`StoreFault::Compacted`] if changes since the
    /// revision are no longer known: then everything must be read again.
    pub fn read(&mut self) -> Result<WatchProgress, StoreError> {
        self.line().and_then(|line| self.apply(&line)).map_err(|fault| StoreError::new(&self.endpoint, fault))
    }

    /// The first revision that is not known yet.
    #[must_use]
    pub const fn next_revision(&self) -> u64 {
        self.next_revision
    }

    fn line(&mut self) -> Result<Vec<u8>, StoreFault> {
        let mut line = Vec::new();
        let read = (&mut self.lines).take(LONGEST_ANSWER).read_until(b'\n', &mut line);
        match read {
            Err(error) => Err(io_fault(&error, self.silence)),
            Ok(_) if line.ends_with(b"\n") => Ok(line),
            Ok(_) if u64::try_from(line.len()).is_ok_and(|length| length < LONGEST_ANSWER) => {
                Err(StoreFault::Connection("the watch has ended".to_owned()))
            }
            Ok(_) => Err(StoreFault::Invalid(format!("a line over {LONGEST_ANSWER} bytes"))),
        }
    }

    fn apply(&mut self, line: &[u8]) -> Result<WatchProgress, StoreFault> {
        let progress = progress(line, self.next_revision)?;
        self.next_revision = progress.revision.saturating_add(1).max(self.next_revision);
        Ok(progress)
    }
}

/// The changes in a line. Changes before `next` are known already and left out.
fn progress(line: &[u8], next: u64) -> Result<WatchProgress, StoreFault> {
    let response: WatchResponse = match parse(line)? {
        StreamLine::Result(response) => response,
        StreamLine::Error(answer) => return Err(StoreFault::of_error(&answer)),
    };
    if response.compact_revision > 0 {
        return Err(StoreFault::Compacted(response.compact_revision));
    }
    if response.canceled {
        return Err(StoreFault::of_answer(0, &response.cancel_reason));
    }
    let mut events = response.events;
    events.retain(|event| event.kv.mod_revision >= next);
    // The header of a line may be ahead of its events while older ones are still to come, and that of the confirmation
    // is ahead of everything.
    let revision = events.iter().map(|event| event.kv.mod_revision).max().unwrap_or(next.saturating_sub(1));
    Ok(WatchProgress { revision, events })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_in_order_and_known_ones_left_out() {
        let line = br#"{"result":{"header":{"revision":"9"},"events":[
            {"kv":{"key":"YQ==","mod_revision":"4","value":"MQ=="}},
            {"kv":{"key":"Yg==","mod_revision":"5","value":"Mg=="}},
            {"type":"DELETE","kv":{"key":"YQ==","mod_revision":"6"}}]}}"#;
        let found = progress(line, 5).unwrap();
        assert_eq!(found.revision, 6);
        let events: Vec<_> =
            found.events.iter().map(|event| (event.kv.key.as_slice(), event.value())).collect();
        assert_eq!(events, [(&b"b"[..], Some(&b"2"[..])), (b"a", None)]);
    }

    #[test]
    fn a_confirmation_does_not_advance_the_revision() {
        let line = br#"{"result":{"header":{"revision":"9"},"created":true}}"#;
        assert_eq!(progress(line, 5), Ok(WatchProgress { revision: 4, events: Vec::new() }));
    }

    #[test]
    fn the_end_of_a_watch_names_its_reason() {
        let cases = [
            (r#"{"result":{"canceled":true,"compact_revision":"7"}}"#, StoreFault::Compacted(7)),
            (
                r#"{"result":{"canceled":true,"cancel_reason":"etcdserver: permission denied"}}"#,
                StoreFault::Permission,
            ),
            (
                r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#,
                StoreFault::Unavailable("etcdserver: no leader".to_owned()),
            ),
        ];
        for (line, fault) in cases {
            assert_eq!(progress(line.as_bytes(), 1), Err(fault), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_without_panic(line in "\\{\"result\":\\{[\"a-z_:{}\\[\\],0-9]{0,60}\\}\\}", bytes: Vec<u8>) {
            let _ = (progress(line.as_bytes(), 1), progress(&bytes, 1));
        }
    }
}
