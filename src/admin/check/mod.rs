//! `spa-knockd check`: finds everything in config, keys, host and firewall that would prevent the daemon from working.

mod actions;
mod against;
mod files;
#[cfg(feature = "fleet")]
mod fleet;
#[cfg(feature = "fwknop")]
mod fwknop;
mod host;
#[cfg(feature = "legacy")]
mod legacy;
mod packet_log;
mod report;
mod ruleset;

use std::path::Path;
use std::process::ExitCode;

pub(crate) use against::print_policy;
#[cfg(feature = "fwknop")]
pub(crate) use fwknop::rules_after_reboot;
pub(crate) use ruleset::survey::{NeededRule, needed_rules, suggest_backend, suggest_mode};

use crate::admin::clients::awaits_first_start;
use crate::config;
use crate::console::{AdminError, counted, print, print_lines};
use report::CheckReport;

/// Prints all findings to standard output. The exit code is 1 if there is a problem, else 0; warnings do not change it.
///
/// With `against`, also compares the policy with that in another server's file.
pub(crate) fn check(path: &Path, json: bool, against: Option<&Path>) -> ExitCode {
    let mut report = CheckReport::default();
    let config = config::load(path);
    report.permissions_of_config(path);
    match config {
        Ok(config) => {
            let later = match awaits_first_start(&config) {
                true => " (clients of the fleet appear when the daemon has started)",
                false => "",
            };
            report.ok(format!(
                "config {}: {}, {}{later}",
                path.display(),
                counted(config.actions.len(), "action"),
                counted(config.clients.len(), "client")
            ));
            report.files(&config);
            report.host(&config);
            report.firewall(&config);
            report.actions(&config);
            #[cfg(feature = "fleet")]
            report.fleet(&config);
            report.restart(&config);
        }
        Err(errors) => report.problems(errors.problems()),
    }
    if let Some(Err(failure)) = against.map(|other| report.against(path, other)) {
        return failure.exit();
    }
    let clean = report.is_clean();
    let printed = if json { print(&report.json()) } else { print_lines(&report.text()) };
    match printed {
        Ok(()) if clean => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(failure) => AdminError::exit(failure),
    }
}
