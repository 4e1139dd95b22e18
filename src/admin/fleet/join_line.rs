//! The join line: printed by `fleet init`, and again by `fleet join-line`.

use std::path::Path;

use zeroize::Zeroizing;

use super::config_section::require;
use crate::config;
use crate::console::{AdminError, notice, own_command, print};
use crate::fleet::admin::join_line::JoinLine;
use crate::fleet::files::{FleetFiles, LoginFile};

/// What to do with it, and that it is a secret.
pub(super) const USE: &str = "# make the other servers members; this asks for the line below, which is a secret: it opens everything\n  \
     spa-knockd fleet join";

/// Prints the join line of this member's fleet, as it is now.
///
/// # Errors
/// If this server is not a member, its config does not name the cluster, or a file of the fleet is unusable.
pub(super) fn print_again(path: &Path) -> Result<(), AdminError> {
    let config = config::load_main(path)?;
    let settings = require(&config)?;
    let cluster = settings.cluster.ok_or_else(|| {
        AdminError::run(format_args!(
            "config {}: [fleet] has no cluster, which a join line contains\nhint: {} writes it",
            config.places.of(&["fleet"]),
            own_command("fleet accept-store")
        ))
    })?;
    let files = FleetFiles::of(settings);
    let line = JoinLine {
        fleet: settings.name.clone(),
        server: config.id.clone(),
        cluster,
        endpoints: settings.endpoints.clone(),
        login: files.read_login(LoginFile::Member)?,
        secret: files.read_secret(&settings.name)?,
    };
    let text =
        line.to_text().ok_or_else(|| AdminError::run("[fleet] endpoints: too long for a join line"))?;
    notice(format_args!("fleet {}\n\nnext:\n  {USE}\n", settings.name));
    print_line(&text)
}

/// Prints the line alone, to standard output.
///
/// # Errors
/// If that fails.
pub(super) fn print_line(line: &Zeroizing<String>) -> Result<(), AdminError> {
    let mut printed = Zeroizing::new(String::with_capacity(line.len().saturating_add(1)));
    printed.push_str(line);
    printed.push('\n');
    print(&printed)
}
