//! Reads `access.conf` with the files that it includes, and `fwknopd.conf`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::accounts::identity_of;
use super::local_day::start_of_day;
use crate::config::{ConfigErrors, Problem, SourceLocation};
use crate::os::files;
use crate::os::process::privileges::Identity;
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{ActionName, Timestamp};
use spa_knock_fwknop::{
    AccessConfig, ConfigFiles, ConfigProblem, Expiry, Place, ServerSettings, Stanza, parse_access,
    parse_server,
};

/// `fwknopd.conf` is looked for beside `access.conf`.
const SERVER_FILE: &str = "fwknopd.conf";
/// How far a packet's time may be from the server's if `ENABLE_SPA_PACKET_AGING` is off: what was accepted earlier
/// cannot be distinguished from what was not.
const WITHOUT_AGING: Duration = Duration::from_secs(100_000);
/// How far ahead of the server's clock packets are accepted without delay. One that is further ahead must be sent again
/// once the lease on disk covers its time, for its keys only. If the lease covered the whole window, a power loss would
/// lock out everyone for as long: for over a day without aging.
const AHEAD: Duration = Duration::from_secs(120);

/// The content of both files.
pub(crate) struct FwknopConfig {
    /// `access.conf`.
    pub(crate) path: PathBuf,
    /// Settings that apply to all stanzas.
    pub(crate) server: ServerSettings,
    /// The stanzas, in the order of the file.
    pub(crate) stanzas: Vec<LoadedStanza>,
    /// What the files ask for and does not happen, and what is dangerous in them.
    pub(crate) notices: Vec<ConfigProblem>,
}

/// A stanza with what depends on this host.
pub(crate) struct LoadedStanza {
    /// The stanza.
    pub(crate) stanza: Stanza,
    /// Its name in audit records: `stanza-` and its number in the file, from 1.
    pub(crate) name: ActionName,
    /// Identifies its keys.
    pub(crate) keys: Fingerprint,
    /// When it ends.
    pub(crate) expires: Option<Timestamp>,
    /// Who runs the commands that its packets contain; none for the daemon's user.
    pub(crate) identity: Option<Identity>,
}

impl FwknopConfig {
    /// Reads `access.conf`, and the `fwknopd.conf` beside it if there is one.
    ///
    /// # Errors
    /// All problems, each with its line.
    pub(crate) fn read(access: &Path) -> Result<Self, ConfigErrors> {
        let beside = access.with_file_name(SERVER_FILE);
        let server = files::exists(&beside).then_some(beside);
        Self::read_both(server.as_deref(), "", Some(access))
    }

    /// Reads these files. `more` has lines that take precedence over those of `server`. Without `server`, its settings
    /// have their defaults; without `access`, they name `access.conf`.
    ///
    /// # Errors
    /// All problems, each with its line.
    pub(crate) fn read_both(
        server: Option<&Path>,
        more: &str,
        access: Option<&Path>,
    ) -> Result<Self, ConfigErrors> {
        let (server, mut notices) = match server {
            Some(path) => parse_server(
                path,
                &mut ExtendedFile { path, more: more.to_owned(), content: FileContent::Settings },
            )
            .map_err(errors)?,
            None => (ServerSettings::default(), Vec::new()),
        };
        let path = access.unwrap_or(&server.access).to_owned();
        let folder = server.access_folder.as_ref();
        let more = folder.map(|folder| format!("%include_folder {}\n", folder.display()));
        let mut files =
            ExtendedFile { path: &path, more: more.unwrap_or_default(), content: FileContent::Keys };
        let AccessConfig { stanzas, notices: more } =
            parse_access(&path, &server, &mut files).map_err(errors)?;
        notices.extend(more);
        let (mut loaded, mut problems) = (Vec::new(), Vec::new());
        for (number, stanza) in (1_u32..).zip(stanzas) {
            match LoadedStanza::of(stanza, number) {
                Ok(stanza) => loaded.push(stanza),
                Err(problem) => problems.push(*problem),
            }
        }
        if problems.is_empty() {
            Ok(Self { path, server, stanzas: loaded, notices })
        } else {
            Err(ConfigErrors::of(problems))
        }
    }

    /// How far a packet's time may be from the server's.
    pub(crate) fn window(&self) -> Duration {
        self.server.age_max.map_or(WITHOUT_AGING, |age| Duration::from_secs(age.into()))
    }

    /// How far ahead of the server's clock the lease of the replay state covers packets, with some seconds to spare.
    pub(crate) fn ahead(&self) -> Duration {
        self.window().min(AHEAD)
    }

    /// Whether packets can run commands.
    pub(crate) fn runs_commands(&self) -> bool {
        self.stanzas.iter().any(|loaded| loaded.stanza.commands.is_some() || loaded.stanza.cycle.is_some())
    }
}

impl LoadedStanza {
    fn of(stanza: Stanza, number: u32) -> Result<Self, Box<Problem>> {
        let problem_at = |place: &Place, message: String| {
            let place = SourceLocation::line(&place.file, place.line);
            Box::new(Problem { place, message, hint: None })
        };
        let problem = |message: String| problem_at(&stanza.place, message);
        let name = format!("stanza-{number}").parse().map_err(|_| problem("too many stanzas".to_owned()))?;
        let expires = match stanza.expires {
            None => None,
            Some(Expiry::Epoch(seconds)) => Some(Timestamp::from_millis(seconds.saturating_mul(1_000))),
            Some(Expiry::Date(year, month, day)) => Some(
                start_of_day(year, month, day)
                    .ok_or_else(|| problem("ACCESS_EXPIRE: there is no such day".to_owned()))?,
            ),
        };
        let identity = match &stanza.commands {
            Some(rules) => {
                identity_of(&rules.run_as).map_err(|message| problem_at(&stanza.run_as_place, message))?
            }
            None => None,
        };
        let [a, b, c, d, e, f, g, h, ..] = stanza.keys_identity();
        let keys = Fingerprint::from_bytes([a, b, c, d, e, f, g, h]);
        Ok(Self { stanza, name, keys, expires, identity })
    }
}

/// Files that only root and the daemon's user can change, because they decide what runs. The file at `path` has `more`
/// lines.
struct ExtendedFile<'a> {
    path: &'a Path,
    more: String,
    content: FileContent,
}

/// Who may read files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileContent {
    /// Everyone.
    Settings,
    /// Only root and the daemon's user.
    Keys,
}

impl ConfigFiles for ExtendedFile<'_> {
    fn read(&mut self, path: &Path) -> Result<Zeroizing<String>, String> {
        let text = match self.content {
            FileContent::Settings => files::read_trusted_text(path).map(Zeroizing::new),
            FileContent::Keys => files::read_daemon_secret(path),
        };
        let text = text.map_err(|error| match error.hint {
            Some(hint) => format!("{}\nhint: {hint}", error.reason),
            None => error.reason,
        })?;
        let is_extended = path == self.path && !self.more.is_empty();
        Ok(if is_extended { Zeroizing::new(format!("{}\n{}", *text, self.more)) } else { text })
    }

    fn list(&mut self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        files::list(directory).map_err(|error| error.reason)
    }
}

fn errors(problems: Vec<ConfigProblem>) -> ConfigErrors {
    ConfigErrors::of(problems.into_iter().map(problem).collect())
}

/// The problem in the form that our own config has.
fn problem(ConfigProblem { place, reason, hint }: ConfigProblem) -> Problem {
    let location = match place.line {
        0 => SourceLocation::file(&place.file),
        line => SourceLocation::line(&place.file, line),
    };
    let (message, hint) = match (reason.split_once("\nhint: "), hint) {
        (Some((message, hint)), None) => (message.to_owned(), Some(hint.to_owned())),
        (_, hint) => (reason, hint),
    };
    Problem { place: location, message, hint }
}
