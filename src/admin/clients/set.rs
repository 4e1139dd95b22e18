//! `spa-knockd client set`: changes a client's rules, in the file that `client add` created.

use std::collections::BTreeSet;
use std::path::Path;

use super::present_client::PresentClient;
use super::{day_or_time, expiry, joined};
use crate::admin::args::SetClient;
use crate::config;
use crate::console::{AdminError, notice, own_command};
use spa_knock_core::auth::ClientRules;

/// Changes a client's rules; the rest of its file stays the same.
///
/// # Errors
/// When the config is invalid, there is no such client, an action is unknown, or its file is not of the form that
/// `client add` writes. Nothing has changed then.
pub(crate) fn set(path: &Path, set: &SetClient) -> Result<(), AdminError> {
    let config = config::load(path)?;
    let name = &set.name;
    let client = PresentClient::find(path, &config, name, set.fleet, "change")?;
    let entry = &client.entry;
    let mut rules = entry.rules.clone();
    let mut lines: Vec<(&str, Option<String>)> = Vec::new();
    if !set.allow.is_empty() {
        rules.allow = set.allow.iter().cloned().collect();
        lines.push(("allow", Some(list(&rules.allow))));
    }
    if !set.source.is_empty() {
        rules.sources = set.source.iter().copied().collect();
        lines.push(("source", Some(list(&rules.sources))));
    }
    if let Some(limit) = set.rate {
        rules.rate = limit.0;
        lines.push(("rate", rules.rate.map(|rate| format!("\"{rate}\""))));
    }
    if let Some(when) = &set.expires {
        rules.expires = (when != "never").then(|| expiry(when)).transpose()?;
        lines.push(("expires", rules.expires.map(day_or_time)));
    }
    let text = with_lines(&client.text, lines);
    let changed = client.read_as(&text)?.is_some_and(|new| {
        same(&new.rules, &rules)
            && (&new.key, &new.otp) == (&entry.key, &entry.otp)
            && new.signing == entry.signing
    });
    if !changed {
        let hint = match set.fleet {
            true => "revoke it, and add it again".to_owned(),
            false => format!("change it by hand, then: {}", own_command("reload")),
        };
        return Err(AdminError::run(format_args!(
            "{}: unchanged, because it does not have the form that `client add` writes\nhint: {hint}",
            client.place()
        )));
    }
    client.replace(&text, None, &[])?;
    notice(format_args!("client {name}: changed, allowed actions: {}", joined(&rules.allow)));
    client.apply(&[])
}

/// Whether rules are equal. Times are compared to the second, as they are written.
fn same(one: &ClientRules, other: &ClientRules) -> bool {
    let to_the_second = |rules: &ClientRules| ClientRules { expires: None, ..rules.clone() };
    to_the_second(one) == to_the_second(other)
        && one.expires.map(day_or_time) == other.expires.map(day_or_time)
}

fn list(items: &BTreeSet<impl ToString>) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{}\"", item.to_string())).collect();
    format!("[{}]", quoted.join(", "))
}

/// The text with these keys set or removed. New keys are inserted after the line of the key file.
fn with_lines(old: &str, lines: Vec<(&str, Option<String>)>) -> String {
    let sets = |line: &str, key: &str| {
        line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let mut text = String::new();
    for line in old.lines().filter(|line| !lines.iter().any(|(key, _)| sets(line, key))) {
        text.push_str(line);
        text.push('\n');
        if sets(line, "key") {
            for (key, value) in &lines {
                text.extend(value.iter().map(|value| format!("{key} = {value}\n")));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_set_once_and_other_lines_stay() {
        let old = "# Mine\n[client.a]\nkey = \"a.key\"\nallow = [\"x\"] # old\nuses = 3\nrate = \"1/m\"\n";
        let new = with_lines(
            old,
            vec![
                ("allow", Some("[\"y\"]".to_owned())),
                ("rate", None),
                ("expires", Some("2099-01-01".to_owned())),
            ],
        );
        assert_eq!(
            new,
            "# Mine\n[client.a]\nkey = \"a.key\"\nallow = [\"y\"]\nexpires = 2099-01-01\nuses = 3\n"
        );
    }
}
