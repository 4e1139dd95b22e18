//! `spa-knockd migrate FILE`: prints a `spa-knockd.toml` with the rights of an `access.conf` as actions. Changes nothing.

mod actions;
mod clients;
mod command;
mod files;
mod translate;

use std::path::Path;

use crate::config::host_id;
use crate::console::{AdminError, notice, own_command, print, print_error};
use crate::os::{clock, files as os_files};
use files::MigrationFiles;
use spa_knock_core::knock::ServerId;
use spa_knock_fwknop::{ConfigProblem, Place, outline_access, outline_server};

/// Prints the config to standard output, and what is not translated to standard error. The settings are those of
/// `fwknopd.conf` in the same directory.
///
/// # Errors
/// If a file cannot be read, if no stanza can be translated, or if the host has no name that is a valid server id.
pub(crate) fn migrate(file: &Path, id: Option<ServerId>) -> Result<(), AdminError> {
    let settings = file.with_file_name("fwknopd.conf");
    let mut problems = Vec::new();
    let text = if os_files::exists(&settings) {
        os_files::read_trusted_text(&settings)?
    } else {
        let reason = "no such file; translated as if fwknopd's settings were the defaults".to_owned();
        let place = Place { file: settings.clone(), line: 0 };
        problems.push(ConfigProblem { place, reason, hint: None });
        String::new()
    };
    let server = outline_server(&settings, &text);
    let access = outline_access(file, &server.settings, &mut MigrationFiles);
    let id = id.map_or_else(host_id, Ok)?;
    let now = clock::wall().as_millis() / 1_000;
    let translation = translate::translate(&access.stanzas, &server, &id, &file.display().to_string(), now);
    problems.extend(server.problems);
    problems.extend(access.problems);
    problems.extend(translation.remarks);
    if translation.actions.is_empty() {
        return Err(AdminError::configs(problems.iter().map(ToString::to_string).collect()));
    }
    print(&translation.text)?;
    problems.iter().for_each(print_error);
    notice(format_args!(
        "\nnext steps, once this config is installed:\n  \
         the commands at its end    create a key for each client\n  \
         {}    check the configuration",
        own_command("check")
    ));
    Ok(())
}
