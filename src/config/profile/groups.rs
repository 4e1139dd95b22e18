//! Groups: profiles that name several servers, which get a knock each, simultaneously.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::DeTable;

use super::{Profile, ProfileReader, SpannedValue};

/// Maximum number of servers in a group. Each has a thread of its own while it is knocked at.
const SERVERS_MAX: usize = 32;

/// What a group does not have, because each of its servers has its own.
const OF_EACH_SERVER: [&str; 5] = ["address", "port", "id", "key", "key-command"];

/// A server in a group, and where the group names it.
pub(super) struct Membership {
    group: Option<String>,
    server: String,
    span: Range<usize>,
}

impl ProfileReader<'_> {
    /// The names in `servers`.
    pub(super) fn group(&mut self, value: &SpannedValue<'_>) -> Option<Vec<String>> {
        let items = value.get_ref().as_array().filter(|items| !items.is_empty());
        let Some(items) = items else {
            self.problem(&value.span(), EXPECTED);
            return None;
        };
        let mut servers = Vec::new();
        for item in items {
            let name = item.get_ref().as_str().filter(|name| is_name(name));
            let problem = match name {
                None => EXPECTED.to_owned(),
                Some(name) if servers.iter().any(|server| server == name) => {
                    format!("{name} is listed twice")
                }
                Some(_) if servers.len() >= SERVERS_MAX => format!("more than {SERVERS_MAX} servers"),
                Some(name) => {
                    servers.push(name.to_owned());
                    self.groups.push(Membership {
                        group: self.server.clone(),
                        server: name.to_owned(),
                        span: item.span(),
                    });
                    continue;
                }
            };
            self.problem(&item.span(), problem);
        }
        Some(servers)
    }

    /// Rejects what each server of a group has for itself.
    pub(super) fn check_keys_of_group(&mut self, table: &DeTable<'_>) {
        for name in OF_EACH_SERVER {
            if let Some((key, _)) = table.get_key_value(name) {
                let reason =
                    format!("use either servers or {name}, not both: each server has its own profile");
                self.problem(&key.span(), reason);
            }
        }
    }

    /// Rejects groups that contain groups.
    pub(super) fn check_nesting(&mut self, servers: &BTreeMap<String, Profile>) {
        let is_group = |name: &str| servers.get(name).is_some_and(|profile| profile.servers.is_some());
        for Membership { group, server, span } in std::mem::take(&mut self.groups) {
            if is_group(&server) {
                let reason = format!(
                    "group {} contains {server}, which is a group itself: list servers only",
                    group.as_deref().unwrap_or_default()
                );
                self.server = group;
                self.problem(&span, reason);
            }
        }
        self.server = None;
    }
}

const EXPECTED: &str = "expected a list of servers: [\"b1\", \"b2\"]";

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::super::Profiles;

    fn problems(text: &str) -> Vec<String> {
        Profiles::parse(text).problems_except(&[]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_group_names_servers_and_may_have_what_they_have_in_common() {
        let text = "[server.g]\nservers = [\"b1\", \"10.0.0.2\"]\naction = \"open-ssh\"\nsource = \"auto\"\nfor = \"5m\"\nreply = true\nwait = 22\naddresses = \"first\"\n";
        assert_eq!(problems(text), [""; 0]);
        assert_eq!(Profiles::parse(text).of("g").servers.unwrap(), ["b1", "10.0.0.2"]);
    }

    #[test]
    fn what_each_server_has_for_itself_is_rejected_in_a_group() {
        for line in ["address = \"a\"", "port = 1", "id = \"a\"", "key = \"k\"", "key-command = [\"a\"]"] {
            let name = line.split(' ').next().unwrap();
            let text = format!("[server.g]\nservers = [\"b1\"]\n{line}\n");
            let expected =
                format!("3:1: use either servers or {name}, not both: each server has its own profile");
            assert_eq!(problems(&text), [expected]);
        }
    }

    #[test]
    fn a_group_contains_no_group_and_the_error_names_both() {
        let text =
            "[server.g]\nservers = [\"b1\", \"h\"]\n[server.h]\nservers = [\"h\"]\n[server.b1]\nport = 1\n";
        assert_eq!(
            problems(text),
            [
                "2:18: group g contains h, which is a group itself: list servers only",
                "4:12: group h contains h, which is a group itself: list servers only"
            ]
        );
    }

    #[test]
    fn a_list_of_servers_has_names_without_repetitions() {
        for (list, column, reason) in [
            ("[]", 11, super::EXPECTED),
            ("\"b1\"", 11, super::EXPECTED),
            ("[1]", 12, super::EXPECTED),
            ("[\"\"]", 12, super::EXPECTED),
            ("[\"a b\"]", 12, super::EXPECTED),
            ("[\"a\", \"a\"]", 17, "a is listed twice"),
        ] {
            assert_eq!(
                problems(&format!("[server.g]\nservers = {list}\n")),
                [format!("2:{column}: {reason}")]
            );
        }
        let many: Vec<_> = (0..33).map(|number| format!("\"b{number}\"")).collect();
        let [problem] = &problems(&format!("[server.g]\nservers = [{}]\n", many.join(",")))[..] else {
            panic!()
        };
        assert!(problem.ends_with(": more than 32 servers"), "{problem}");
    }

    #[test]
    fn the_problems_of_one_server_are_not_those_of_the_others() {
        let text = "[server.g]\nservers = [\"b1\", \"b2\"]\n[server.b1]\nport = 0\n[server.b2]\n[server.c]\nwait = 0\n";
        let profiles = Profiles::parse(text);
        let lines = |errors: Vec<&super::super::ProfileError>| {
            errors.iter().map(|error| error.line).collect::<Vec<_>>()
        };
        assert_eq!(lines(profiles.problems_except(&profiles.of("g").servers.unwrap())), [7]);
        assert_eq!(lines(profiles.problems_of("b1")), [4]);
        assert_eq!(lines(profiles.problems_of("b2")), [0; 0]);
    }
}
