//! What commands need to know about the daemon: from the config, else from the state directory, else defaults. Reads no
//! keys.

use std::path::{Path, PathBuf};

use crate::config::setup::Setup;
use crate::config::{self, BackendKind, ConfigErrors, ServerConfig};
use crate::console::{AdminError, notice, own_command};
use crate::control::{self, AskResult, Request, Response};
use crate::gate::lock;
use crate::gate::state::GateState;
use crate::state::{self, last_good};

/// Where the daemon keeps its state and listens, and what its gate consists of.
pub(crate) struct DaemonFacts {
    /// The state directory.
    pub(crate) state_dir: PathBuf,
    /// The backend that the daemon last ran with, else the configured one.
    pub(crate) backend: BackendKind,
    /// What the gate consists of, without clients; `None` if there is no valid config, current or earlier.
    pub(crate) plan: Option<Setup>,
    /// The control sockets of possible daemons.
    controls: Vec<PathBuf>,
}

impl DaemonFacts {
    /// Collects the facts, and warns if the config has errors and something else is used instead.
    pub(crate) fn find(path: &Path, state_dir: Option<&Path>) -> Self {
        let (facts, errors) = Self::collect(path, state_dir);
        if let Some((errors, has_last_good)) = errors {
            report(path, &errors, &facts.state_dir, has_last_good);
        }
        facts
    }

    /// Collects the facts without a warning, for a command whose result contains the errors of the config.
    pub(crate) fn find_quietly(path: &Path, state_dir: Option<&Path>) -> Self {
        Self::collect(path, state_dir).0
    }

    /// The facts, and the errors of the config with whether the daemon's last config is used instead.
    fn collect(path: &Path, state_dir: Option<&Path>) -> (Self, Option<(ConfigErrors, bool)>) {
        let (valid, outline) = match trusted(path) {
            Ok(()) => (config::load_main(path), config::outline(path)),
            // Others can write it, so nothing in it is used.
            Err(writers) => (Err(writers), config::outline(Path::new(""))),
        };
        let state_dir = state_dir.map_or(outline.state_dir, Path::to_owned);
        let last_good = last_good::read(&state_dir);
        let mut controls = vec![outline.control];
        controls.extend(last_good.iter().map(|config| config.control.clone()));
        controls.dedup();
        let has_last_good = last_good.is_some();
        let backend =
            last_good.as_ref().or(valid.as_ref().ok()).map_or(outline.backend, |config| config.backend);
        let (valid, errors) = match valid {
            Ok(config) => (Some(config), None),
            Err(errors) => (None, Some((errors, has_last_good))),
        };
        let usable = valid.or(last_good);
        let plan = usable.map(|config| {
            let config = ServerConfig { state_dir: state_dir.clone(), ..config };
            Setup::without_clients(path, config)
        });
        (Self { state_dir, backend, plan, controls }, errors)
    }

    /// Sends a request to the daemon, if one listens.
    ///
    /// # Errors
    /// When a daemon listens, but cannot be reached or does not respond.
    pub(crate) fn ask(&self, request: &Request) -> Result<AskResult, AdminError> {
        for control in &self.controls {
            match control::ask(control, request)? {
                AskResult::NoDaemon => {}
                reply @ AskResult::Reply(_) => return Ok(reply),
            }
        }
        Ok(AskResult::NoDaemon)
    }

    /// The evidence that a daemon runs although none responds, if there is any. The gate must not be changed behind its
    /// back: it would reverse the change.
    pub(crate) fn silent_daemon(&self) -> Option<String> {
        lock::retry(|| self.taken(), Option::is_some)
    }

    fn taken(&self) -> Option<String> {
        if state::is_locked(&self.state_dir) {
            return Some(format!("it uses {}, but does not respond", self.state_dir.display()));
        }
        lock::is_taken()
            .then(|| "it controls the gate of this network namespace, with a different config".to_owned())
    }

    /// Sends a request to a daemon that must be running.
    ///
    /// # Errors
    /// When no daemon responds.
    pub(crate) fn require(&self, request: &Request) -> Result<Response, AdminError> {
        match self.ask(request)? {
            AskResult::Reply(response) => Ok(response),
            AskResult::NoDaemon => {
                let controls: Vec<_> = self.controls.iter().map(|path| path.display().to_string()).collect();
                // The administrator may be locked out.
                let gate = if GateState::is_on_in(&self.state_dir) {
                    format!(
                        "; the gate is on, and no knock is accepted\nhint: systemctl start spa-knockd, or {} for one address",
                        own_command("let-in ADDRESS")
                    )
                } else {
                    String::new()
                };
                Err(AdminError::run(format_args!(
                    "no daemon listens at {}{gate}\nhint: run `systemctl status spa-knockd`; if the daemon runs with a different config, name that config with -c",
                    controls.join(" or ")
                )))
            }
        }
    }
}

/// Checks that only trusted users can write the config: it decides what root does.
fn trusted(path: &Path) -> Result<(), ConfigErrors> {
    let writers = config::writers(path);
    if writers.is_empty() { Ok(()) } else { Err(ConfigErrors::of(writers)) }
}

fn report(path: &Path, errors: &ConfigErrors, state_dir: &Path, last_good: bool) {
    let first = errors.problems().first().map(ToString::to_string).unwrap_or_default();
    let instead = if last_good {
        format!("using the config that the daemon last ran with: {}", last_good::path(state_dir).display())
    } else {
        format!("no earlier config is in {}; using defaults", state_dir.display())
    };
    notice(format_args!("warning: config {} has errors; {instead}\n{first}", path.display()));
}
