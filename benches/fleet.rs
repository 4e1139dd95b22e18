//! Measures what a fleet with etcd costs: a knock until its reply, with and without a store, and how many knocks act in a
//! second. Three etcd and three daemons on this machine. Needs root and etcd.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark counts, reads the clock, and may fail loudly"
)]

#[path = "../tests/e2e/fleet/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the laboratory has more than this benchmark needs")]
mod fleet;
#[path = "../tests/net/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the test network has more than this benchmark needs")]
mod net;

#[path = "../fleet/tests/support/mod.rs"]
mod store_support;

fn main() {
    // `cargo test --benches` only checks that this starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    fleet::cost::measure(fleet::cost::Extent { knocks: 1_000, seconds: 8 });
}
