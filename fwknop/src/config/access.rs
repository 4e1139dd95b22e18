//! `access.conf`: stanzas, each of which begins with `SOURCE`, and the files that they include.

use std::path::{Path, PathBuf};

use super::draft::StanzaDraft;
use super::includes::ConfigFiles;
use super::lines::{Line, lines};
use super::network::Networks;
use super::problem::{ConfigProblem, Place};
use super::server::{ServerSettings, is_only_in_server};
use super::stanza::Stanza;
use super::values::network_problem;

/// How deep files may include each other.
const DEPTH_MAX: usize = 3;

/// The stanzas of an `access.conf`, in order.
pub struct AccessConfig {
    /// The stanzas.
    pub stanzas: Vec<Stanza>,
    /// What is ignored, or has another effect here than with fwknopd.
    pub notices: Vec<ConfigProblem>,
}

/// Parses an `access.conf` and what it includes.
///
/// # Errors
/// All problems because of which the file cannot be used.
pub fn parse_access(
    path: &Path,
    server: &ServerSettings,
    files: &mut dyn ConfigFiles,
) -> Result<AccessConfig, Vec<ConfigProblem>> {
    let AccessDrafts { drafts, mut notices, mut problems } = read_access(path, files, Purpose::Service);
    let mut stanzas = Vec::new();
    for draft in drafts {
        match draft.finish(server, &mut notices) {
            Ok(stanza) => stanzas.push(stanza),
            Err(found) => problems.extend(found),
        }
    }
    match problems.is_empty() {
        true => Ok(AccessConfig { stanzas, notices }),
        false => Err(problems),
    }
}

/// What a file is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To serve its clients.
    Service,
    /// To translate their rights. Keys are left out, and with them everything that could be wrong with a key.
    Translation,
}

/// The stanzas of a file before their variables are compared with each other.
pub(super) struct AccessDrafts {
    pub(super) drafts: Vec<StanzaDraft>,
    pub(super) notices: Vec<ConfigProblem>,
    pub(super) problems: Vec<ConfigProblem>,
}

/// Reads a file and what it includes. At least one problem or one stanza is found.
pub(super) fn read_access(path: &Path, files: &mut dyn ConfigFiles, purpose: Purpose) -> AccessDrafts {
    let found = AccessDrafts { drafts: Vec::new(), notices: Vec::new(), problems: Vec::new() };
    let mut reader = AccessReader { files, purpose, found, is_server: false };
    reader.read(path, 0, Scope::Stanzas, None);
    let mut found = reader.found;
    if found.drafts.is_empty() && found.problems.is_empty() {
        let place = Place { file: path.to_owned(), line: 0 };
        found.problems.push(ConfigProblem::new(&place, "no stanza").hint("begin one with SOURCE ANY"));
    }
    found
}

/// What a file may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Stanzas,
    /// `%include_keys`: keys of the current stanza.
    Keys,
}

struct AccessReader<'a> {
    files: &'a mut dyn ConfigFiles,
    purpose: Purpose,
    found: AccessDrafts,
    /// Whether the file turned out to be a `fwknopd.conf`.
    is_server: bool,
}

impl AccessReader<'_> {
    /// Reads a file. `from` is the line that includes it.
    fn read(&mut self, path: &Path, depth: usize, scope: Scope, from: Option<&Place>) {
        let text = match self.files.read(path) {
            Ok(text) => text,
            Err(reason) => {
                let problem = match from {
                    Some(from) => ConfigProblem::new(from, format!("{}: {reason}", path.display())),
                    None => ConfigProblem::new(&Place { file: path.to_owned(), line: 0 }, reason),
                };
                return self.found.problems.push(problem);
            }
        };
        for line in lines(&text) {
            let place = Place { file: path.to_owned(), line: line.number };
            self.line(line, &place, depth, scope);
        }
    }

    fn line(&mut self, Line { name, value, .. }: Line<'_>, place: &Place, depth: usize, scope: Scope) {
        if self.is_server {
            return;
        }
        if self.found.drafts.is_empty() && is_only_in_server(name) {
            self.is_server = true;
            let reason = format!("{name}: is a variable of fwknopd.conf; this must be an access.conf");
            let hint = "name the file whose stanzas begin with SOURCE, usually /etc/fwknop/access.conf";
            return self.found.problems.push(ConfigProblem::new(place, reason).hint(hint));
        }
        let is_key =
            matches!(name, "KEY" | "KEY_BASE64" | "HMAC_KEY" | "HMAC_KEY_BASE64" | "HMAC_DIGEST_TYPE");
        let Some(value) = value else {
            if let Some(draft) = self.found.drafts.last_mut().filter(|_| is_key) {
                draft.note_key(name, place);
            }
            let name = printable(name);
            return self.found.problems.push(ConfigProblem::new(place, format!("{name}: has no value")));
        };
        match name {
            "%include" | "%include_folder" | "%include_keys" => self.include(name, value, place, depth),
            "SOURCE" if scope == Scope::Stanzas => {
                match Networks::parse(value.trim()) {
                    Ok(sources) => self.found.drafts.push(StanzaDraft::new(place, sources)),
                    Err(entry) => {
                        self.found.problems.push(network_problem(&entry).at(place, name));
                        // Its other lines are checked, too.
                        self.found.drafts.push(StanzaDraft::invalid(place));
                    }
                }
            }
            _ if (is_key || name == "ENCRYPTION_MODE") && self.purpose == Purpose::Translation => {}
            _ if scope == Scope::Keys && !is_key => self.found.notices.push(ConfigProblem::new(
                place,
                format!("{}: ignored: a file of %include_keys contains keys only", printable(name)),
            )),
            _ => {
                let Some(draft) = self.found.drafts.last_mut() else {
                    return self.found.problems.push(
                        ConfigProblem::new(place, format!("{}: is before the first SOURCE", printable(name)))
                            .hint("begin the stanza with SOURCE ANY"),
                    );
                };
                match draft.set(name, value, place) {
                    Ok(None) => {}
                    Ok(Some(notice)) => {
                        let name = printable(name);
                        self.found.notices.push(ConfigProblem::new(place, format!("{name}: {notice}")));
                    }
                    Err(invalid) => self.found.problems.push(invalid.at(place, name)),
                }
            }
        }
    }

    fn include(&mut self, name: &str, value: &str, place: &Place, depth: usize) {
        let path = PathBuf::from(value.trim());
        if depth >= DEPTH_MAX {
            return self
                .found
                .problems
                .push(ConfigProblem::new(place, format!("{name}: more than {DEPTH_MAX} levels")));
        }
        let depth = depth.saturating_add(1);
        match name {
            "%include_folder" => match self.files.list(&path) {
                Ok(paths) => {
                    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "conf"))
                    {
                        self.read(path, depth, Scope::Stanzas, Some(place));
                    }
                }
                Err(reason) => {
                    self.found
                        .problems
                        .push(ConfigProblem::new(place, format!("{}: {reason}", path.display())));
                }
            },
            "%include_keys" => self.read(&path, depth, Scope::Keys, Some(place)),
            _ => self.read(&path, depth, Scope::Stanzas, Some(place)),
        }
    }
}

/// The name of a variable, for a message. A line such as `HMAC_KEY=abc`, or the second line of a key, begins with what may
/// be a secret.
fn printable(name: &str) -> &str {
    let is_name =
        |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'%');
    let is_include = matches!(name, "%include" | "%include_folder" | "%include_keys");
    if is_include || name.bytes().all(is_name) { name } else { "a line without the name of a variable" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    struct OneFile(&'static str);

    impl ConfigFiles for OneFile {
        fn read(&mut self, _: &Path) -> Result<Zeroizing<String>, String> {
            Ok(Zeroizing::new(self.0.to_owned()))
        }

        fn list(&mut self, _: &Path) -> Result<Vec<PathBuf>, String> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn no_message_contains_a_key_that_is_in_the_wrong_place() {
        for text in [
            "SOURCE ANY\nKEY a\nHMAC_KEY=hidden\n",
            "SOURCE ANY\nKEY a\nHMAC_KEY=hidden more\n",
            "SOURCE ANY\nKEY_BASE64 YmFy\nhiddenhidden==\n",
            "hidden words\nSOURCE ANY\nKEY a\nHMAC_KEY b\n",
            "SOURCE ANY\nKEY hidden-hidden-hidden-hidden-hidden-hidden\nHMAC_KEY hidden\n",
            "SOURCE ANY\nKEY hidden\nHMAC_KEY hidden\n",
            "SOURCE ANY\nKEY_BASE64 !hidden!\nHMAC_KEY_BASE64 !hidden!\n",
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nhidden words\n",
        ] {
            let access = parse_access(Path::new("f"), &ServerSettings::default(), &mut OneFile(text));
            let messages = match access {
                Ok(AccessConfig { notices, .. }) => notices,
                Err(problems) => problems,
            };
            assert!(!messages.is_empty(), "{text}");
            assert!(messages.iter().all(|message| !message.to_string().contains("hidden")), "{messages:?}");
        }
    }
}
