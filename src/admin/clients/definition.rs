//! The file of a client in `clients.d`, as `client add` writes it.

use std::collections::BTreeSet;

use super::day_or_time;
use crate::admin::args::AddClient;
use crate::config::{SigningEntry, full_name};
use crate::console::own_command;
use spa_knock_core::auth::Touch;
use spa_knock_core::crypto::ssh::PublicKey;
use spa_knock_core::knock::{ClientName, Timestamp};

/// The text of the file for the client `name`.
pub(super) fn definition(
    add: &AddClient,
    name: &ClientName,
    signing: Option<&SigningEntry>,
    expires: Option<Timestamp>,
) -> String {
    let allow: BTreeSet<_> = add.allow.iter().collect();
    let quoted: Vec<String> = allow.iter().map(|action| format!("\"{action}\"")).collect();
    let sources: BTreeSet<_> = add.source.iter().collect();
    let sources: Vec<String> = sources.iter().map(|source| format!("\"{source}\"")).collect();
    let table = full_name("client", name.as_str());
    let fleet = if add.fleet { " --fleet" } else { "" };
    let mut text = format!(
        "# Made by `client add`; `{}` removes it.\n\
         [{table}]\nkey = \"{name}.key\"\n",
        own_command(&format!("client revoke {name}{fleet}"))
    );
    let lines = [
        signing.map(|signing| public_key_line(&signing.public_key)),
        signing.filter(|signing| signing.touch == Touch::Pin).map(|signing| touch_line(signing.touch)),
        Some(format!("allow = [{}]", quoted.join(", "))),
        Some(format!("source = [{}]", sources.join(", "))),
        add.rate.0.map(|rate| format!("rate = \"{rate}\"")),
        expires.map(|expires| format!("expires = {}", day_or_time(expires))),
        add.uses.map(|uses| format!("uses = {uses}")),
        add.otp.then(|| format!("otp = \"{name}.otp\"")),
    ];
    for line in lines.into_iter().flatten() {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The line that names the SSH key. Its text contains neither quotes nor backslashes.
pub(super) fn public_key_line(key: &PublicKey) -> String {
    format!("public_key = \"{key}\"")
}

fn touch_line(touch: Touch) -> String {
    format!("touch = \"{}\"", touch.as_str())
}
