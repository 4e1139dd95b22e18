//! Command lines as fwknop has them: words at white space, without a shell.

use std::path::Path;

use spa_knock_fwknop::CommandRules;

/// The command with sudo before it, if the stanza asks for that.
pub(super) fn with_sudo(argv: Vec<String>, rules: &CommandRules, sudo: &Path) -> Vec<String> {
    let Some(account) = &rules.sudo else { return argv };
    let mut words = vec![sudo.display().to_string()];
    for (option, name) in [("-u", &account.user), ("-g", &account.group)] {
        words.extend(name.iter().flat_map(|name| [option.to_owned(), name.clone()]));
    }
    words.extend(argv);
    words
}

/// Splits a command line at white space, as fwknop does; there are no quotes. `None` if it is empty.
pub(super) fn words(command: &str) -> Option<Vec<String>> {
    let words: Vec<String> = command.split_ascii_whitespace().map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

/// Whether a command line with variables can have become this command: each `$NAME` is an address or a number.
pub(super) fn is_made_of(template: &str, argv: &[String]) -> bool {
    let templates: Vec<&str> = template.split_ascii_whitespace().collect();
    templates.len() == argv.len()
        && templates.iter().zip(argv).all(|(word, made)| is_word_made_of(word, made))
}

fn is_word_made_of(template: &str, made: &str) -> bool {
    let is_value =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':'));
    let mut parts = template.split('$');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = made.strip_prefix(first) else { return false };
    for part in parts {
        // The name of the variable ends where the fixed text begins.
        let fixed = part.trim_start_matches(|c: char| c.is_ascii_uppercase() || c == '_');
        let end =
            if fixed.is_empty() { rest.find(|c| !is_value(&String::from(c))) } else { rest.find(fixed) };
        let Some((value, after)) = rest.split_at_checked(end.unwrap_or(rest.len())) else { return false };
        let Some(after) = after.strip_prefix(fixed) else { return false };
        if !is_value(value) {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_command_that_a_stanza_makes_is_confirmed() {
        let made = |template: &str, command: &str| is_made_of(template, &words(command).unwrap());
        for (template, command, is_made) in [
            ("/bin/close $IP", "/bin/close 10.0.0.1", true),
            ("/bin/close $IP", "/bin/close fd00::1", true),
            ("/bin/close $IP", "/bin/close", false),
            ("/bin/close $IP", "/bin/close 10.0.0.1 x", false),
            ("/bin/close $IP", "/bin/close /etc/passwd", false),
            ("/bin/close $IP", "/bin/other 10.0.0.1", false),
            ("/bin/close -s$IP/32 -p$PORT,$PROTO", "/bin/close -s10.0.0.1/32 -p22,6", true),
            ("/bin/close -s$IP/32 -p$PORT,$PROTO", "/bin/close -s10.0.0.1/31 -p22,6", false),
            ("/bin/close all", "/bin/close all", true),
        ] {
            assert_eq!(made(template, command), is_made, "{template}: {command}");
        }
    }
}
