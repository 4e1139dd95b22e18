//! Parses the client's profiles, `~/.config/spa-knock/config.toml`: recurring options for each server. Turns text into
//! checked values and reads no files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use spa_knock_core::knock::{ActionName, ReplyWanted, ServerId, SourceOption};

/// The options in `[server.NAME]`; all of them are optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// The server's host name or address.
    pub address: Option<String>,
    /// The knock port, 1 to 65535.
    pub port: Option<u16>,
    /// The server id.
    pub id: Option<ServerId>,
    /// The key file as written; can be relative or start with `~/`.
    pub key: Option<PathBuf>,
    /// A program and its arguments. Its standard output is the text of the key file. Never set together with `key`.
    pub key_command: Option<Vec<String>>,
    /// The action if none is given on the command line.
    pub action: Option<ActionName>,
    /// The address that gets the grant.
    pub source: Option<SourceOption>,
    /// Whether to request a reply.
    pub reply: Option<ReplyWanted>,
    /// The TCP port to wait for, 1 to 65535.
    pub wait: Option<u16>,
}

/// One problem in a profile. Line and column start at 1; columns count characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {reason}")]
pub struct ProfileError {
    /// The line.
    pub line: usize,
    /// The column in the line.
    pub column: usize,
    /// The problem. Does not contain the invalid value.
    pub reason: String,
}

impl Profile {
    /// Reads all profiles by server, without values that cannot be read.
    #[must_use]
    pub fn all(text: &str) -> BTreeMap<String, Self> {
        let Ok(document) = DeTable::parse(text) else { return BTreeMap::new() };
        let mut reader = ProfileReader { text, problems: Vec::new() };
        let servers = document.get_ref().get("server").and_then(|servers| servers.get_ref().as_table());
        let servers = servers.into_iter().flatten();
        servers.map(|(name, value)| (name.get_ref().to_string(), reader.server(value))).collect()
    }

    /// Reads the profile of server `name`; returns an empty profile if the text has none.
    ///
    /// # Errors
    /// All problems in the whole text, in order.
    pub fn parse(text: &str, name: &str) -> Result<Self, Vec<ProfileError>> {
        let document = DeTable::parse(text).map_err(|error| {
            vec![ProfileError::at(text, &error.span().unwrap_or_default(), error.message().to_owned())]
        })?;
        let mut reading = ProfileReader { text, problems: Vec::new() };
        let mut found = Self::default();
        for (key, value) in document.get_ref() {
            if key.get_ref() == "server" {
                reading.servers(value, name, &mut found);
            } else {
                reading.problem(&key.span(), "unknown name (known: [server.NAME])");
            }
        }
        if reading.problems.is_empty() {
            return Ok(found);
        }
        reading.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(reading.problems)
    }
}

impl ProfileError {
    fn at(text: &str, span: &Range<usize>, reason: String) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let start_of_line = before.rsplit('\n').next().unwrap_or_default();
        Self {
            line: before.matches('\n').count().saturating_add(1),
            column: start_of_line.chars().count().saturating_add(1),
            reason,
        }
    }
}

struct ProfileReader<'a> {
    text: &'a str,
    problems: Vec<ProfileError>,
}

type SpannedValue<'a> = Spanned<DeValue<'a>>;

impl ProfileReader<'_> {
    fn problem(&mut self, span: &Range<usize>, reason: impl ToString) {
        self.problems.push(ProfileError::at(self.text, span, reason.to_string()));
    }

    fn servers(&mut self, servers: &SpannedValue<'_>, name: &str, found: &mut Profile) {
        let Some(table) = servers.get_ref().as_table() else {
            return self.problem(&servers.span(), "server must be a table: [server.NAME]");
        };
        for (key, value) in table {
            let profile = self.server(value);
            if key.get_ref() == name {
                *found = profile;
            }
        }
    }

    fn server(&mut self, server: &SpannedValue<'_>) -> Profile {
        let mut profile = Profile::default();
        let Some(table) = server.get_ref().as_table() else {
            self.problem(&server.span(), "a server must be a table: [server.NAME]");
            return profile;
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "address" => profile.address = self.checked(value, host),
                "port" => profile.port = self.checked(value, port),
                "id" => profile.id = self.checked(value, parsed),
                "key" => profile.key = self.checked(value, |value| string(value).map(PathBuf::from)),
                "key-command" => profile.key_command = self.checked(value, command),
                "action" => profile.action = self.checked(value, parsed),
                "source" => profile.source = self.checked(value, parsed),
                "reply" => profile.reply = self.checked(value, reply),
                "wait" => profile.wait = self.checked(value, port),
                _ => self.problem(
                    &key.span(),
                    "unknown name (known: address, port, id, key, key-command, action, source, reply, wait)",
                ),
            }
        }
        if let (true, Some((key, _))) = (profile.key.is_some(), table.get_key_value("key-command")) {
            self.problem(&key.span(), "use either key or key-command, not both");
        }
        profile
    }

    fn checked<T>(
        &mut self,
        value: &SpannedValue<'_>,
        check: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        check(value.get_ref()).map_err(|reason| self.problem(&value.span(), reason)).ok()
    }
}

fn string<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| "expected a string in quotes".to_owned())
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(value: &DeValue<'_>) -> Result<T, String> {
    string(value)?.parse().map_err(|error: T::Err| error.to_string())
}

fn command(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let expected = || "expected a program and its arguments: [\"pass\", \"show\", \"knock\"]".to_owned();
    let words = value.as_array().filter(|words| !words.is_empty()).ok_or_else(expected)?;
    let text = |word: &SpannedValue<'_>| word.get_ref().as_str().map(str::to_owned).ok_or_else(expected);
    let words: Vec<String> = words.iter().map(text).collect::<Result<_, _>>()?;
    if words.first().is_some_and(String::is_empty) { Err(expected()) } else { Ok(words) }
}

fn host(value: &DeValue<'_>) -> Result<String, String> {
    let host = string(value)?;
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("not a host name or address".to_owned());
    }
    Ok(host.to_owned())
}

fn port(value: &DeValue<'_>) -> Result<u16, String> {
    let number =
        value.as_integer().and_then(|number| u16::from_str_radix(number.as_str(), number.radix()).ok());
    number.filter(|&port| port != 0).ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
}

fn reply(value: &DeValue<'_>) -> Result<ReplyWanted, String> {
    match value.as_bool() {
        Some(true) => Ok(ReplyWanted::Yes),
        Some(false) => Ok(ReplyWanted::No),
        None => Err("reply must be true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
[server.home]
address = "home.example.org"
port = 4000
id = "bastion"
key = "~/keys/home.key"
action = "open-ssh"
source = "listed:192.0.2.1"
reply = false
wait = 22

[server."10.0.0.1"]
"#;

    #[test]
    fn a_profile_contains_the_options_of_its_server() {
        let home = Profile::parse(FULL, "home").unwrap();
        assert_eq!(home.address.as_deref(), Some("home.example.org"));
        assert_eq!((home.port, home.wait), (Some(4000), Some(22)));
        assert_eq!(home.id.unwrap().as_str(), "bastion");
        assert_eq!(home.key, Some(PathBuf::from("~/keys/home.key")));
        assert_eq!(home.action.unwrap().as_str(), "open-ssh");
        assert_eq!(home.source, "listed:192.0.2.1".parse().ok());
        assert_eq!(home.reply, Some(ReplyWanted::No));
        for name in ["10.0.0.1", "elsewhere"] {
            assert_eq!(Profile::parse(FULL, name).unwrap(), Profile::default());
        }
        assert_eq!(Profile::parse("", "home").unwrap(), Profile::default());
    }

    #[test]
    fn a_key_command_is_a_list_of_strings_and_excludes_a_key() {
        let profile = Profile::parse("[server.a]\nkey-command = [\"pass\", \"show\", \"\"]\n", "a").unwrap();
        assert_eq!(profile.key_command.unwrap(), ["pass", "show", ""]);
        for value in ["\"pass show\"", "[]", "[\"\"]", "[1]"] {
            let errors = Profile::parse(&format!("[server.a]\nkey-command = {value}\n"), "a").unwrap_err();
            assert!(errors[0].to_string().starts_with("2:15: expected a program"), "{value}: {}", errors[0]);
        }
        let both = "[server.a]\nkey = \"a.key\"\nkey-command = [\"a\"]\n";
        assert_eq!(
            Profile::parse(both, "a").unwrap_err()[0].to_string(),
            "3:1: use either key or key-command, not both"
        );
    }

    #[test]
    fn every_problem_is_reported_with_its_location_but_without_the_value() {
        let text = "[server.a]\nport = 0\nsecret = \"sesame\"\n  wait = 70000\n[servers.b]\n[server.c]\nreply = 1\nsource = \"no\"\naddress = \"a b\"\nkey = \"\"\n";
        let errors = Profile::parse(text, "b").unwrap_err();
        let places: Vec<_> = errors.iter().map(|e| (e.line, e.column)).collect();
        assert_eq!(places, [(2, 8), (3, 1), (4, 10), (5, 2), (7, 9), (8, 10), (9, 11), (10, 7)]);
        assert_eq!(errors[0].to_string(), "2:8: a port is a number from 1 to 65535");
        assert!(errors.iter().all(|e| !e.to_string().contains("sesame")));
    }

    #[test]
    fn a_syntax_error_is_reported_with_its_location() {
        for (text, line) in [("[server.a\n", 1), ("[server.a]\nport = \n", 2), ("server = 1\n", 1)] {
            let errors = Profile::parse(text, "a").unwrap_err();
            assert_eq!(errors[0].line, line, "{text}");
        }
    }
}
