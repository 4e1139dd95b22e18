//! The client's profile, `~/.config/spa-knock/config.toml`: what a person does not want to type for each server.
//! Text → checked values; knows no folder and reads no file.

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use spa_knock_core::knock::{ActionName, ReplyWanted, ServerId, SourceOption};

/// What `[server.NAME]` says; all of it optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// Where to knock: a host name or an address.
    pub address: Option<String>,
    /// The knock port, 1 to 65535.
    pub port: Option<u16>,
    /// What the server calls itself.
    pub id: Option<ServerId>,
    /// The key file, as written: perhaps relative, perhaps from `~/`.
    pub key: Option<PathBuf>,
    /// The command whose standard output is the key file's text: a program and its arguments. Never beside `key`.
    pub key_command: Option<Vec<String>>,
    /// The action, where none is given.
    pub action: Option<ActionName>,
    /// Which address is to be let in.
    pub source: Option<SourceOption>,
    /// Whether an answer is asked for.
    pub reply: Option<ReplyWanted>,
    /// The TCP port to wait for, 1 to 65535.
    pub wait: Option<u16>,
}

/// One thing that is wrong with a profile, and where: line and column from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {reason}")]
pub struct ProfileError {
    /// The line.
    pub line: usize,
    /// The column in it.
    pub column: usize,
    /// What is wrong. No value is repeated.
    pub reason: String,
}

impl Profile {
    /// Reads what the text says about the server `name`; of one that it does not have, nothing is said.
    ///
    /// # Errors
    /// Everything that is wrong anywhere in the text, in its order.
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
            return self.problem(&servers.span(), "server is a table: [server.NAME]");
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
            self.problem(&server.span(), "a server is a table: [server.NAME]");
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
            self.problem(&key.span(), "key or key-command, not both");
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
    value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| "expected a text in quotes".to_owned())
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
        None => Err("reply is true or false".to_owned()),
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
    fn a_profile_says_what_need_not_be_typed() {
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
    fn a_command_for_the_key_is_a_list_of_words_and_stands_alone() {
        let profile = Profile::parse("[server.a]\nkey-command = [\"pass\", \"show\", \"\"]\n", "a").unwrap();
        assert_eq!(profile.key_command.unwrap(), ["pass", "show", ""]);
        for value in ["\"pass show\"", "[]", "[\"\"]", "[1]"] {
            let errors = Profile::parse(&format!("[server.a]\nkey-command = {value}\n"), "a").unwrap_err();
            assert!(errors[0].to_string().starts_with("2:15: expected a program"), "{value}: {}", errors[0]);
        }
        let both = "[server.a]\nkey = \"a.key\"\nkey-command = [\"a\"]\n";
        assert_eq!(
            Profile::parse(both, "a").unwrap_err()[0].to_string(),
            "3:1: key or key-command, not both"
        );
    }

    #[test]
    fn every_mistake_is_told_with_its_place_and_without_its_text() {
        let text = "[server.a]\nport = 0\nsecret = \"sesame\"\n  wait = 70000\n[servers.b]\n[server.c]\nreply = 1\nsource = \"no\"\naddress = \"a b\"\nkey = \"\"\n";
        let errors = Profile::parse(text, "b").unwrap_err();
        let places: Vec<_> = errors.iter().map(|e| (e.line, e.column)).collect();
        assert_eq!(places, [(2, 8), (3, 1), (4, 10), (5, 2), (7, 9), (8, 10), (9, 11), (10, 7)]);
        assert_eq!(errors[0].to_string(), "2:8: a port is a number from 1 to 65535");
        assert!(errors.iter().all(|e| !e.to_string().contains("sesame")));
    }

    #[test]
    fn text_that_is_not_toml_is_told_with_its_place() {
        for (text, line) in [("[server.a\n", 1), ("[server.a]\nport = \n", 2), ("server = 1\n", 1)] {
            let errors = Profile::parse(text, "a").unwrap_err();
            assert_eq!(errors[0].line, line, "{text}");
        }
    }
}
