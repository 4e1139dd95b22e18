//! What opens and closes ports.
