//! `--save-rc-stanza`: writes the options of the command line into the file with the stanzas.

use spa_knock_fwknop::ClientOptions;
use zeroize::Zeroizing;

use super::args::FwknopArgs;
use super::stanza_file::{self, StanzaFile};
use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::Reporter;
use crate::os::files::{self, FileMode};

/// Adds a stanza with these options, or replaces one.
pub(super) fn save(args: &FwknopArgs, options: ClientOptions) -> Result<(), ClientError> {
    let Some(path) = stanza_file::path(&args.stanzas) else {
        return Err(ClientError::new(ExitCause::Usage, "--save-rc-stanza: there is no file to save it in")
            .hint("name it with --rc-file FILE"));
    };
    let Some(name) = args.stanzas.named_config.as_ref().or(options.server.as_ref()) else {
        return Err(ClientError::new(ExitCause::Usage, "--save-rc-stanza: the stanza has no name")
            .hint("add -n NAME, or -D SERVER, which is then the name"));
    };
    if name.is_empty() || name.contains(|c: char| c.is_control() || matches!(c, '[' | ']')) {
        return Err(ClientError::new(ExitCause::Usage, "--save-rc-stanza: not a name for a stanza"));
    }
    for (is_given, option) in [(args.server_cmd.is_some(), "-C"), (args.sending.http_proxy.is_some(), "-H")] {
        if is_given {
            Reporter::PLAIN.note(&format!("{option}: not saved: .fwknoprc has no variable for it"));
        }
    }
    let stanza = options.to_stanza(name);
    check(&stanza)?;
    let before = match files::exists(&path) {
        true => files::read_secret(&path)?,
        false => Zeroizing::default(),
    };
    let is_known = files::exists(&path) && StanzaFile::open(path.clone())?.stanza(name).is_ok();
    if is_known && !args.stanzas.force_stanza {
        return Err(ClientError::new(
            ExitCause::Files,
            format!("{}: there is already a stanza [{name}]", path.display()),
        )
        .hint("choose another name with -n, or replace the stanza with --force-stanza"));
    }
    let text = with_stanza(&before, name, &stanza);
    // A link to the file stays.
    files::replace(&files::without_links(&path), FileMode::Private, text.as_bytes())?;
    Reporter::PLAIN.note(&format!("{}: stanza [{name}] saved", path.display()));
    Ok(())
}

/// A value ends at space or a comment sign.
fn check(stanza: &str) -> Result<(), ClientError> {
    for line in stanza.lines().skip(1) {
        let (variable, value) = line.split_once(' ').unwrap_or((line, ""));
        if value
            .trim_start_matches(' ')
            .contains(|c: char| c.is_whitespace() || c.is_control() || "#;".contains(c))
        {
            let reason =
                format!("{variable}: contains space, '#' or ';', with which a value ends in .fwknoprc");
            return Err(ClientError::new(ExitCause::Usage, reason)
                .hint("pass it on the command line, without saving it"));
        }
    }
    Ok(())
}

/// The text with this stanza: in the place of those of the same name, else at the end.
fn with_stanza(before: &str, name: &str, stanza: &str) -> Zeroizing<String> {
    let room = before.len().saturating_add(stanza.len()).saturating_add(2);
    let mut text = Zeroizing::new(String::with_capacity(room));
    let (mut is_replaced, mut is_written) = (false, false);
    for line in before.lines() {
        if let Some(found) = line.trim().strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            is_replaced = found.trim().eq_ignore_ascii_case(name);
            if is_replaced && !is_written {
                text.push_str(stanza);
                text.push('\n');
                is_written = true;
            }
        }
        if !is_replaced {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !is_written {
        if !before.trim().is_empty() {
            text.push('\n');
        }
        text.push_str(stanza);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_is_added_at_the_end_or_replaces_the_one_of_its_name() {
        for (before, after) in [
            ("", "[b]\nNEW\n"),
            ("[a]\nX 1", "[a]\nX 1\n\n[b]\nNEW\n"),
            ("# c\n[a]\nX 1\n[B]\nX 2\n\n[c]\nX 3\n", "# c\n[a]\nX 1\n[b]\nNEW\n\n[c]\nX 3\n"),
            ("[b]\nX 1\n[a]\nX 2\n[b]\nX 3\n", "[b]\nNEW\n\n[a]\nX 2\n"),
        ] {
            assert_eq!(*with_stanza(before, "b", "[b]\nNEW\n"), after, "{before}");
        }
    }

    #[test]
    fn a_value_that_would_be_read_as_another_one_is_refused() {
        assert!(check("[a]\nSPA_SERVER h\n").is_ok());
        for value in ["a#b", "a;b", "a\tb", "a b"] {
            let error = check(&format!("[a]\nSPOOF_USER           {value}\n")).unwrap_err();
            assert!(error.reason().starts_with("SPOOF_USER: contains space"), "{}", error.reason());
        }
    }
}
