//! `spa-knockd migrate FILE`: prints a `spa-knockd.toml` with the doors of a `knockd.conf` as actions. Changes nothing.

mod translate;

mod rules;
mod shell;

use std::path::Path;

use super::knockd::Config;
use crate::config::host_id;
use crate::console::{AdminError, notice, own_command, print, print_error};
use crate::os::files;
use spa_knock_core::knock::ServerId;
use translate::migrate as translated;

/// Prints the config to standard output and the remarks on it to standard error.
///
/// # Errors
/// If the file cannot be read or is not a valid `knockd.conf`, or if the host has no name that is a valid server id.
pub(crate) fn migrate(file: &Path, id: Option<ServerId>) -> Result<(), AdminError> {
    let shown = file.display().to_string();
    let config = Config::read(&files::read_bytes(file)?)
        .map_err(|error| AdminError::config(format_args!("{shown}: {error}")))?;
    let id = id.map_or_else(host_id, Ok)?;
    let migrated = translated(&config, &id, &shown);
    print(&migrated.text)?;
    for remark in &migrated.remarks {
        print_error(format_args!("{shown}: {remark}"));
    }
    if !migrated.actions.is_empty() {
        let actions: Vec<_> = migrated.actions.iter().map(ToString::to_string).collect();
        notice(format_args!(
            "\nnext steps, once this config is installed:\n  \
             {}    create a key for each client\n  \
             {}    check the configuration",
            own_command(&format!("client add NAME --allow {} -o NAME.key", actions.join(","))),
            own_command("check")
        ));
    }
    Ok(())
}
