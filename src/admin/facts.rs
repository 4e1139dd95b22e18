//! What commands need to know of the daemon: from the config, else from the state folder, else the defaults. No key is
//! read for it.

use std::path::{Path, PathBuf};

use crate::config::setup::Setup;
use crate::config::{self, BackendKind, ConfigErrors, ServerConfig};
use crate::console::{AdminError, notice};
use crate::control::{self, AskResult, Request, Response};
use crate::gate::lock;
use crate::state::{self, last_good};

/// Where the daemon keeps its state, where it answers, and what its gate consists of.
pub(crate) struct DaemonFacts {
    /// The state folder.
    pub(crate) state_dir: PathBuf,
    /// What opened and closed ports when the daemon last ran, else what is to do so.
    pub(crate) backend: BackendKind,
    /// What the gate consists of, without clients; missing where no valid config is left.
    pub(crate) plan: Option<Setup>,
    /// Where a daemon may answer.
    controls: Vec<PathBuf>,
}

impl DaemonFacts {
    /// Finds them, and reports what is used instead of a config that has errors.
    pub(crate) fn find(path: &Path, state_dir: Option<&Path>) -> Self {
        let (valid, outline) = match trusted(path) {
            Ok(()) => (config::load_main(path), config::outline(path)),
            // Others may write it: nothing in it is used.
            Err(writers) => (Err(writers), config::outline(Path::new(""))),
        };
        let state_dir = state_dir.map_or(outline.state_dir, Path::to_owned);
        let last_good = last_good::read(&state_dir);
        let mut controls = vec![outline.control];
        controls.extend(last_good.iter().map(|config| config.control.clone()));
        controls.dedup();
        if let Err(errors) = &valid {
            report(path, errors, &state_dir, last_good.is_some());
        }
        let backend =
            last_good.as_ref().or(valid.as_ref().ok()).map_or(outline.backend, |config| config.backend);
        let usable = valid.ok().or(last_good);
        let plan = usable.map(|config| {
            let config = ServerConfig { state_dir: state_dir.clone(), ..config };
            Setup::without_clients(path, config)
        });
        Self { state_dir, backend, plan, controls }
    }

    /// Asks the daemon, if one answers.
    ///
    /// # Errors
    /// When there is one, but it cannot be asked or does not answer.
    pub(crate) fn ask(&self, request: &Request) -> Result<AskResult, AdminError> {
        for control in &self.controls {
            match control::ask(control, request)? {
                AskResult::Nobody => {}
                answer @ AskResult::Answer(_) => return Ok(answer),
            }
        }
        Ok(AskResult::Nobody)
    }

    /// Why a daemon runs although none answers; nothing where none does. What it looks after is not to be changed without
    /// it: it would set it right again.
    pub(crate) fn silent_daemon(&self) -> Option<String> {
        lock::look_again(|| self.taken(), Option::is_some)
    }

    fn taken(&self) -> Option<String> {
        if state::is_locked(&self.state_dir) {
            return Some(format!("it uses {}, but does not answer", self.state_dir.display()));
        }
        lock::is_taken()
            .then(|| "it has the gate of this network namespace, and another config than this one".to_owned())
    }

    /// Asks a daemon that must be running.
    ///
    /// # Errors
    /// When none answers.
    pub(crate) fn require(&self, request: &Request) -> Result<Response, AdminError> {
        match self.ask(request)? {
            AskResult::Answer(answer) => Ok(answer),
            AskResult::Nobody => {
                let controls: Vec<_> = self.controls.iter().map(|path| path.display().to_string()).collect();
                Err(AdminError::run(format_args!(
                    "no daemon answers at {}\nhint: systemctl status spa-knockd; if it runs with another config, name that one with -c",
                    controls.join(" or ")
                )))
            }
        }
    }
}

/// Whoever may write a config decides what root does.
fn trusted(path: &Path) -> Result<(), ConfigErrors> {
    let writers = config::writers(path);
    if writers.is_empty() { Ok(()) } else { Err(ConfigErrors::of(writers)) }
}

fn report(path: &Path, errors: &ConfigErrors, state_dir: &Path, last_good: bool) {
    let first = errors.problems().first().map(ToString::to_string).unwrap_or_default();
    let instead = if last_good {
        format!("using what the daemon last ran with: {}", last_good::path(state_dir).display())
    } else {
        format!("no earlier config is in {}; using defaults", state_dir.display())
    };
    notice(format_args!("warning: config {} has errors ({first}); {instead}", path.display()));
}
