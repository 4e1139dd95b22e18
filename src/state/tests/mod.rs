//! Tests of the complete state folder.

mod crash_model;
mod uses_and_codes;
