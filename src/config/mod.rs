//! Configuration: TOML text → checked values. Every problem is found and told with its place.

#[cfg(feature = "server")]
mod server;

#[cfg(feature = "server")]
pub use server::{Audit, Backend, CaptureKind, ClientEntry, Interfaces, ServerConfig};
