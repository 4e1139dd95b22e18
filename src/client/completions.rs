//! Names that complete a command line: servers with a key or a profile, and actions of profiles.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use clap_complete::engine::CompletionCandidate;

use super::keys::sources::{config_folder, key_files, key_name};
use crate::completion::candidates;
use crate::config::{Profile, Profiles};
use crate::os::files;

/// Servers that the user has a key file or a profile for, and groups.
pub(super) fn servers(word: &OsStr) -> Vec<CompletionCandidate> {
    let keys = key_files().into_iter().map(|path| key_name(&path));
    let profiled = profiles().into_iter().flat_map(|(name, profile)| {
        // A server of a group can be typed by itself, too, and needs no profile.
        profile.servers.unwrap_or_default().into_iter().chain([name])
    });
    candidates(word, keys.chain(profiled))
}

/// Actions that profiles name.
pub(super) fn actions(word: &OsStr) -> Vec<CompletionCandidate> {
    candidates(word, profiles().into_values().filter_map(|profile| Some(profile.action?.to_string())))
}

fn profiles() -> BTreeMap<String, Profile> {
    let path = config_folder().map(|folder| folder.join("config.toml"));
    let text = path.and_then(|path| files::read_text(&path).ok()).unwrap_or_default();
    Profiles::parse(&text).into_servers()
}
