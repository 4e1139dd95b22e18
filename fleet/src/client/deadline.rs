//! How long a request may take: the only clock of this crate, and it is monotonic.

use std::time::{Duration, Instant};

/// How long one try may take, and all tries together. A try includes connect, TLS handshake and login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// One try at one endpoint.
    pub each: Duration,
    /// All tries at all endpoints: none starts that could end later.
    pub total: Duration,
}

impl Patience {
    /// For a claim, for which a knock waits: 300 ms a try, 1,000 ms in all.
    pub const CLAIM: Self = Self { each: Duration::from_millis(300), total: Duration::from_millis(1_000) };
    /// For what no knock waits for. etcd hashes a password for about 100 ms, on a busy host for longer.
    pub const BACKGROUND: Self = Self { each: Duration::from_secs(2), total: Duration::from_secs(6) };
}

/// A point in time after which nothing is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn within(span: Duration) -> Self {
        let now = now();
        Self(now.checked_add(span).unwrap_or(now))
    }

    /// The time left, if any.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|left| !left.is_zero())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this crate is below `os`, and needs a clock for its deadlines alone"
)]
fn now() -> Instant {
    Instant::now()
}
