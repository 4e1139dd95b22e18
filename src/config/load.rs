//! Loads the daemon's complete configuration: `spa-knockd.toml` and the files `clients.d/*.toml` in the same directory.

#[cfg(feature = "fleet")]
pub(crate) mod fleet_clients;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::actions::read_actions;
use super::clients::{ClientContext, ReadClient, read_client_file, read_clients};
use super::document::Document;
use super::fleet::misuses;
use super::problem::full_name;
use super::sections::read_sections;
use super::server::Outline;
use super::{ClientEntry, ConfigErrors, Problem, ServerConfig, SourceLocation, ValueLocations};
use crate::console::own_command;
use crate::os::files::{self, FileError};
use spa_knock_core::auth::Action;
use spa_knock_core::knock::ClientName;

/// The directory next to the config; each of its `NAME.toml` files defines one client.
pub const CLIENTS_FOLDER: &str = "clients.d";

/// A file and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigText {
    /// The path of the file.
    pub file: PathBuf,
    /// Its content.
    pub text: String,
}

/// Loads the config and its client files.
///
/// # Errors
/// All problems in all of these files.
pub fn load(path: &Path) -> Result<ServerConfig, ConfigErrors> {
    load_reading(path, read_source)
}

/// Loads the config without its client files.
///
/// # Errors
/// All problems in the config file.
pub fn load_main(path: &Path) -> Result<ServerConfig, ConfigErrors> {
    let main = read_source(path).map_err(|problem| ConfigErrors::of(vec![problem]))?;
    read(&main, &[])
}

/// Reads the most important values from a config with errors; uses the default for each value that cannot be read.
#[must_use]
pub fn outline(path: &Path) -> Outline {
    let text = files::read_text(path).unwrap_or_default();
    let document = Document::recover(path, &text);
    read_sections(&mut document.root()).outline()
}

/// Loads the config and its client files if only the current user and root can change these files and the directories
/// above them. The files are checked through their open descriptors.
///
/// # Errors
/// All problems in all of these files, and every file or directory that others can write to: the config decides what
/// root runs.
pub fn load_trusted(path: &Path) -> Result<ServerConfig, ConfigErrors> {
    let writers = writers(path);
    if !writers.is_empty() {
        return Err(ConfigErrors::of(writers));
    }
    load_reading(path, |file| {
        let text = files::read_trusted_text(file).map_err(Problem::of_file)?;
        Ok(ConfigText { file: file.to_owned(), text })
    })
}

/// Reads the client files of a config that has errors. Skips client files that have errors themselves.
#[must_use]
pub fn load_client_files(path: &Path, keys_dir: &Path) -> Vec<(ClientName, ClientEntry)> {
    let context = ClientContext { keys_dir: keys_dir.to_owned(), actions: None, grants: None };
    let mut clients = Vec::new();
    for source in client_files(path).unwrap_or_default().iter().filter_map(|file| read_source(file).ok()) {
        let Ok(document) = Document::parse(&source.file, &source.text) else { continue };
        let read = read_client_file(&document, &source.file, &context);
        clients.extend(read.into_iter().filter_map(|client| Some((client.name, client.entry?))));
    }
    clients
}

/// Loads the config and its client files as if one of the files had already been replaced.
///
/// # Errors
/// All problems in all of these files.
pub fn load_with(path: &Path, replaced: &ConfigText) -> Result<ServerConfig, ConfigErrors> {
    load_reading(path, |file| if file == replaced.file { Ok(replaced.clone()) } else { read_source(file) })
}

fn load_reading(
    path: &Path,
    read_source: impl Fn(&Path) -> Result<ConfigText, Problem>,
) -> Result<ServerConfig, ConfigErrors> {
    let main = read_source(path).map_err(|problem| {
        let create =
            || (!files::exists(path)).then(|| format!("run `{}` to create a config", own_command("init")));
        ConfigErrors::of(vec![Problem { hint: problem.hint.or_else(create), ..problem }])
    })?;
    let mut problems = Vec::new();
    let mut clients = Vec::new();
    match client_files(path) {
        Ok(files) => {
            for file in &files {
                match read_source(file) {
                    Ok(source) => clients.push(source),
                    Err(problem) => problems.push(problem),
                }
            }
        }
        Err(error) => problems.push(Problem::of_file(error)),
    }
    let config = ConfigReader::new(&main, problems).finish(&main, &clients)?;
    #[cfg(feature = "fleet")]
    let config = fleet_clients::added_to(config, read_source);
    Ok(config)
}

/// Checks that only the current user and root can change the config, its client files and the directories above them:
/// they decide what root runs. Returns a problem for every file or directory that others can write to.
#[must_use]
pub fn writers(path: &Path) -> Vec<Problem> {
    let clients = path.with_file_name(CLIENTS_FOLDER);
    let files = client_files(path).unwrap_or_default();
    let above = [path, &clients].map(files::check_folders_above);
    let itself = [path, &clients].into_iter().chain(files.iter().map(PathBuf::as_path));
    let itself = itself.filter(|path| files::exists(path)).map(files::check_not_writable_by_others);
    let mut problems: Vec<FileError> = above.into_iter().chain(itself).filter_map(Result::err).collect();
    problems.dedup_by(|a, b| a.path == b.path);
    problems.into_iter().map(Problem::of_file).collect()
}

/// The same check for one file and the directories above it; no problems if the file does not exist.
#[cfg(all(feature = "daemon", feature = "legacy"))]
pub(crate) fn writers_of_file(path: &Path) -> Vec<FileError> {
    if !files::exists(path) {
        return Vec::new();
    }
    let checks = [files::check_folders_above(path), files::check_not_writable_by_others(path)];
    checks.into_iter().filter_map(Result::err).collect()
}

/// Reads a config from the text of its main file and its client files.
///
/// # Errors
/// All problems in all of these texts.
pub fn read(main: &ConfigText, clients: &[ConfigText]) -> Result<ServerConfig, ConfigErrors> {
    ConfigReader::new(main, Vec::new()).finish(main, clients)
}

/// The client files of the config at `path`.
fn client_files(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut files = files::list(&path.with_file_name(CLIENTS_FOLDER))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    Ok(files)
}

fn read_source(file: &Path) -> Result<ConfigText, Problem> {
    match files::read_text(file) {
        Ok(text) => Ok(ConfigText { file: file.to_owned(), text }),
        Err(error) => Err(Problem::of_file(error)),
    }
}

/// Collects problems and value locations while the files are read.
struct ConfigReader {
    problems: Vec<Problem>,
    places: ValueLocations,
}

/// The content of the main file.
struct Main {
    /// The config without clients; `None` if it has no server id.
    config: Option<ServerConfig>,
    clients: Vec<ReadClient>,
    context: ClientContext,
}

impl ConfigReader {
    fn new(main: &ConfigText, problems: Vec<Problem>) -> Self {
        Self { problems, places: ValueLocations::new(&main.file) }
    }

    fn finish(mut self, main: &ConfigText, files: &[ConfigText]) -> Result<ServerConfig, ConfigErrors> {
        let (context, config, mut read) = match self.walk(main, |document| read_main(document, &main.file)) {
            Some(main) => (main.context, main.config, main.clients),
            None => (ClientContext::unknown(), None, Vec::new()),
        };
        for source in files {
            let more = self.walk(source, |document| read_client_file(document, &source.file, &context));
            read.extend(more.unwrap_or_default());
        }
        let clients = self.distinct(read);
        match config {
            Some(config) if self.problems.is_empty() => {
                let config = ServerConfig { clients, places: self.places, ..config };
                let misuses = misuses(&config);
                if misuses.is_empty() { Ok(config) } else { Err(ConfigErrors::of(misuses)) }
            }
            _ => Err(ConfigErrors::of(self.problems)),
        }
    }

    /// Reads a file with `read`, unless it has syntax errors.
    fn walk<T>(&mut self, source: &ConfigText, read: impl FnOnce(&Document<'_>) -> T) -> Option<T> {
        match Document::parse(&source.file, &source.text) {
            Ok(document) => {
                let value = read(&document);
                let (problems, places) = document.into_findings();
                self.problems.extend(problems);
                self.places.extend(places);
                Some(value)
            }
            Err(problems) => {
                self.problems.extend(problems);
                None
            }
        }
    }

    fn distinct(&mut self, read: Vec<ReadClient>) -> BTreeMap<ClientName, ClientEntry> {
        let mut places: BTreeMap<ClientName, SourceLocation> = BTreeMap::new();
        let mut clients = BTreeMap::new();
        for client in read {
            if let Some(first) = places.get(&client.name) {
                self.problems.push(Problem {
                    place: client.place,
                    message: format!(
                        "{}: defined twice, first at {first}",
                        full_name("client", client.name.as_str())
                    ),
                    hint: Some("remove one of the two".to_owned()),
                });
                continue;
            }
            places.insert(client.name.clone(), client.place);
            if let Some(entry) = client.entry {
                clients.insert(client.name, entry);
            }
        }
        clients
    }
}

fn read_main(document: &Document<'_>, file: &Path) -> Main {
    let mut root = document.root();
    let sections = read_sections(&mut root);
    let actions = read_actions(root.table("action"), sections.backend);
    let context = ClientContext {
        keys_dir: sections.keys_dir.clone(),
        actions: Some(
            actions
                .iter()
                .map(|(name, action)| (name.clone(), action.as_ref().map_or(0, Action::accesses)))
                .collect(),
        ),
        grants: sections.grants,
    };
    let clients = read_clients(root.table("client"), file, &context);
    root.finish();
    // The problems of an invalid action are already reported.
    let actions = actions.into_iter().filter_map(|(name, action)| Some((name, action?))).collect();
    Main { config: sections.into_config(actions, file), clients, context }
}

#[cfg(test)]
mod tests;
