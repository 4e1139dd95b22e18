//! A fleet with a real store: three etcd and three daemons, each in a network namespace of its own on one bridge.
//!
//! ```text
//! network     the namespaces, and what the bridge drops or delays
//! laboratory  three etcd with mutual TLS and logins, and three members with one client
//! clock       the clock of a member, which a test sets
//! relay       delivers each datagram to all members: simultaneously, again, late and out of order
//! volley      many knocks in flight, with the time and the status of each reply
//! ledger      who has acted on which knock, and how often
//! schedule    which fault begins and ends when, from a seed
//! nemesis     carries out a schedule
//! cost        figures, for benches/fleet.rs
//! crowd       a client that knocks as fast as it can
//! ```

mod clock;
pub(crate) mod cost;
mod crowd;
mod gaps;
mod grants;
mod laboratory;
mod ledger;
mod nemesis;
mod network;
mod races;
mod relay;
mod schedule;
mod trial;
mod volley;
