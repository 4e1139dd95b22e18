//! Runs a command whose output is a secret, without a shell, and reads the output into memory that is wiped.
#![allow(clippy::disallowed_methods, reason = "one of the modules that start processes")]

use std::io;
use std::process::{Command, ExitStatus, Stdio};

use zeroize::Zeroizing;

use crate::os::files;

/// Why there is no output. Never contains output.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("{0}: not found")]
    NotFound(String),
    /// It could not be started, or its output could not be read to the end.
    #[error("{0}: {1}")]
    Io(String, String),
    /// It failed. Its error message went to our standard error.
    #[error("{0}: {1}")]
    Failed(String, ExitStatus),
}

/// Runs a program with arguments until it exits, and returns its output, at most 64 KiB of UTF-8.
///
/// It has our environment and our standard error, because a password manager may have to ask for something. It has no
/// standard input, which may carry a data stream.
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
    // The pipe is closed after this, so a program that prints too much also exits.
    let output = child.stdout.take().map(files::read_zeroizing);
    let status = child.wait().map_err(failed)?;
    // A reading error is reported first: it may be the reason why the program failed.
    let text = output
        .unwrap_or_else(|| Err("no output".to_owned()))
        .map_err(|reason| CommandError::Io(program.clone(), reason))?;
    if status.success() { Ok(text) } else { Err(CommandError::Failed(program.clone(), status)) }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Zeroizing<String>, String> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        output_of(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_output_of_a_command_is_returned_and_no_shell_interprets_its_arguments() {
        assert_eq!(*run(&["printf", "%s", "$HOME; `id`"]).unwrap(), "$HOME; `id`");
        assert_eq!(*run(&["cat"]).unwrap(), "", "there is no standard input");
    }

    #[test]
    fn errors_name_the_program_but_not_its_arguments_or_output() {
        for (args, error) in [
            (&["/no/such/program", "sesame"][..], "/no/such/program: not found"),
            (&["sh", "-c", "echo sesame; exit 3"], "sh: exit status: 3"),
            (&["sh", "-c", "head -c 70000 /dev/zero"], "sh: too long for a key file"),
            (&["sh", "-c", "printf '\\377'"], "sh: not UTF-8 text"),
        ] {
            assert_eq!(run(args).unwrap_err(), error);
        }
    }
}
