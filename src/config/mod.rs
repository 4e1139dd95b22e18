//! Configuration: turns TOML text into checked values. Reports all problems with their locations.

#[cfg(feature = "daemon")]
pub(crate) mod client_keys;
mod datetime;
pub(crate) mod public_key_file;
#[cfg(feature = "daemon")]
pub(crate) mod revoked_keys;
#[cfg(feature = "daemon")]
pub(crate) mod setup;

#[cfg(feature = "daemon")]
mod actions;
#[cfg(feature = "daemon")]
mod clients;
mod document;
#[cfg(feature = "daemon")]
mod fleet;
#[cfg(feature = "daemon")]
mod load;
#[cfg(feature = "daemon")]
mod needs;
#[cfg(feature = "daemon")]
pub(crate) mod policy_digest;
mod problem;
mod profile;
#[cfg(feature = "daemon")]
mod sections;
#[cfg(feature = "daemon")]
mod server;
mod syntax;
#[cfg(feature = "daemon")]
mod write;

#[cfg(feature = "daemon")]
pub use clients::CONSOLE;
pub use datetime::{DateTime, InvalidInstant};
pub use document::{Document, TomlTable, TomlValue, written};
#[cfg(feature = "daemon")]
pub use fleet::FleetStore;
#[cfg(feature = "fleet")]
pub(crate) use fleet::fleet_folder;
#[cfg(feature = "fleet")]
pub use fleet::{EtcdSettings, GrantScope, WhenLost};
#[cfg(feature = "fleet")]
pub(crate) use load::fleet_clients::{folders as fleet_client_folders, read_definition as read_fleet_client};
#[cfg(all(feature = "daemon", feature = "legacy"))]
pub(crate) use load::writers_of_file;
#[cfg(feature = "daemon")]
pub use load::{
    CLIENTS_FOLDER, ConfigText, load, load_client_files, load_main, load_trusted, load_with, outline, read,
    writers,
};
pub use problem::{ConfigErrors, Problem, SourceLocation, ValueLocations, full_name};
pub use profile::{AddressChoice, LearnChoice, Profile, ProfileError, Profiles, SignChoice};
#[cfg(feature = "daemon")]
pub use sections::USER;
#[cfg(feature = "daemon")]
pub use server::{
    Audit, AuditSettings, BackendKind, ClientEntry, HealthSettings, Interfaces, LegacyConfig, MetricsPlace,
    Outline, PreviousKey, ServerConfig, SigningEntry,
};
#[cfg(feature = "daemon")]
pub(crate) use write::{host_id, quoted};

/// The default UDP port of knocks.
pub const KNOCK_PORT: u16 = 62_201;

/// The client names in audit records of knockd's knock sequences and of fwknop's packets. Reserved if the config has
/// `[legacy]`.
#[cfg(feature = "daemon")]
pub(crate) const LEGACY_CLIENTS: [&str; 2] = ["knockd", "fwknop"];

/// Whether this is one of the reserved names [`LEGACY_CLIENTS`].
#[cfg(feature = "daemon")]
pub(crate) fn is_legacy_client(name: &spa_knock_core::knock::ClientName) -> bool {
    LEGACY_CLIENTS.contains(&name.as_str())
}
