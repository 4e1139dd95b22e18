//! Tests of the complete state directory.

mod crash_model;
mod recording;
mod sources;
mod uses_and_codes;
