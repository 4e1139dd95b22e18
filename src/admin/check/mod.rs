//! `spa-knockd check`: everything about config, keys, host and firewall that would keep the daemon from doing its work.

mod actions;
mod files;
mod host;
#[cfg(feature = "legacy")]
mod legacy;
mod packet_log;
mod report;
mod ruleset;

use std::path::Path;
use std::process::ExitCode;

pub(crate) use ruleset::survey::{needed_rules, suggest_backend, suggest_mode};

use crate::config;
use crate::console::{AdminError, print, print_lines};
use report::CheckReport;

/// Tells every problem on standard output. Exit code 0 when there is none but warnings, else 1.
pub(crate) fn check(path: &Path, json: bool) -> ExitCode {
    let mut report = CheckReport::default();
    let config = config::load(path);
    report.permissions_of_config(path);
    match config {
        Ok(config) => {
            report.ok(format!(
                "config {}: actions {}, clients {}",
                path.display(),
                config.actions.len(),
                config.clients.len()
            ));
            report.files(&config);
            report.host(&config);
            report.firewall(&config);
            report.actions(&config);
            report.restart(&config);
        }
        Err(errors) => report.problems(errors.problems()),
    }
    let clean = report.is_clean();
    let printed = if json { print(&report.json()) } else { print_lines(&report.text()) };
    match printed {
        Ok(()) if clean => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(failure) => AdminError::exit(failure),
    }
}
