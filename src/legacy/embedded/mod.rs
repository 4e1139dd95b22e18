//! `[legacy]`: the doors of a knockd.conf beside sealed knocks, in the same daemon.

mod doors;
mod usage;

use super::daemon::KnockdConfig;
use crate::config::{
    self, BackendKind, ConfigErrors, LEGACY_CLIENT as CLIENT, Problem, ServerConfig, SourceLocation,
};

pub(crate) use doors::LegacyDoors;

/// Reads the knockd.conf that a config names; nothing where it names none.
///
/// # Errors
/// What is wrong with it, at its own line, and who else may write it: he decides what root runs.
pub(crate) fn load(config: &ServerConfig) -> Result<Option<KnockdConfig>, ConfigErrors> {
    let Some(path) = config.legacy.as_ref().map(|legacy| &legacy.knockd) else {
        return Ok(None);
    };
    let place = config.places.of(&["legacy", "knockd"]);
    let mut problems: Vec<Problem> =
        config::writers_of_file(path).into_iter().map(Problem::of_file).collect();
    if config.clients.keys().any(config::is_legacy_client) {
        problems.push(Problem {
            place: config.places.of(&["client", CLIENT]).clone(),
            message: format!("client.{CLIENT}: the name of all who knock by the sequences of [legacy]"),
            hint: Some("another name for this client".to_owned()),
        });
    }
    let written = match KnockdConfig::read(path) {
        Ok(written) => written,
        Err(wrong) => {
            let place = wrong.line.map_or_else(|| place.clone(), |line| SourceLocation::line(path, line));
            problems.push(Problem { place, message: wrong.reason, hint: None });
            return Err(ConfigErrors::of(problems));
        }
    };
    if config.backend == BackendKind::None
        && let Some(door) = written.opens()
    {
        problems.push(Problem {
            place: SourceLocation::file(path),
            message: format!("config: section {}: Open: there is no firewall to open", door.name),
            hint: Some("firewall.backend = \"nftables\" or \"iptables\", or commands instead".to_owned()),
        });
    }
    if problems.is_empty() { Ok(Some(written)) } else { Err(ConfigErrors::of(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigText, read};
    use crate::os::files::{self, FileMode};

    fn told(server: &str, doors: &str) -> Result<usize, String> {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("knockd.conf");
        files::create_new(&path, FileMode::Private, doors.as_bytes()).unwrap();
        let text = format!("[server]\nid = 'a'\n[legacy]\nknockd = '{}'\n{server}", path.display());
        let config = read(&ConfigText { file: "f".into(), text }, &[]).unwrap();
        let written = load(&config).map_err(|errors| errors.to_string());
        let written = written.map_err(|text| text.replace(path.to_str().unwrap(), "K"))?;
        Ok(written.unwrap().doors.len())
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file_and_line() {
        assert_eq!(told("", "[a]\nsequence = 7000\n[b]\nsequence = 1\nopen = tcp/22\nfor = 5s\n"), Ok(2));
        for (server, doors, problem) in [
            ("", "[a]\nx\n", "K:2:1: config: line 2: syntax error"),
            ("", "[a]\n", "f:4:10: error: section 'a' has an empty knock sequence"),
            (
                "[firewall]\nbackend = 'none'\n",
                "[a]\nsequence = 1\nopen = tcp/22\nfor = 5s\n",
                "K: config: section a: Open: there is no firewall to open\nhint: firewall.backend = \"nftables\" or \"iptables\", or commands instead",
            ),
            (
                "[action.a]\nopen = ['tcp/1']\nfor = '1s'\n[client.knockd]\nkey = 'k'\nallow = ['a']\n",
                "",
                "f:8:9: client.knockd: the name of all who knock by the sequences of [legacy]\nhint: another name for this client",
            ),
        ] {
            assert_eq!(told(server, doors).err().as_deref(), Some(problem), "{doors}");
        }
    }
}
