//! Tests of the complete state directory.

mod crash_model;
mod recording;
mod uses_and_codes;
