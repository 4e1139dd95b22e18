//! Authentic clients against keeper and policy, in any order of events: each verdict is that of a naive model.
//! `src/authentic.rs` describes an input.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spa_knock_core_fuzz::authentic;

fuzz_target!(|input: &[u8]| authentic::run(input));
