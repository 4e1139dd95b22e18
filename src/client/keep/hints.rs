//! The hint for a command of `keep` that was given without `--`: its words are taken for arguments of the knock.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::client::failure::{ClientError, ExitCause};

const HINT: &str = "put -- before the command: spa-knock keep SERVER ACTION -- COMMAND";

/// The place of the first word that can belong to a command, after the program, `keep`, SERVER and ACTION.
const COMMAND_FROM: usize = 4;

/// The hint, if a command line was rejected because of a word that can belong to a command.
pub(in crate::client) fn hint(args: &[OsString], error: &clap::Error) -> Option<&'static str> {
    let is_keep = args.get(1).is_some_and(|command| command == "keep");
    if !is_keep || args.iter().any(|arg| arg == "--") {
        return None;
    }
    let Some(ContextValue::String(rejected)) = error.get(ContextKind::InvalidArg) else { return None };
    let is_word = match error.kind() {
        ErrorKind::UnknownArgument => args
            .iter()
            .skip(COMMAND_FROM)
            .any(|arg| arg.to_str().is_some_and(|arg| arg.starts_with(rejected))),
        ErrorKind::ValueValidation => rejected == "[ARGUMENT]",
        _ => false,
    };
    is_word.then_some(HINT)
}

/// Adds the hint to the failure of a knock with an argument but without a command.
pub(super) fn with_hint(failure: ClientError) -> ClientError {
    if failure.cause() != ExitCause::Refused {
        return failure;
    }
    let advice = match failure.advice() {
        "" => HINT.to_owned(),
        advice => format!("{advice}; or, if you meant a command, {HINT}"),
    };
    failure.hint(advice)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::client::args::Cli;

    #[test]
    fn a_command_without_dashes_is_rejected_with_the_hint_to_write_them() {
        for (line, has_hint) in [
            ("spa-knock keep home open-ssh ssh home", true),
            ("spa-knock keep home open-ssh ssh -A home", true),
            ("spa-knock keep home open-ssh ssh --no-such", true),
            ("spa-knock keep home open-ssh LONG", true),
            ("spa-knock keep home --no-such", false),
            ("spa-knock keep home open-ssh --every x", false),
            ("spa-knock home open-ssh ssh --no-such", false),
            ("spa-knock keep --no-such home open-ssh -- ssh home", false),
        ] {
            // No argument has so many characters.
            let line = line.replace("LONG", &"x".repeat(1_000));
            let args: Vec<&str> = line.split(' ').collect();
            let error = Cli::try_parse_from(&args).err().unwrap();
            let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
            assert_eq!(hint(&args, &error).is_some(), has_hint, "{line}: {error}");
        }
    }

    #[test]
    fn a_refused_knock_keeps_its_own_hint() {
        let refused = || ClientError::new(ExitCause::Refused, "open-ssh refused: no argument is allowed");
        assert_eq!(with_hint(refused()).advice(), HINT);
        let both = with_hint(refused().hint("omit it"));
        assert_eq!(both.advice(), format!("omit it; or, if you meant a command, {HINT}"));
        assert_eq!(with_hint(ClientError::new(ExitCause::NoReply, "no reply")).advice(), "");
    }
}
