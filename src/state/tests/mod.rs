//! Tests of the complete state directory.

mod crash_model;
mod folder;
mod leases;
mod recording;
mod sources;
mod starts;
mod syncs;
mod uses_and_codes;
