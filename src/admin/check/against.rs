//! Compares the policy with that of another server: both hosts of a pair, or all members of a fleet, must have the same.

use std::path::Path;

use super::report::CheckReport;
use crate::config::policy_digest::{PolicyDifference, PolicyDigest, PolicyPart};
use crate::config::setup::Setup;
use crate::console::{AdminError, own_command, print};
use crate::os::files;

/// `spa-knockd check --policy`: prints the digest of this server's policy.
///
/// # Errors
/// All problems of config and keys.
pub(crate) fn print_policy(path: &Path) -> Result<(), AdminError> {
    print(&PolicyDigest::of(&Setup::load(path)?).to_string())
}

impl CheckReport {
    /// Reports where this policy differs from the one in the file `other`; `-` is standard input.
    pub(super) fn against(&mut self, path: &Path, other: &Path) -> Result<(), AdminError> {
        let is_stdin = other == Path::new("-");
        let (source, text) = if is_stdin {
            ("standard input".to_owned(), files::read_text(Path::new("/dev/stdin")))
        } else {
            (other.display().to_string(), files::read_text(other))
        };
        let there = PolicyDigest::parse(&text.map_err(AdminError::run)?).map_err(|reason| {
            AdminError::run(format_args!(
                "{source}: {reason}\nhint: on the other server, run {} and save its output",
                own_command("check --policy")
            ))
        })?;
        // Its errors are in the report already.
        let Ok(setup) = Setup::load(path) else { return Ok(()) };
        let here = PolicyDigest::of(&setup);
        if let Some(version) = there.other_version() {
            self.warning(
                &setup.config,
                &["server"],
                format!(
                    "{source}: made by spa-knockd {version}, so it can differ although the policies are equal"
                ),
                "compare again when both servers have the same version",
            );
        }
        let differences = here.differences(&there);
        if differences.is_empty() {
            self.ok(format!("policy: equal to {source}"));
        }
        for (part, difference) in differences {
            let place = match &part {
                PolicyPart::Server => vec!["server"],
                PolicyPart::Action(name) => vec!["action", name],
                PolicyPart::Client(name) => vec!["client", name],
            };
            let (what, hint) = match difference {
                PolicyDifference::Changed if part == PolicyPart::Server => (
                    "differs from the other server",
                    "id, port, window, reply, per-key-limit, [ports], backend, protect and published must be equal",
                ),
                PolicyDifference::Changed => (
                    "differs from the other server",
                    "copy its table, and the key files of a client, to one of them",
                ),
                PolicyDifference::OnlyHere => {
                    ("missing on the other server", "add it there, or remove it here")
                }
                PolicyDifference::OnlyThere => {
                    ("only on the other server", "add it here, or remove it there")
                }
            };
            self.problem(&setup.config, &place, format!("{part}: {what}"), hint);
        }
        Ok(())
    }
}
