//! Several servers that accept each knock once, together, through etcd (`[fleet]` with a store). The crate
//! `spa-knock-fleet` has everything about etcd; here is what runs where:
//!
//! ```text
//! store/      the store process: claims, the mirror, leases, the member's record. Has no key that opens a knock
//! keeper/     in the keeper: what waits for claims, the sealed policy, the grants of other members
//! admin/      the administrator's commands: fleet init, join, status, …, and client --fleet
//! ipc         the messages between keeper and store process
//! files       the directory `fleet` next to the config: certificates, logins, the fleet key
//! entry       a client as it is in the store, sealed
//! ```

pub(crate) mod entry;
pub(crate) mod files;
pub(crate) mod ipc;
pub mod store;
