//! Names that complete a command line: servers with a key or a profile, and actions of profiles.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use clap_complete::engine::CompletionCandidate;

use crate::completion::candidates;
use crate::config::Profile;
use crate::os::{env, files};

/// Servers that the user has a key file or a profile for.
pub(super) fn servers(word: &OsStr) -> Vec<CompletionCandidate> {
    let folder = env::config_home().map(|folder| folder.join("spa-knock"));
    let files = folder.and_then(|folder| files::list(&folder).ok()).unwrap_or_default();
    let keys =
        files.iter().filter_map(|file| Some(file.file_name()?.to_str()?.strip_suffix(".key")?.to_owned()));
    candidates(word, keys.chain(profiles().into_keys()))
}

/// Actions that profiles name.
pub(super) fn actions(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(word, profiles().into_values().filter_map(|profile| Some(profile.action?.to_string())))
}

fn profiles() -> BTreeMap<String, Profile> {
    let path = env::config_home().map(|folder| folder.join("spa-knock/config.toml"));
    let text = path.and_then(|path| files::read_text(&path).ok()).unwrap_or_default();
    Profile::all(&text)
}
