//! Parses the client's profiles, `~/.config/spa-knock/config.toml`: recurring options for each server. Turns text into
//! checked values and reads no files.

mod groups;
mod values;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::full_name;
use super::syntax::syntax_message;
use groups::Membership;
use spa_knock_core::knock::{ActionName, ReplyWanted, ServerId, SourceOption};
use values::{addresses, command, host, learn, parsed, port, reply, seconds, string};

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
    /// For how long access is requested, in seconds.
    pub seconds: Option<u32>,
    /// Whether to request a reply.
    pub reply: Option<ReplyWanted>,
    /// The TCP port to wait for, 1 to 65535.
    pub wait: Option<u16>,
    /// Which of the server's addresses get a knock.
    pub addresses: Option<AddressChoice>,
    /// Which SSH key signs knocks.
    pub sign: Option<SignChoice>,
    /// The socket of the agent with that key, as written; can be relative or start with `~/`.
    pub agent: Option<PathBuf>,
    /// What happens with an address that a reply reports.
    pub learn: Option<LearnChoice>,
    /// The servers of a group, each as if typed as SERVER. A group has no address, port, id or key of its own.
    pub servers: Option<Vec<String>>,
}

/// Which SSH key signs knocks: `--sign`, and `sign` in a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignChoice {
    /// The key that the key file names.
    Agent,
    /// The key in this public key file; can be relative or start with `~/`.
    File(PathBuf),
}

/// Whether a signed knock claims an address that a reply reports. A reply is not signed, so an attacker with the pair
/// secret can report their own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearnChoice {
    /// Only if the user confirms it.
    Ask,
    /// Always, as in knocks without an SSH key.
    Reply,
}

impl SignChoice {
    /// Parses the value of `--sign` and of `sign`.
    #[must_use]
    pub fn of(text: &std::ffi::OsStr) -> Self {
        if text == "agent" { Self::Agent } else { Self::File(text.into()) }
    }
}

/// Which addresses of a server get a knock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressChoice {
    /// The first one that replies: they are tried one after the other.
    First,
    /// All of them, simultaneously.
    All,
}

/// The profiles in a file, and its problems.
#[derive(Debug, Default)]
pub struct Profiles {
    servers: BTreeMap<String, Profile>,
    problems: Vec<ProfileProblem>,
}

/// A problem, and the server whose profile it is in; none if it is outside of all profiles.
#[derive(Debug)]
struct ProfileProblem {
    server: Option<String>,
    error: ProfileError,
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

impl Profiles {
    /// Reads all profiles. Values that cannot be read are left out; each is a problem.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut reader = ProfileReader { text, server: None, problems: Vec::new(), groups: Vec::new() };
        let mut servers = BTreeMap::new();
        match DeTable::parse(text) {
            Ok(document) => reader.document(document.get_ref(), &mut servers),
            Err(error) => {
                reader.problem(&error.span().unwrap_or_default(), syntax_message(text, &error));
            }
        }
        reader.problems.sort_by_key(|problem| (problem.error.line, problem.error.column));
        Self { servers, problems: reader.problems }
    }

    /// The profile of this server; an empty one if there is none.
    #[must_use]
    pub fn of(&self, server: &str) -> Profile {
        self.servers.get(server).cloned().unwrap_or_default()
    }

    /// All problems in order, except those in the profiles of these servers.
    #[must_use]
    pub fn problems_except(&self, servers: &[String]) -> Vec<&ProfileError> {
        let is_theirs = |problem: &&ProfileProblem| {
            problem.server.as_ref().is_some_and(|server| servers.contains(server))
        };
        self.problems.iter().filter(|problem| !is_theirs(problem)).map(|problem| &problem.error).collect()
    }

    /// The problems in the profile of this server, in order.
    #[must_use]
    pub fn problems_of(&self, server: &str) -> Vec<&ProfileError> {
        let theirs = self.problems.iter().filter(|problem| problem.server.as_deref() == Some(server));
        theirs.map(|problem| &problem.error).collect()
    }

    /// All profiles by server.
    #[must_use]
    pub fn into_servers(self) -> BTreeMap<String, Profile> {
        self.servers
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
    /// The server whose profile is being read.
    server: Option<String>,
    problems: Vec<ProfileProblem>,
    groups: Vec<Membership>,
}

type SpannedValue<'a> = Spanned<DeValue<'a>>;

impl ProfileReader<'_> {
    fn problem(&mut self, span: &Range<usize>, reason: impl ToString) {
        let error = ProfileError::at(self.text, span, reason.to_string());
        self.problems.push(ProfileProblem { server: self.server.clone(), error });
    }

    fn document(&mut self, document: &DeTable<'_>, servers: &mut BTreeMap<String, Profile>) {
        for (key, value) in document {
            if key.get_ref() != "server" {
                let name = full_name("", key.get_ref());
                self.problem(&key.span(), format!("{name}: unknown name (known: [server.NAME])"));
            } else if let Some(table) = value.get_ref().as_table() {
                for (name, profile) in table {
                    let name = name.get_ref().to_string();
                    self.server = Some(name.clone());
                    servers.insert(name, self.profile(profile));
                }
                self.server = None;
            } else {
                self.problem(&value.span(), "server must be a table: [server.NAME]");
            }
        }
        self.check_nesting(servers);
    }

    fn profile(&mut self, server: &SpannedValue<'_>) -> Profile {
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
                "for" => profile.seconds = self.checked(value, seconds),
                "reply" => profile.reply = self.checked(value, reply),
                "wait" => profile.wait = self.checked(value, port),
                "addresses" => profile.addresses = self.checked(value, addresses),
                "sign" => {
                    profile.sign =
                        self.checked(value, |value| string(value).map(|text| SignChoice::of(text.as_ref())));
                }
                "agent" => profile.agent = self.checked(value, |value| string(value).map(PathBuf::from)),
                "learn" => profile.learn = self.checked(value, learn),
                "servers" => profile.servers = self.group(value),
                name => self.problem(
                    &key.span(),
                    format!("{}: unknown name (known: address, port, id, key, key-command, action, source, for, reply, wait, addresses, sign, agent, learn, servers)", full_name("", name)),
                ),
            }
        }
        if let (true, Some((key, _))) = (profile.key.is_some(), table.get_key_value("key-command")) {
            self.problem(&key.span(), "use either key or key-command, not both");
        }
        if table.contains_key("servers") {
            self.check_keys_of_group(table);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The profile of a server, or all problems of the file.
    fn read(text: &str, server: &str) -> Result<Profile, Vec<ProfileError>> {
        let profiles = Profiles::parse(text);
        let problems = profiles.problems_except(&[]);
        if problems.is_empty() {
            Ok(profiles.of(server))
        } else {
            Err(problems.into_iter().cloned().collect())
        }
    }

    const FULL: &str = r#"
[server.home]
address = "home.example.org"
port = 4000
id = "bastion"
key = "~/keys/home.key"
action = "open-ssh"
source = "listed:192.0.2.1"
for = "5m"
reply = false
wait = 22
addresses = "all"
sign = "~/.ssh/id_ed25519.pub"
agent = "~/.ssh/knock-agent.sock"
learn = "reply"

[server."10.0.0.1"]
"#;

    #[test]
    fn a_profile_contains_the_options_of_its_server() {
        let home = read(FULL, "home").unwrap();
        assert_eq!(home.address.as_deref(), Some("home.example.org"));
        assert_eq!((home.port, home.wait), (Some(4000), Some(22)));
        assert_eq!(home.id.unwrap().as_str(), "bastion");
        assert_eq!(home.key, Some(PathBuf::from("~/keys/home.key")));
        assert_eq!(home.action.unwrap().as_str(), "open-ssh");
        assert_eq!(home.source, "listed:192.0.2.1".parse().ok());
        assert_eq!(home.seconds, Some(300));
        assert_eq!(home.reply, Some(ReplyWanted::No));
        assert_eq!(home.addresses, Some(AddressChoice::All));
        assert_eq!(home.sign, Some(SignChoice::File(PathBuf::from("~/.ssh/id_ed25519.pub"))));
        assert_eq!(home.agent, Some(PathBuf::from("~/.ssh/knock-agent.sock")));
        assert_eq!(home.learn, Some(LearnChoice::Reply));
        let agent = read("[server.a]\nsign = \"agent\"\nlearn = \"ask\"\n", "a").unwrap();
        assert_eq!((agent.sign, agent.learn), (Some(SignChoice::Agent), Some(LearnChoice::Ask)));
        for name in ["10.0.0.1", "elsewhere"] {
            assert_eq!(read(FULL, name).unwrap(), Profile::default());
        }
        assert_eq!(read("", "home").unwrap(), Profile::default());
    }

    #[test]
    fn a_key_command_is_a_list_of_strings_and_excludes_a_key() {
        let profile = read("[server.a]\nkey-command = [\"pass\", \"show\", \"\"]\n", "a").unwrap();
        assert_eq!(profile.key_command.unwrap(), ["pass", "show", ""]);
        for value in ["\"pass show\"", "[]", "[\"\"]", "[1]"] {
            let errors = read(&format!("[server.a]\nkey-command = {value}\n"), "a").unwrap_err();
            assert!(errors[0].to_string().starts_with("2:15: expected a program"), "{value}: {}", errors[0]);
        }
        let both = "[server.a]\nkey = \"a.key\"\nkey-command = [\"a\"]\n";
        assert_eq!(
            read(both, "a").unwrap_err()[0].to_string(),
            "3:1: use either key or key-command, not both"
        );
    }

    #[test]
    fn every_problem_is_reported_with_its_location_but_without_the_value() {
        let text = "[server.a]\nport = 0\nsecret = \"sesame\"\n  wait = 70000\n[servers.b]\n[server.c]\nreply = 1\nsource = \"no\"\naddress = \"a b\"\nkey = \"\"\n";
        let errors = read(text, "b").unwrap_err();
        let places: Vec<_> = errors.iter().map(|e| (e.line, e.column)).collect();
        assert_eq!(places, [(2, 8), (3, 1), (4, 10), (5, 2), (7, 9), (8, 10), (9, 11), (10, 7)]);
        assert_eq!(errors[0].to_string(), "2:8: a port is a number from 1 to 65535");
        assert!(errors.iter().all(|e| !e.to_string().contains("sesame")));
    }

    #[test]
    fn a_syntax_error_is_reported_with_its_location() {
        for (text, line) in [("[server.a\n", 1), ("[server.a]\nport = \n", 2), ("server = 1\n", 1)] {
            let errors = read(text, "a").unwrap_err();
            assert_eq!(errors[0].line, line, "{text}");
        }
    }
}
