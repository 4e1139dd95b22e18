//! `access.conf`: stanzas, each of which begins with `SOURCE`, and the files that they include.

use std::path::{Path, PathBuf};

use super::draft::StanzaDraft;
use super::includes::ConfigFiles;
use super::lines::{Line, lines};
use super::network::Networks;
use super::problem::{ConfigProblem, Place};
use super::server::ServerSettings;
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
    let mut reader = AccessReader {
        server,
        files,
        draft: None,
        stanzas: Vec::new(),
        notices: Vec::new(),
        problems: Vec::new(),
    };
    reader.read(path, 0, Scope::Stanzas);
    reader.finish();
    if reader.stanzas.is_empty() && reader.problems.is_empty() {
        let place = Place { file: path.to_owned(), line: 0 };
        reader.problems.push(ConfigProblem::new(&place, "no stanza").hint("begin one with SOURCE ANY"));
    }
    match reader.problems.is_empty() {
        true => Ok(AccessConfig { stanzas: reader.stanzas, notices: reader.notices }),
        false => Err(reader.problems),
    }
}

/// What a file may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Stanzas,
    /// `%include_keys`: keys of the current stanza.
    Keys,
}

struct AccessReader<'a> {
    server: &'a ServerSettings,
    files: &'a mut dyn ConfigFiles,
    draft: Option<StanzaDraft>,
    stanzas: Vec<Stanza>,
    notices: Vec<ConfigProblem>,
    problems: Vec<ConfigProblem>,
}

impl AccessReader<'_> {
    fn read(&mut self, path: &Path, depth: usize, scope: Scope) {
        let text = match self.files.read(path) {
            Ok(text) => text,
            Err(reason) => {
                let place = Place { file: path.to_owned(), line: 0 };
                return self.problems.push(ConfigProblem::new(&place, reason));
            }
        };
        for line in lines(&text) {
            let place = Place { file: path.to_owned(), line: line.number };
            self.line(line, &place, depth, scope);
        }
    }

    fn line(&mut self, Line { name, value, .. }: Line<'_>, place: &Place, depth: usize, scope: Scope) {
        let Some(value) = value else {
            return self.problems.push(ConfigProblem::new(place, format!("{name}: has no value")));
        };
        let is_key =
            matches!(name, "KEY" | "KEY_BASE64" | "HMAC_KEY" | "HMAC_KEY_BASE64" | "HMAC_DIGEST_TYPE");
        match name {
            "%include" | "%include_folder" | "%include_keys" => self.include(name, value, place, depth),
            "SOURCE" if scope == Scope::Stanzas => {
                self.finish();
                match Networks::parse(value.trim()) {
                    Ok(sources) => self.draft = Some(StanzaDraft::new(place.clone(), sources)),
                    Err(entry) => {
                        self.problems.push(network_problem(&entry).at(place, name));
                        // Its other lines are checked, too.
                        self.draft = Some(StanzaDraft::new(place.clone(), Networks::ANY));
                    }
                }
            }
            _ if scope == Scope::Keys && !is_key => self.notices.push(ConfigProblem::new(
                place,
                format!("{name}: ignored: a file of %include_keys contains keys only"),
            )),
            _ => {
                let Some(draft) = &mut self.draft else {
                    return self.problems.push(
                        ConfigProblem::new(place, format!("{name}: is before the first SOURCE"))
                            .hint("begin the stanza with SOURCE ANY"),
                    );
                };
                match draft.set(name, value) {
                    Ok(None) => {}
                    Ok(Some(notice)) => {
                        self.notices.push(ConfigProblem::new(place, format!("{name}: {notice}")))
                    }
                    Err(invalid) => self.problems.push(invalid.at(place, name)),
                }
            }
        }
    }

    fn include(&mut self, name: &str, value: &str, place: &Place, depth: usize) {
        let path = PathBuf::from(value.trim());
        if depth >= DEPTH_MAX {
            return self
                .problems
                .push(ConfigProblem::new(place, format!("{name}: more than {DEPTH_MAX} levels")));
        }
        let depth = depth.saturating_add(1);
        match name {
            "%include_folder" => match self.files.list(&path) {
                Ok(paths) => {
                    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "conf"))
                    {
                        self.read(path, depth, Scope::Stanzas);
                    }
                }
                Err(reason) => {
                    self.problems.push(ConfigProblem::new(place, format!("{}: {reason}", path.display())));
                }
            },
            "%include_keys" => self.read(&path, depth, Scope::Keys),
            _ => self.read(&path, depth, Scope::Stanzas),
        }
    }

    fn finish(&mut self) {
        if let Some(draft) = self.draft.take() {
            match draft.finish(self.server, &mut self.notices) {
                Ok(stanza) => self.stanzas.push(stanza),
                Err(problems) => self.problems.extend(problems),
            }
        }
    }
}
