//! The part of the status about a fleet with a store.

use serde::{Deserialize, Serialize};

/// The fleet of this server and its store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FleetState {
    /// The name of the fleet.
    pub(crate) name: String,
    /// The name of this server in it.
    pub(crate) member: String,
    /// Why no knock is granted, or what keeps the store from being seen.
    pub(crate) problem: Option<String>,
    /// Time since the store last answered, in milliseconds; none = not since the start.
    pub(crate) silent_ms: Option<u64>,
    /// The members of the store.
    pub(crate) endpoints: Vec<FleetEndpoint>,
    /// The live members of the fleet.
    pub(crate) members: Vec<FleetMemberState>,
    /// The revision of the store up to which clients and grants are known.
    pub(crate) revision: u64,
    /// Knocks that wait for the store.
    pub(crate) waiting: usize,
    /// What became of claims.
    pub(crate) claims: Vec<ClaimCount>,
    /// How long they took.
    pub(crate) times: ClaimTimes,
    /// What will keep knocks from being granted, or does so in part.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
    /// Clients of the fleet that this server leaves out, each with the reason.
    #[serde(default)]
    pub(crate) left_out: Vec<String>,
}

/// A member of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FleetEndpoint {
    /// Its URL.
    pub(crate) url: String,
    /// Why it does not answer as it must.
    pub(crate) problem: Option<String>,
}

/// A live member of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FleetMemberState {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: String,
    /// The version of its program.
    pub(crate) version: String,
    /// Its clock minus the median of all, in milliseconds.
    pub(crate) offset_ms: i64,
    /// Whether its policy is that of this server.
    pub(crate) same_policy: bool,
}

/// What became of claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimCount {
    /// The result.
    pub(crate) result: String,
    /// The number of claims.
    pub(crate) count: u64,
}

/// How long claims took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimTimes {
    /// The median of the latest ones, in microseconds.
    pub(crate) median_us: Option<u64>,
    /// For each upper limit in microseconds, how many were at most that long.
    pub(crate) buckets: Vec<(u64, u64)>,
    /// How many the store has answered.
    pub(crate) count: u64,
    /// The sum of their times.
    pub(crate) total_us: u64,
}
