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
//! mark_file   what was seen of the store, on disk
//! ```

use spa_knock_core::crypto::{Fingerprint, checksum};
use spa_knock_core::knock::ClientName;

pub(crate) mod admin;
pub(crate) mod entry;
pub(crate) mod files;
pub(crate) mod ipc;
pub(crate) mod keeper;
pub(crate) mod mark_file;
pub mod store;

/// Under which number the store counts the uses of a client: that of its name, so that a rotated key brings no new ones.
pub(crate) fn uses_id(client: &ClientName) -> Fingerprint {
    Fingerprint::from_bytes(checksum(&[b"spa-knock/1 fleet uses\0", client.as_str().as_bytes()]))
}
