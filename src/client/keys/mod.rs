//! Keys and one-time passwords of the client: where they are found, and the commands that create and show keys.

pub(super) mod commands;
pub(super) mod import;
pub(super) mod otp;
pub(super) mod sources;
