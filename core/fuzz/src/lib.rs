//! Shared by the fuzz targets: the forms of an input, and one server with its key, policy and clock.

pub mod authentic;
mod form;
pub mod oracle;
pub mod script;
pub mod server;
pub mod site;

pub use form::{FORMAT, Form, RECORD, form};
