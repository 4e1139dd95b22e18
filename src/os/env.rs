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

/// The absolute path. A relative path starts in the current folder.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The user's home folder.
#[must_use]
pub fn home() -> Option<PathBuf> {
    path("HOME").or_else(|| path("USERPROFILE"))
}

/// Where configuration lives: `$XDG_CONFIG_HOME`, else `~/.config`.
#[must_use]
pub fn config_home() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config")
}

/// Where state lives: `$XDG_STATE_HOME`, else `~/.local/state`.
#[must_use]
pub fn state_home() -> Option<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state")
}

fn xdg(name: &str, below_home: &str) -> Option<PathBuf> {
    // The XDG base directory specification: a relative path there is invalid and ignored.
    path(name).filter(|path| path.is_absolute()).or_else(|| Some(home()?.join(below_home)))
}

fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
