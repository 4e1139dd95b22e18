//! The protocol of spa-knock, for its own programs and for others that embed it: the values of a knock, their wire
//! format, the keys, and every check that a knock must pass. Nothing here reads a file, a packet or a clock: bytes and
//! times are arguments, and verdicts are data. The specification is `docs/internals/protocol.md`.
//!
//! A module imports only from the lines below its own:
//!
//! ```text
//! auth          every check: watcher, keeper, policy
//! wire  crypto  bytes
//! knock         values
//! ```
#![cfg_attr(
    test,
    allow(clippy::as_conversions, clippy::arithmetic_side_effects, reason = "tests count and cast freely")
)]

pub mod auth;
pub mod crypto;
pub mod knock;
pub mod wire;
