//! The metrics of a fleet with a store.

use std::fmt;

use super::{MetricKind, Page, escaped, number};
use crate::control::status::FleetState;

/// Adds them.
pub(super) fn add(page: &mut Page, fleet: &FleetState) {
    let is_up = u64::from(fleet.problem.is_none());
    page.gauge(
        "fleet_store_up",
        "1 while the store of the fleet answers, and is the one that was seen before.",
        is_up,
    );
    if let Some(silent) = fleet.silent_ms {
        page.begin("fleet_store_silent_seconds", MetricKind::Gauge, "Seconds since the store last answered.");
        page.line(format_args!("spa_knock_fleet_store_silent_seconds {}", Seconds(silent)));
    }
    page.gauge(
        "fleet_policy_revision",
        "Revision of the store up to which clients are known.",
        fleet.revision,
    );
    page.gauge("fleet_members", "Live members of the fleet.", number(fleet.members.len()));
    page.begin(
        "fleet_clock_offset_seconds",
        MetricKind::Gauge,
        "Clock of each member minus the median of all.",
    );
    for member in &fleet.members {
        let sign = if member.offset_ms < 0 { "-" } else { "" };
        page.line(format_args!(
            "spa_knock_fleet_clock_offset_seconds{{member=\"{}\"}} {sign}{}",
            escaped(&member.name),
            Seconds(member.offset_ms.unsigned_abs())
        ));
    }
    page.gauge("fleet_waiting", "Knocks that wait for the store.", number(fleet.waiting));
    page.begin("fleet_claims_total", MetricKind::Counter, "Claims in the store, by result.");
    for counted in &fleet.claims {
        page.sample("fleet_claims_total", &[("result", &counted.result)], counted.count);
    }
    page.begin("fleet_claim_seconds", MetricKind::Histogram, "How long the store took to answer claims.");
    for (limit_us, count) in &fleet.times.buckets {
        let limit = Micros(*limit_us).to_string();
        page.sample("fleet_claim_seconds_bucket", &[("le", &limit)], *count);
    }
    page.sample("fleet_claim_seconds_bucket", &[("le", "+Inf")], fleet.times.count);
    page.line(format_args!("spa_knock_fleet_claim_seconds_sum {}", Micros(fleet.times.total_us)));
    page.sample("fleet_claim_seconds_count", &[], fleet.times.count);
}

/// Milliseconds, printed as seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

/// Microseconds, printed as seconds.
struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}
