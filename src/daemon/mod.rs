//! The keeper process: `spa-knockd run` from its startup to its exit. Contains the event loop and carries out knocks.

pub(crate) mod actions;
mod alarms;
mod command_ends;
mod console_grants;
mod control_requests;
pub(crate) mod event_loop;
#[cfg_attr(not(feature = "fleet"), path = "fleet_absent.rs")]
mod fleet;
mod health;
mod http;
mod knocks;
#[cfg_attr(not(feature = "legacy"), path = "legacy_absent.rs")]
mod legacy;
mod live_hints;
pub(crate) mod metrics;
mod reload;
mod retry;
mod revocation;
mod running_order;
pub(crate) mod startup;
mod status_report;
mod takeover;
mod waiting;
mod watcher_reports;
