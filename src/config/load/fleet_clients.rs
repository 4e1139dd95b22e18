//! The clients of the fleet, as the store last had them: files in the state directory with the form of `clients.d`. What one
//! of them gets wrong for this server must not keep all others out, so it is left out and reported.

use std::path::{Path, PathBuf};

use super::super::clients::{ClientContext, read_client_file};
use super::super::document::Document;
use super::super::{
    CLIENTS_FOLDER, ClientEntry, ConfigErrors, FleetStore, Problem, ServerConfig, fleet_folder,
};
use super::ConfigText;
use crate::os::files;
use spa_knock_core::auth::Action;
use spa_knock_core::knock::ClientName;

/// The directory of key files of the fleet's clients, in the fleet's folder.
pub(crate) const KEYS_FOLDER: &str = "keys";

/// Where the files of the fleet's clients are: definitions and keys.
pub(crate) fn folders(state_dir: &Path) -> [PathBuf; 2] {
    [CLIENTS_FOLDER, KEYS_FOLDER].map(|folder| fleet_folder(state_dir).join(folder))
}

/// Reads the definition of a client of the fleet, as the loader would read it from its file.
///
/// # Errors
/// All problems in it.
pub(crate) fn read_definition(
    config: &ServerConfig,
    name: &ClientName,
    text: &str,
) -> Result<ClientEntry, ConfigErrors> {
    let [definitions, keys_dir] = folders(&config.state_dir);
    let file = definitions.join(format!("{name}.toml"));
    let context = context(config, keys_dir);
    let document = Document::parse(&file, text).map_err(ConfigErrors::of)?;
    let read = read_client_file(&document, &file, &context);
    let (problems, _) = document.into_findings();
    let entry = read.into_iter().find(|client| client.name == *name).and_then(|client| client.entry);
    match entry {
        Some(entry) if problems.is_empty() => Ok(entry),
        _ => Err(ConfigErrors::of(problems)),
    }
}

fn context(config: &ServerConfig, keys_dir: PathBuf) -> ClientContext {
    let actions =
        config.actions.iter().map(|(name, action)| (name.clone(), Action::accesses(action))).collect();
    ClientContext { keys_dir, actions: Some(actions), grants: None }
}

/// The config with the clients of its fleet.
pub(super) fn added_to(
    mut config: ServerConfig,
    read_source: impl Fn(&Path) -> Result<ConfigText, Problem>,
) -> ServerConfig {
    if config.fleet.as_ref().and_then(FleetStore::etcd).is_none() {
        return config;
    }
    let [definitions, keys_dir] = folders(&config.state_dir);
    let context = context(&config, keys_dir);
    let mut found = match files::list(&definitions) {
        Ok(found) => found,
        Err(error) => {
            config.left_out.push(Problem::of_file(error));
            return config;
        }
    };
    found.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    for file in found {
        match read_source(&file) {
            Ok(source) => add(&mut config, &source, &context),
            Err(problem) => config.left_out.push(problem),
        }
    }
    config
}

fn add(config: &mut ServerConfig, source: &ConfigText, context: &ClientContext) {
    let document = match Document::parse(&source.file, &source.text) {
        Ok(document) => document,
        Err(problems) => return config.left_out.extend(problems),
    };
    let read = read_client_file(&document, &source.file, context);
    let (problems, places) = document.into_findings();
    if !problems.is_empty() {
        return config.left_out.extend(problems);
    }
    config.places.extend(places);
    for client in read {
        let Some(entry) = client.entry else { continue };
        if config.clients.contains_key(&client.name) {
            config.left_out.push(Problem {
                place: config.places.of(&["client", client.name.as_str()]).clone(),
                message: format!(
                    "client {}: defined here and in the fleet; the fleet's is not used",
                    client.name
                ),
                hint: Some("remove one of the two, or rename the client of this server".to_owned()),
            });
            continue;
        }
        config.clients.insert(client.name, entry);
    }
}
