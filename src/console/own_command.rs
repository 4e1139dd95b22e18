//! Commands of this program in hints and in printed next steps. A process that was given `-c FILE` names it in each, so
//! that a command that is copied acts on the same daemon.

use std::path::Path;
use std::sync::OnceLock;

/// The option that names this process's config; unset for the default config.
static OPTION: OnceLock<String> = OnceLock::new();

/// Sets the config that the commands name. Call it once, unless the config is the default one.
pub(crate) fn name_config(config: &Path) {
    // A second call would be for the same config.
    let _ = OPTION.set(option(config));
}

/// The command `spa-knockd LINE` for this process's config.
#[must_use]
pub(crate) fn own_command(line: &str) -> String {
    format!("spa-knockd {line}{}", OPTION.get().map(String::as_str).unwrap_or_default())
}

/// Whether this process uses another config than the default one.
pub(crate) fn has_own_config() -> bool {
    OPTION.get().is_some()
}

/// The option, quoted for a shell if necessary.
fn option(config: &Path) -> String {
    let path = config.display().to_string();
    let is_plain = |c: char| {
        c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ',' | ':' | '@' | '%' | '=')
    };
    if path.chars().all(is_plain) {
        format!(" -c {path}")
    } else {
        format!(" -c '{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_if_a_shell_would_change_it() {
        for (path, expected) in [
            ("/srv/a-b_c.d/x.toml", " -c /srv/a-b_c.d/x.toml"),
            ("/srv/a b", " -c '/srv/a b'"),
            ("/srv/$HOME", " -c '/srv/$HOME'"),
            ("/srv/it's", r" -c '/srv/it'\''s'"),
        ] {
            assert_eq!(option(Path::new(path)), expected);
        }
    }

    #[test]
    fn the_default_config_is_not_named() {
        assert_eq!(own_command("check"), "spa-knockd check");
        assert!(!has_own_config());
    }
}
