//! Measures the client from process start to exit when there is nothing to wait for: it reads a key, derives the knock,
//! chooses the source address and prints what it would send.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark counts, reads the clock, and may fail loudly"
)]

#[allow(dead_code, reason = "the module has more than this benchmark needs")]
mod spread;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use spread::Spread;

const RUNS: usize = 500;
const KEY: &str = "spa-knock-key: 1\nkind: root\nsecret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
/// Target for the median, in microseconds.
const TARGET: f64 = 3_000.0;

fn main() {
    // `cargo test --benches` only checks that this starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let times: Vec<Duration> = (0..RUNS).map(|_| start()).collect();
    Spread::of(times).print("spa-knock --dry-run (process start → exit)", Some(TARGET));
}

fn start() -> Duration {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knock"));
    command.env_clear().env("HOME", "/nonexistent").env("SPA_KNOCK_KEY", KEY).stdout(Stdio::null());
    command.args(["--dry-run", "127.0.0.1", "open-ssh"]);
    let start = Instant::now();
    assert!(command.status().unwrap().success());
    start.elapsed()
}
