//! Errors of file operations, with path, reason and hint.

use std::io;
use std::path::Path;

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}{}", hint_line(.hint))]
pub struct FileError {
    /// The file or folder.
    pub path: String,
    /// Why it cannot be used.
    pub reason: String,
    /// How to fix it, if known.
    pub hint: Option<String>,
    /// Whether the file does not exist.
    pub missing: bool,
    /// Whether only another user, such as root, has the permission.
    pub denied: bool,
}

fn hint_line(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default()
}

impl FileError {
    pub(super) fn new(path: &Path, reason: impl Into<String>, hint: Option<String>) -> Self {
        Self { path: displayed(path), reason: reason.into(), hint, missing: false, denied: false }
    }

    /// An I/O error at this path.
    #[must_use]
    pub fn io(path: &Path, error: &io::Error) -> Self {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let denied = error.kind() == io::ErrorKind::PermissionDenied && !is_root();
        Self { missing, denied, ..Self::new(path, io_error_text(error), None) }
    }
}

#[cfg(unix)]
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(not(unix))]
const fn is_root() -> bool {
    false
}

/// A path for messages: without the prefix that Windows puts in front of a path that has been resolved.
pub(super) fn displayed(path: &Path) -> String {
    let text = path.display().to_string();
    match (cfg!(windows), text.strip_prefix(r"\\?\UNC\"), text.strip_prefix(r"\\?\")) {
        (true, Some(share), _) => format!(r"\\{share}"),
        (true, None, Some(rest)) => rest.to_owned(),
        _ => text,
    }
}

/// Formats an I/O error in lower case, without the error number that the standard library appends, and without the period
/// at the end of Windows' texts.
#[must_use]
pub fn io_error_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text).trim_end_matches('.');
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_has_neither_a_number_nor_a_period() {
        for (text, expected) in [
            ("Permission denied (os error 13)", "permission denied"),
            ("No such host is known. (os error 11001)", "no such host is known"),
            ("", ""),
        ] {
            assert_eq!(io_error_text(&io::Error::other(text)), expected);
        }
    }
}
