//! Keys and one-time passwords of the client: where they come from, and the commands that make and show them.

pub(super) mod commands;
pub(super) mod import;
pub(super) mod otp;
pub(super) mod sources;
