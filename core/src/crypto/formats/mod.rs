//! Secrets as text: key files, tokens, seeds of one-time passwords, and the example that the documents show.

pub(super) mod example;
pub(super) mod keyfile;
pub(super) mod otp;
pub(super) mod token;
