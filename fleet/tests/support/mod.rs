//! Shared by the tests with a real store.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::panic,
    reason = "each test uses a part, and panics on failure"
)]

pub mod certificates;
pub mod etcd;
pub mod knocks;
