//! Tests of the whole state folder.

mod crash_model;
mod uses_and_codes;
