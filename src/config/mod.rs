//! Configuration: TOML text → checked values. Every problem is found and told with its place.

#[cfg(feature = "server")]
pub(crate) mod client_keys;
mod datetime;

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

pub use datetime::{Instant, InvalidInstant};
pub use document::{Document, Table, Value, written};
pub use problem::{ConfigErrors, Place, Places, Problem, full_name};
pub use profile::{Profile, ProfileError};
/// The UDP port that knocks are sent to, unless another is configured.
pub const KNOCK_PORT: u16 = 62_201;

#[cfg(feature = "server")]
pub use clients::CONSOLE;
#[cfg(feature = "server")]
pub use load::{
    CLIENTS_FOLDER, Source, load, load_client_files, load_main, load_trusted, load_with, outline, read,
    writers,
};
#[cfg(feature = "server")]
pub use sections::USER;
#[cfg(feature = "server")]
pub use server::{
    Audit, AuditSettings, Backend, CaptureKind, ClientEntry, Interfaces, Legacy, LogSource, MetricsPlace,
    Outline, PacketLog, PreviousKey, ServerConfig,
};
