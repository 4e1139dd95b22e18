//! Runs a program without a shell, and reads its output, which is not secret.
#![allow(clippy::disallowed_methods, reason = "one of the modules that start processes")]

use std::io::{self, Read};
use std::process::{Command, Stdio};

use crate::os::files::io_error_text;

/// Maximum length of the output in bytes.
const OUTPUT_MAX: u64 = 64 << 10;

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// There is no such program.
    #[error("not found")]
    NotFound,
    /// It could not be started, failed, or printed text that is not UTF-8.
    #[error("{0}")]
    Failed(String),
}

/// Runs a program with arguments until it exits, and returns its output.
///
/// It has our environment without the variable `secret`, our standard error, and no standard input.
///
/// # Errors
/// When it cannot be started, or fails.
pub fn output_of(program: &str, arguments: &[&str], secret: &str) -> Result<String, OutputError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => OutputError::NotFound,
        _ => OutputError::Failed(io_error_text(&error)),
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_remove(secret)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut bytes = Vec::new();
    // The pipe is closed after this, so a program that prints too much also exits.
    let read =
        child.stdout.take().map(|output| output.take(OUTPUT_MAX.saturating_add(1)).read_to_end(&mut bytes));
    let status = child.wait().map_err(failed)?;
    read.transpose().map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > OUTPUT_MAX) {
        return Err(OutputError::Failed("printed more than 64 KiB".to_owned()));
    }
    if !status.success() {
        return Err(OutputError::Failed(status.to_string()));
    }
    String::from_utf8(bytes).map_err(|_| OutputError::Failed("printed text that is not UTF-8".to_owned()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
        output_of(program, arguments, "HOME").map_err(|error| error.to_string())
    }

    #[test]
    fn the_output_is_returned_and_the_secret_variable_is_not_passed_on() {
        assert_eq!(run("printf", &["%s", "$HOME; `id`"]).as_deref(), Ok("$HOME; `id`"));
        assert_eq!(run("sh", &["-c", "echo ${HOME-unset}; cat"]).as_deref(), Ok("unset\n"));
        assert_eq!(run("head", &["-c", "65536", "/dev/zero"]).map(|text| text.len()), Ok(65_536));
    }

    #[test]
    fn a_program_that_fails_is_an_error() {
        for (program, arguments, error) in [
            ("/no/such/program", &[][..], "not found"),
            ("sh", &["-c", "echo x; exit 3"], "exit status: 3"),
            ("head", &["-c", "100000", "/dev/zero"], "printed more than 64 KiB"),
            ("printf", &["\\377"], "printed text that is not UTF-8"),
        ] {
            assert_eq!(run(program, arguments).unwrap_err(), error);
        }
    }
}
