//! Names that complete a command line: actions and clients of the config, and grants of the running daemon. Prints nothing
//! and needs no valid config: what cannot be read does not complete.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;

use super::init::DEFAULT_CONFIG;
use crate::completion::candidates;
use crate::config;
use crate::control::{AskResult, Request, Response, ask_within};
use crate::os::env;

/// How long a daemon that does not respond can delay a Tab.
const PATIENCE: Duration = Duration::from_secs(1);

/// The configured actions.
pub(super) fn actions(word: &OsStr) -> Vec<CompletionCandidate> {
    let actions = config::load_main(&config_path()).map(|config| config.actions).unwrap_or_default();
    candidates(word, actions.keys().map(ToString::to_string))
}

/// The configured clients.
pub(super) fn clients(word: &OsStr) -> Vec<CompletionCandidate> {
    let path = config_path();
    let names: Vec<String> = match config::load(&path) {
        Ok(config) => config.clients.keys().map(ToString::to_string).collect(),
        Err(_) => {
            let files = config::load_client_files(&path, &config::outline(&path).keys_dir);
            files.into_iter().map(|(name, _)| name.to_string()).collect()
        }
    };
    candidates(word, names)
}

/// The numbers of the active grants.
pub(super) fn grants(word: &OsStr) -> Vec<CompletionCandidate> {
    let socket = config::outline(&config_path()).control;
    match ask_within(&socket, &Request::Grants {}, PATIENCE) {
        Ok(AskResult::Reply(Response::Grants { grants })) => {
            candidates(word, grants.into_iter().map(|grant| grant.grant))
        }
        _ => Vec::new(),
    }
}

/// The config that the words before the cursor name.
fn config_path() -> PathBuf {
    let args = env::args();
    let named = args.windows(2).find_map(|pair| match pair {
        [option, path] if option == "-c" || option == "--config" => Some(PathBuf::from(path)),
        _ => None,
    });
    env::absolute(&named.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG)))
}
