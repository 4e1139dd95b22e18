//! Configuration: TOML text → checked values. Every problem is found and told with its place.

mod document;
mod instant;
mod problem;
#[cfg(feature = "server")]
mod actions;
#[cfg(feature = "server")]
mod clients;
#[cfg(feature = "server")]
mod load;
#[cfg(feature = "server")]
mod sections;
#[cfg(feature = "server")]
mod server;

pub use document::{Document, Table, Value};
pub use instant::{Instant, InvalidInstant};
pub use problem::{ConfigErrors, Place, Places, Problem};
#[cfg(feature = "server")]
pub use load::{CLIENTS_FOLDER, Source, load, read};
#[cfg(feature = "server")]
pub use server::{Audit, Backend, CaptureKind, ClientEntry, Interfaces, ServerConfig};
