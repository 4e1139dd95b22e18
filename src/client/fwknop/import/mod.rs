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
        Ok(ImportedStanza { key: new_key_path(&translation.name)?, draft: translation })
    });
    let imported = imported.collect::<Result<Vec<_>, ClientError>>()?;
    let added =
        imported.iter().map(|stanza| stanza.draft.profile(&stanza.key)).collect::<Vec<_>>().join("\n");
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
    draft: &'a ProfileDraft,
    key: PathBuf,
}

impl ImportedStanza<'_> {
    /// Prints what was not translated, and what the server's administrator has to run.
    fn report(&self, profiles: &Path, dry_run: bool) {
        let ProfileDraft { name, remarks, .. } = self.draft;
        for remark in remarks {
            Reporter::PLAIN.note(remark);
        }
        let key = self.key.display();
        let done = if dry_run { "would be written" } else { "written" };
        let [derive, add] = self.draft.commands(&self.key);
        Reporter::PLAIN.note(&format!(
            "profile {name}: {done} to {}, with a new key in {key}\nhint: give the output of this command to the server's \
             administrator: {derive}\nhint: the administrator saves it on the server as {} (mode 0600), and runs: {add}",
            profiles.display(),
            self.draft.pair_file(),
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
            let key = new_key(&stanza.draft.client)?;
            files::create_whole(&stanza.key, FileMode::Private, key.to_text().as_bytes())?;
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
    Ok(KeyFile { client: Some(client.clone()), holder, address: None, port: None, ssh_key: None })
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

#[cfg(all(test, unix))]
mod tests {
    use spa_knock_fwknop::parse_client;

    use super::*;

    fn drafts() -> Vec<ProfileDraft> {
        let text = "[a]\nSPA_SERVER a\nACCESS tcp/22\n[b]\nSPA_SERVER b\n[c]\nACCESS tcp/22\n";
        let file = parse_client(Path::new("rc"), text);
        file.named().filter_map(|stanza| ProfileDraft::new(stanza, None, &stanza.options).ok()).collect()
    }

    #[test]
    fn nothing_is_written_if_one_key_cannot_be() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, profiles) = (scratch.path(), scratch.path().join("config.toml"));
        let drafts = drafts();
        let imported: Vec<_> = drafts
            .iter()
            .map(|draft| ImportedStanza { draft, key: folder.join(format!("{}.key", draft.name)) })
            .collect();
        files::create_new(&profiles, FileMode::Public, b"# mine\n").unwrap();
        files::create_new(&imported[1].key, FileMode::Private, b"other").unwrap();
        let failure = write(folder, &profiles, "new", &imported).unwrap_err();
        assert!(failure.reason().ends_with("already exists and is not overwritten"), "{}", failure.reason());
        assert!(!files::exists(&imported[0].key), "the first key is removed again");
        assert_eq!(files::read_text(&imported[1].key).unwrap(), "other");
        assert_eq!(files::read_text(&profiles).unwrap(), "# mine\n");

        files::remove(&imported[1].key).unwrap();
        write(folder, &profiles, "new", &imported).unwrap();
        assert_eq!(files::read_text(&profiles).unwrap(), "new");
        let keys: Vec<_> = imported.iter().map(|stanza| files::read_secret(&stanza.key).unwrap()).collect();
        assert!(keys.iter().all(|key| KeyFile::parse(key).is_ok()) && keys[0] != keys[1]);
    }

    #[test]
    fn a_link_to_the_profiles_stays_a_link() {
        let scratch = tempfile::tempdir().unwrap();
        let (target, link) = (scratch.path().join("dotfiles.toml"), scratch.path().join("config.toml"));
        files::create_new(&target, FileMode::Private, b"").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write(scratch.path(), &link, "new", &[]).unwrap();
        assert_eq!(files::read_text(&target).unwrap(), "new");
        assert_eq!(files::without_links(&link), files::without_links(&target));
    }

    #[test]
    fn new_profiles_follow_those_that_exist() {
        let file = |text: &str| ProfileText { path: PathBuf::from("config.toml"), text: text.to_owned() };
        assert_eq!(file("").with("[server.a]\n").unwrap(), "[server.a]\n");
        let both = file("[server.b]\nport = 1\n\n").with("[server.a]\n").unwrap();
        assert_eq!(both, "[server.b]\nport = 1\n\n[server.a]\n");
        let twice = file("[server.a]\n").with("[server.a]\n").unwrap_err();
        assert!(twice.reason().starts_with("config.toml:3:"), "{}", twice.reason());
        let known = file("[server.a]\n").check_new("a").unwrap_err();
        assert_eq!(known.reason(), "config.toml: there is already a profile a");
        assert!(file("[server.a]\n").check_new("A").is_ok());
    }
}
