//! Secrets as text: key files, tokens, seeds of one-time passwords, and the public example secret.

pub(super) mod example;
pub(super) mod keyfile;
pub(super) mod otp;
pub(super) mod token;
