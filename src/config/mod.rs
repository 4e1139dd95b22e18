//! Configuration: TOML text → checked values. Every problem is found and told with its place.

#[cfg(feature = "server")]
pub(crate) mod client_keys;
mod datetime;
#[cfg(feature = "server")]
pub(crate) mod revoked_keys;
#[cfg(feature = "server")]
pub(crate) mod setup;

#[cfg(feature = "server")]
mod actions;
#[cfg(feature = "server")]
mod clients;
mod document;
#[cfg(feature = "server")]
mod load;
mod problem;
mod profile;
#[cfg(feature = "server")]
mod sections;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod write;

#[cfg(feature = "server")]
pub use clients::CONSOLE;
pub use datetime::{DateTime, InvalidInstant};
pub use document::{Document, TomlTable, TomlValue, written};
#[cfg(feature = "server")]
pub use load::{
    CLIENTS_FOLDER, ConfigText, load, load_client_files, load_main, load_trusted, load_with, outline, read,
    writers,
};
pub use problem::{ConfigErrors, Problem, SourceLocation, ValueLocations, full_name};
pub use profile::{Profile, ProfileError};
#[cfg(feature = "server")]
pub use sections::USER;
#[cfg(feature = "server")]
pub use server::{
    Audit, AuditSettings, BackendKind, ClientEntry, Interfaces, LegacyConfig, MetricsPlace, Outline,
    PreviousKey, ServerConfig,
};
#[cfg(feature = "server")]
pub(crate) use write::{host_id, quoted};

/// The UDP port that knocks are sent to, unless another is configured.
pub const KNOCK_PORT: u16 = 62_201;
