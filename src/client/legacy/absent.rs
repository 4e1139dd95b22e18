//! In a build without the feature `legacy`: its commands are there, and say so.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::failure::{ClientError, ExitCause};

const ABSENT: &str = "built without legacy support";
const HINT: &str = "a build with the feature `legacy`, or knock(1) of knockd";

/// Whatever is typed.
#[derive(Args)]
#[command(about = "Not in this build: knock(1)")]
pub(super) struct LegacyArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    words: Vec<OsString>,
}

/// Under the name `knock`.
pub(super) fn main(_: &[OsString]) -> ExitCode {
    let _ = writeln!(io::stderr(), "knock: {ABSENT}\nhint: {HINT}");
    ExitCode::from(2)
}

/// Whether the program was started through a link named `knock`.
pub(super) fn is_called(args: &[OsString]) -> bool {
    args.first().and_then(|name| Path::new(name).file_stem()).is_some_and(|name| name == "knock")
}

/// Says that it is not there.
pub(super) fn knock(args: &LegacyArgs) -> Result<(), ClientError> {
    let words = args.words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
    Err(ClientError::new(ExitCause::Usage, format!("legacy {}: {ABSENT}", words.join(" "))).hint(HINT))
}
