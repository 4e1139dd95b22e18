//! A command whose output is a secret: started without a shell, its output read into memory that is wiped.
#![allow(clippy::disallowed_methods, reason = "one of the places that start processes")]

use std::io;
use std::process::{Command, ExitStatus, Stdio};

use zeroize::Zeroizing;

use crate::os::files;

/// Why there is no output; never what it was.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("{0}: not found")]
    NotFound(String),
    /// It could not be started or heard to the end.
    #[error("{0}: {1}")]
    Io(String, String),
    /// It ended badly. What it said about that went to our standard error.
    #[error("{0}: {1}")]
    Failed(String, ExitStatus),
}

/// Runs a program with arguments to its end and returns what it printed, at most 64 KiB of UTF-8.
///
/// It has our environment and our standard error, for a password manager may have to ask for something, but no
/// standard input: that may be somebody's stream.
///
/// # Errors
/// Names the program, never its arguments or its output.
pub fn output_of(command: &[String]) -> Result<Zeroizing<String>, CommandError> {
    let (program, arguments) = command.split_first().ok_or_else(|| CommandError::NotFound(String::new()))?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => CommandError::NotFound(program.clone()),
        _ => CommandError::Io(program.clone(), files::io_error_text(&error)),
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // The pipe is closed after this, so a program that says too much ends, too.
    let said = child.stdout.take().map(files::read_zeroizing);
    let status = child.wait().map_err(failed)?;
    // First what we did not take: a program that is not heard to the end may fail for that.
    let text = said
        .unwrap_or_else(|| Err("no output".to_owned()))
        .map_err(|reason| CommandError::Io(program.clone(), reason))?;
    if status.success() { Ok(text) } else { Err(CommandError::Failed(program.clone(), status)) }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<Zeroizing<String>, String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        output_of(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_command_prints_is_returned_and_no_shell_reads_its_words() {
        assert_eq!(*run(&["printf", "%s", "$HOME; `id`"]).unwrap(), "$HOME; `id`");
        assert_eq!(*run(&["cat"]).unwrap(), "", "there is no standard input");
    }

    #[test]
    fn errors_name_the_program_and_nothing_that_it_was_told_or_said() {
        for (words, error) in [
            (&["/no/such/program", "sesame"][..], "/no/such/program: not found"),
            (&["sh", "-c", "echo sesame; exit 3"], "sh: exit status: 3"),
            (&["sh", "-c", "head -c 70000 /dev/zero"], "sh: too long for a key file"),
            (&["sh", "-c", "printf '\\377'"], "sh: not UTF-8 text"),
        ] {
            assert_eq!(run(words).unwrap_err(), error);
        }
    }
}
