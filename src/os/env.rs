//! Reads the environment and the command line. The only module that does.
#![allow(clippy::disallowed_methods, reason = "this is the place that the rule points to")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The command line, program name first.
#[must_use]
pub fn args() -> Vec<OsString> {
    std::env::args_os().collect()
}

/// A variable's value, if it is set, not empty and UTF-8.
#[must_use]
pub fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The name of the user's account: `$LOGNAME`, else the account of this process, else `$USER`; on Windows `%USERNAME%`.
#[cfg(feature = "fwknop")]
#[must_use]
pub fn user_name() -> Option<String> {
    #[cfg(unix)]
    let account = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    #[cfg(windows)]
    let account = || text("USERNAME");
    text("LOGNAME").or_else(account).or_else(|| text("USER"))
}

/// The absolute path. A relative path starts in the current folder.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The user's home folder: `$HOME`, on Windows `%USERPROFILE%`.
#[must_use]
pub fn home() -> Option<PathBuf> {
    path(if cfg!(windows) { "USERPROFILE" } else { "HOME" })
}

/// A path that may start with `~/`, for the home folder. On Windows, shells do not replace it, and it may be `~\`.
#[must_use]
pub fn expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), home()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// Where configuration lives: `$XDG_CONFIG_HOME`, else `~/.config`, on Windows `%APPDATA%`.
#[must_use]
pub fn config_home() -> Option<PathBuf> {
    base("XDG_CONFIG_HOME", "APPDATA", ".config")
}

/// Where state lives: `$XDG_STATE_HOME`, else `~/.local/state`, on Windows `%LOCALAPPDATA%`.
#[must_use]
pub fn state_home() -> Option<PathBuf> {
    base("XDG_STATE_HOME", "LOCALAPPDATA", ".local/state")
}

fn base(xdg: &str, of_windows: &str, below_home: &str) -> Option<PathBuf> {
    // The XDG base directory specification: a relative path there is invalid and ignored.
    let set = path(xdg).filter(|path| path.is_absolute());
    if cfg!(windows) {
        set.or_else(|| path(of_windows))
    } else {
        set.or_else(|| Some(home()?.join(below_home)))
    }
}

/// A variable's value as a path, if it is set and not empty.
#[must_use]
pub fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
