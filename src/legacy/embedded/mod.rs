//! `[legacy]`: the doors of a `knockd.conf` and the stanzas of fwknop's `access.conf` in `spa-knockd run`, in addition to
//! authenticated knocks.

mod doors;
#[cfg_attr(not(feature = "fwknop"), path = "fwknop_absent.rs")]
mod fwknop;
mod services;
mod usage;

use super::daemon::KnockdConfig;
use crate::config::{self, BackendKind, ConfigErrors, Problem, ServerConfig, SourceLocation};
use fwknop::FwknopFiles;

#[cfg(feature = "fwknop")]
pub(crate) use fwknop::reset_fwknop;
pub(crate) use services::LegacyServices;

/// What `[legacy]` names, read and valid.
pub(crate) struct LegacyFiles {
    /// The doors; none if no knockd.conf is named.
    pub(crate) knockd: Option<KnockdConfig>,
    /// The stanzas; none if no access.conf is named.
    pub(crate) fwknop: Option<FwknopFiles>,
}

impl LegacyFiles {
    /// Whether their users can run commands.
    pub(crate) fn runs_commands(&self) -> bool {
        self.knockd.as_ref().is_some_and(KnockdConfig::runs_commands)
            || self.fwknop.as_ref().is_some_and(|fwknop| fwknop.runs_commands())
    }
}

/// Reads the files that `config` names.
///
/// # Errors
/// The errors in them, with their lines, and unprivileged users who can write to them, as they could run commands as
/// root.
pub(crate) fn load(config: &ServerConfig) -> Result<LegacyFiles, ConfigErrors> {
    let names = config.legacy.iter().flat_map(|_| config.clients.keys());
    let taken = names.filter(|name| config::is_legacy_client(name)).map(|name| Problem {
        place: config.places.of(&["client", name.as_str()]).clone(),
        message: format!("client.{name}: name is reserved for all that use [legacy]"),
        hint: Some("choose another name for this client".to_owned()),
    });
    let mut problems: Vec<Problem> = taken.collect();
    let knockd = load_knockd(config).map_err(|errors| problems.extend(errors.problems().iter().cloned()));
    let fwknop = fwknop::load(config).map_err(|errors| problems.extend(errors.problems().iter().cloned()));
    match (knockd, fwknop) {
        (Ok(knockd), Ok(fwknop)) if problems.is_empty() => Ok(LegacyFiles { knockd, fwknop }),
        _ => Err(ConfigErrors::of(problems)),
    }
}

fn load_knockd(config: &ServerConfig) -> Result<Option<KnockdConfig>, ConfigErrors> {
    let Some(path) = config.legacy.as_ref().and_then(|legacy| legacy.knockd.as_ref()) else {
        return Ok(None);
    };
    let place = config.places.of(&["legacy", "knockd"]);
    let mut problems: Vec<Problem> =
        config::writers_of_file(path).into_iter().map(Problem::of_file).collect();
    let knockd_config = match KnockdConfig::read(path) {
        Ok(knockd_config) => knockd_config,
        Err(error) => {
            let place = error.line.map_or_else(|| place.clone(), |line| SourceLocation::line(path, line));
            problems.push(Problem { place, message: error.reason, hint: None });
            return Err(ConfigErrors::of(problems));
        }
    };
    if config.backend == BackendKind::None
        && let Some(door) = knockd_config.opens()
    {
        problems.push(Problem {
            place: SourceLocation::file(path),
            message: format!("config: section {}: Open: no firewall backend is configured", door.name),
            hint: Some(
                "set firewall.backend to \"nftables\" or \"iptables\", or use commands instead".to_owned(),
            ),
        });
    }
    if problems.is_empty() { Ok(Some(knockd_config)) } else { Err(ConfigErrors::of(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigText, read};
    use crate::os::files::{self, FileMode};

    fn load_count(server: &str, doors: &str) -> Result<usize, String> {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("knockd.conf");
        files::create_new(&path, FileMode::Private, doors.as_bytes()).unwrap();
        let text = format!("[server]\nid = 'a'\n[legacy]\nknockd = '{}'\n{server}", path.display());
        let config = read(&ConfigText { file: "f".into(), text }, &[]).unwrap();
        let files = load(&config).map_err(|errors| errors.to_string());
        let files = files.map_err(|text| text.replace(path.to_str().unwrap(), "K"))?;
        Ok(files.knockd.unwrap().doors.len())
    }

    #[cfg(feature = "fwknop")]
    #[test]
    fn a_missing_access_conf_is_reported_with_the_line_that_names_it() {
        let text = "[server]\nid = 'a'\n[legacy]\nfwknop = '/nonexistent/access.conf'\n".to_owned();
        let config = read(&ConfigText { file: "f".into(), text }, &[]).unwrap();
        let problem = "f:4:10: legacy.fwknop: /nonexistent/access.conf: no such file or directory\n\
                       hint: correct the path, or remove the line";
        assert_eq!(load(&config).err().map(|errors| errors.to_string()).as_deref(), Some(problem));
    }

    #[test]
    fn an_error_is_reported_with_its_file_and_line() {
        assert_eq!(
            load_count("", "[a]\nsequence = 7000\n[b]\nsequence = 1\nopen = tcp/22\nfor = 5s\n"),
            Ok(2)
        );
        for (server, doors, problem) in [
            ("", "[a]\nx\n", "K:2:1: config: line 2: syntax error"),
            ("", "[a]\n", "f:4:10: error: section 'a' has an empty knock sequence"),
            (
                "[firewall]\nbackend = 'none'\n",
                "[a]\nsequence = 1\nopen = tcp/22\nfor = 5s\n",
                "K: config: section a: Open: no firewall backend is configured\nhint: set firewall.backend to \"nftables\" or \"iptables\", or use commands instead",
            ),
            (
                "[action.a]\nopen = ['tcp/1']\nfor = '1s'\n[client.knockd]\nkey = 'k'\nallow = ['a']\n",
                "",
                "f:8:9: client.knockd: name is reserved for all that use [legacy]\nhint: choose another name for this client",
            ),
        ] {
            assert_eq!(load_count(server, doors).err().as_deref(), Some(problem), "{doors}");
        }
    }
}
