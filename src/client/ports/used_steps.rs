//! The time steps in which a key was used for an address and an action: each is valid once. Saved from knock to knock;
//! if the file is lost, at most one knock is sent that the server refuses as a replay.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::os::files::{self, FileError, FileMode};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{ActionName, TimeStep};

/// The time steps used with one key.
pub(in crate::client) struct UsedSteps {
    path: Option<PathBuf>,
}

/// A line of the file: time step, address (none under *observed*) and action.
fn line(step: TimeStep, address: Option<IpAddr>, action: &ActionName) -> String {
    let address = address.map_or_else(|| "observed".to_owned(), |address| address.to_string());
    format!("{} {address} {action}", step.number())
}

impl UsedSteps {
    /// The file for the key `fingerprint` in `folder`; without a folder nothing is saved.
    pub(in crate::client) fn new(folder: Option<&Path>, fingerprint: Fingerprint) -> Self {
        Self { path: folder.map(|folder| folder.join(format!("{fingerprint}.steps"))) }
    }

    /// Reads the used time steps; an unreadable file counts as empty.
    pub(in crate::client) fn read(&self) -> UsedStepLines {
        let text = self.path.as_ref().and_then(|path| files::read_own_text(path).ok()).unwrap_or_default();
        UsedStepLines(text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect())
    }

    /// Adds a line to `used` and writes the file. Removes lines older than the time step before `step`.
    pub(in crate::client) fn store(
        &self,
        used: UsedStepLines,
        step: TimeStep,
        address: Option<IpAddr>,
        action: &ActionName,
    ) -> Result<(), FileError> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut text = String::from("# time step, address, action\n");
        let is_current = |line: &String| {
            let number = line.split(' ').next().and_then(|number| number.parse().ok());
            number.is_some_and(|number| TimeStep::new(number) >= step.before())
        };
        for line in used.0.into_iter().filter(is_current).chain([line(step, address, action)]) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{line}");
        }
        if let Some(folder) = path.parent() {
            files::create_folder(folder, FileMode::Private)?;
        }
        files::replace(path, FileMode::Private, text.as_bytes())
    }
}

/// The lines of the file.
pub(in crate::client) struct UsedStepLines(Vec<String>);

impl UsedStepLines {
    /// Whether the time step was used for this address and action.
    pub(in crate::client) fn contains(
        &self,
        step: TimeStep,
        address: Option<IpAddr>,
        action: &ActionName,
    ) -> bool {
        self.0.contains(&line(step, address, action))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_step_is_used_for_one_address_and_action_and_removed_when_it_is_over() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("state");
        let steps = UsedSteps::new(Some(&folder), Fingerprint::from_bytes([1; 8]));
        let action = |name: &str| name.parse::<ActionName>().unwrap();
        let here = Some("10.0.0.5".parse().unwrap());
        steps.store(steps.read(), TimeStep::new(7), here, &action("open-ssh")).unwrap();
        let used = steps.read();
        assert!(used.contains(TimeStep::new(7), here, &action("open-ssh")));
        for (step, address, name) in [(8, here, "open-ssh"), (7, None, "open-ssh"), (7, here, "open")] {
            assert!(!used.contains(TimeStep::new(step), address, &action(name)), "{step} {name}");
        }
        steps.store(used, TimeStep::new(8), None, &action("open-ssh")).unwrap();
        assert!(steps.read().contains(TimeStep::new(7), here, &action("open-ssh")), "it is still valid");
        steps.store(steps.read(), TimeStep::new(9), None, &action("open-ssh")).unwrap();
        assert!(!steps.read().contains(TimeStep::new(7), here, &action("open-ssh")));
        assert!(steps.read().contains(TimeStep::new(8), None, &action("open-ssh")));

        let other = UsedSteps::new(Some(&folder), Fingerprint::from_bytes([2; 8]));
        assert!(!other.read().contains(TimeStep::new(8), None, &action("open-ssh")), "another key");
        let nowhere = UsedSteps::new(None, Fingerprint::from_bytes([1; 8]));
        assert!(nowhere.store(nowhere.read(), TimeStep::new(8), None, &action("open-ssh")).is_ok());
    }
}
