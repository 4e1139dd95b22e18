//! `import --fwknoprc`: profiles and new keys for servers that have moved to spa-knockd. All or nothing is written, and
//! nothing that exists is changed.

mod translation;

use std::path::{Path, PathBuf};

use spa_knock_fwknop::{ClientOptions, ClientStanza};

use super::stanza_file::StanzaFile;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::keys::sources::{config_folder, named};
use crate::client::places;
use crate::client::report::{Reporter, print};
use crate::config::Profiles;
use crate::os::env;
use crate::os::files::{self, FileMode};
use spa_knock_core::crypto::{KeyFile, KeyOwner, RootSecret, Secret};
use spa_knock_core::knock::ClientName;
use translation::ProfileDraft;

/// Imports these stanzas of a file; all of them if none is named.
pub(in crate::client) fn import(path: &Path, stanzas: &[String], dry_run: bool) -> Result<(), ClientError> {
    let path = if cfg!(windows) { env::expanded(path) } else { path.to_owned() };
    let file = StanzaFile::open(path)?;
    let Some(folder) = config_folder() else {
        return Err(ClientError::new(ExitCause::Files, places::NO_CONFIG_FOLDER));
    };
    let profiles = ProfileText::read(folder.join("config.toml"))?;
    let translations = translate(&file, stanzas)?;
    let imported = translations.iter().map(|translation| {
        profiles.check_new(&translation.name)?;
        Ok(ImportedStanza { key: new_key_path(&translation.name)?, translation })
    });
    let imported = imported.collect::<Result<Vec<_>, ClientError>>()?;
    let added =
        imported.iter().map(|stanza| stanza.translation.profile(&stanza.key)).collect::<Vec<_>>().join("\n");
    let text = profiles.with(&added)?;
    if dry_run {
        print(added.as_bytes())?;
    } else {
        write(&folder, &profiles.path, &text, &imported)?;
    }
    for notice in file.notices() {
        Reporter::PLAIN.note(&notice.to_string());
    }
    for stanza in &imported {
        stanza.report(&profiles.path, dry_run);
    }
    if dry_run {
        Reporter::PLAIN.note("nothing was written (--dry-run)");
    }
    Ok(())
}

/// A stanza that becomes a profile with a new key.
struct ImportedStanza<'a> {
    translation: &'a ProfileDraft,
    key: PathBuf,
}

impl ImportedStanza<'_> {
    /// Prints what was not translated, and what the server's administrator has to run.
    fn report(&self, profiles: &Path, dry_run: bool) {
        let ProfileDraft { name, remarks, .. } = self.translation;
        for remark in remarks {
            Reporter::PLAIN.note(remark);
        }
        let key = self.key.display();
        let done = if dry_run { "would be written" } else { "written" };
        let [derive, add] = self.translation.commands(&self.key);
        Reporter::PLAIN.note(&format!(
            "profile {name}: {done} to {}, with a new key in {key}\nhint: give the output of this command to the server's \
             administrator: {derive}\nhint: the administrator saves it on the server as {} (mode 0600), and runs: {add}",
            profiles.display(),
            self.translation.pair_file(),
        ));
    }
}

fn translate(file: &StanzaFile, stanzas: &[String]) -> Result<Vec<ProfileDraft>, ClientError> {
    let default = file.default_stanza();
    let merged = |stanza: &ClientStanza| -> ClientOptions {
        let options = stanza.options.clone();
        default.map_or_else(|| options.clone(), |default| options.clone().or(&default.options))
    };
    let all = stanzas.is_empty();
    let names: Vec<&str> =
        if all { file.names().collect() } else { stanzas.iter().map(String::as_str).collect() };
    let mut translations: Vec<ProfileDraft> = Vec::new();
    for name in names {
        let stanza = file.stanza(name)?;
        if translations.iter().any(|translation| translation.name == stanza.name) {
            continue;
        }
        match ProfileDraft::new(stanza, default, &merged(stanza)) {
            Ok(translation) => translations.push(translation),
            // What is not a server is no reason to import none.
            Err(failure) if all => Reporter::PLAIN.note(&format!("{}; skipped", failure.reason())),
            Err(failure) => return Err(failure),
        }
    }
    if translations.is_empty() {
        return Err(ClientError::new(
            ExitCause::Files,
            format!("{}: no stanza with SPA_SERVER", file.path.display()),
        ));
    }
    Ok(translations)
}

fn new_key_path(name: &str) -> Result<PathBuf, ClientError> {
    let path = named(name).filter(|_| !name.starts_with('.')).ok_or_else(|| {
        ClientError::new(ExitCause::Files, format!("{name}: not a name for a key file"))
            .hint("rename the stanza")
    })?;
    if files::exists(&path) {
        return Err(ClientError::new(
            ExitCause::Files,
            format!("key file {}: already exists", path.display()),
        )
        .hint("name the other stanzas with --stanza, or rename this one"));
    }
    Ok(path)
}

/// Writes the keys, then the profiles that name them. Removes the keys if anything fails.
fn write(
    folder: &Path,
    profiles: &Path,
    text: &str,
    imported: &[ImportedStanza<'_>],
) -> Result<(), ClientError> {
    files::create_folder(folder, FileMode::Private)?;
    let mut written: Vec<&Path> = Vec::new();
    let result = imported
        .iter()
        .try_for_each(|stanza| {
            let key = new_key(&stanza.translation.client)?;
            files::create_new(&stanza.key, FileMode::Private, key.to_text().as_bytes())?;
            written.push(&stanza.key);
            Ok(())
        })
        // A link to the file stays.
        .and_then(|()| {
            Ok(files::replace(&files::without_links(profiles), FileMode::Private, text.as_bytes())?)
        });
    if result.is_err() {
        for path in written {
            // The first error is reported.
            let _ = files::remove(path);
        }
    }
    result
}

fn new_key(client: &ClientName) -> Result<KeyFile, ClientError> {
    let secret = Secret::generate().map_err(|error| ClientError::new(ExitCause::Files, error.to_string()))?;
    let holder = KeyOwner::Root(RootSecret::new(secret));
    Ok(KeyFile { client: Some(client.clone()), holder, address: None, port: None })
}

/// The text of the file with the profiles.
struct ProfileText {
    path: PathBuf,
    text: String,
}

impl ProfileText {
    fn read(path: PathBuf) -> Result<Self, ClientError> {
        let text = match files::read_own_text(&path) {
            Ok(text) => text,
            Err(error) if error.missing => String::new(),
            Err(error) => return Err(ClientError::from(error).with_object("profile ")),
        };
        let file = Self { path, text };
        file.check(&file.text)?;
        Ok(file)
    }

    fn check_new(&self, name: &str) -> Result<(), ClientError> {
        if !Profiles::parse(&self.text).into_servers().contains_key(name) {
            return Ok(());
        }
        Err(ClientError::new(
            ExitCause::Files,
            format!("{}: there is already a profile {name}", self.path.display()),
        )
        .hint("name the other stanzas with --stanza, or rename this one"))
    }

    /// The text with new profiles at its end.
    fn with(&self, added: &str) -> Result<String, ClientError> {
        let before = self.text.trim_end();
        let text = if before.is_empty() { added.to_owned() } else { format!("{before}\n\n{added}") };
        self.check(&text)?;
        Ok(text)
    }

    fn check(&self, text: &str) -> Result<(), ClientError> {
        let profiles = Profiles::parse(text);
        let problems = profiles.problems_except(&[]);
        if problems.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = problems.iter().map(|error| format!("{}:{error}", self.path.display())).collect();
        Err(ClientError::new(ExitCause::Files, lines.join("\n")))
    }
}
