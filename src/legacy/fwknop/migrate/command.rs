//! Commands of `CMD_CYCLE_OPEN` and `CMD_CYCLE_CLOSE` as lists of arguments with placeholders.

use crate::config::quoted;
use spa_knock_fwknop::{Port, Transport};

/// fwknop's variables. A name comes before those that it begins with.
const VARIABLES: [&str; 8] = ["CLIENT_TIMEOUT", "PKT_SRC", "TIMEOUT", "PROTO", "PORT", "SRC", "DST", "IP"];

/// What a command needs in order to be translated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CommandNeeds {
    /// `$PORT` or `$PROTO`: the port that the client asks for.
    pub(super) port: bool,
    /// `$CLIENT_TIMEOUT`: a duration.
    pub(super) duration: bool,
}

/// The needs of a command, or the variable that has no equivalent.
pub(super) fn needs(command: &str) -> Result<CommandNeeds, &'static str> {
    let mut needs = CommandNeeds::default();
    for part in command.split('$').skip(1) {
        match variable(part) {
            Some("PORT" | "PROTO") => needs.port = true,
            Some("CLIENT_TIMEOUT") => needs.duration = true,
            Some(name @ ("TIMEOUT" | "DST")) => return Err(name),
            _ => {}
        }
    }
    Ok(needs)
}

/// The arguments as a list in TOML. fwknopd splits a command at spaces and leaves quotes as they are; it runs no shell.
/// A program without an absolute path is found by env(1), because fwknopd looks for it in `PATH`.
pub(super) fn argv(command: &str, port: Option<Port>) -> String {
    let words: Vec<&str> = command.split_ascii_whitespace().collect();
    let is_absolute = words.first().is_some_and(|program| program.starts_with('/') && !program.contains('$'));
    let env = if is_absolute { None } else { Some(quoted("/usr/bin/env")) };
    let words = words.into_iter().map(|word| quoted(&template(word, port)));
    format!("[{}]", env.into_iter().chain(words).collect::<Vec<_>>().join(", "))
}

fn variable(part: &str) -> Option<&'static str> {
    VARIABLES.into_iter().find(|name| part.starts_with(name))
}

/// A word with placeholders for its variables. As in fwknopd, an unknown name only loses its `$`.
fn template(word: &str, port: Option<Port>) -> String {
    let literal = |text: &str| text.replace('{', "{{").replace('}', "}}");
    let mut parts = word.split('$');
    let mut text = literal(parts.next().unwrap_or_default());
    for part in parts {
        let name = variable(part).unwrap_or_default();
        match (name, port) {
            ("IP" | "SRC" | "PKT_SRC", _) => text.push_str("{address}"),
            ("CLIENT_TIMEOUT", _) => text.push_str("{seconds}"),
            ("PORT", Some(port)) => text.push_str(&port.number.to_string()),
            // The number of the protocol.
            ("PROTO", Some(Port { transport: Transport::Tcp, .. })) => text.push('6'),
            ("PROTO", Some(Port { transport: Transport::Udp, .. })) => text.push_str("17"),
            _ => text.push_str(name),
        }
        text.push_str(&literal(part.strip_prefix(name).unwrap_or(part)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_at_spaces_and_its_variables_become_placeholders() {
        let port = Some(Port { transport: Transport::Udp, number: 53 });
        for (command, argv_of_it) in [
            ("/bin/a -s $IP $SRC/$PKT_SRC", r#"["/bin/a", "-s", "{address}", "{address}/{address}"]"#),
            (
                "nft add element t { $SRC }",
                r#"["/usr/bin/env", "nft", "add", "element", "t", "{{", "{address}", "}}"]"#,
            ),
            ("/bin/$IP", r#"["/usr/bin/env", "/bin/{address}"]"#),
            (r#"/bin/sh -c "a b" 'c\'"#, r#"["/bin/sh", "-c", "\"a", "b\"", "'c\\'"]"#),
            ("/bin/a 1:$PORT $PROTO $CLIENT_TIMEOUTs", r#"["/bin/a", "1:53", "17", "{seconds}s"]"#),
            ("/bin/a $FOO $$ x$", r#"["/bin/a", "FOO", "", "x"]"#),
        ] {
            assert_eq!(argv(command, port), argv_of_it, "{command}");
        }
    }

    #[test]
    fn a_variable_without_equivalent_is_named() {
        for (command, found) in [
            ("/bin/a $IP", Ok((false, false))),
            ("/bin/a $PORTS", Ok((true, false))),
            ("/bin/a $PROTO$CLIENT_TIMEOUT", Ok((true, true))),
            ("/bin/a $TIMEOUT", Err("TIMEOUT")),
            ("/bin/a $IP $DST", Err("DST")),
        ] {
            assert_eq!(needs(command).map(|needs| (needs.port, needs.duration)), found, "{command}");
        }
    }
}
