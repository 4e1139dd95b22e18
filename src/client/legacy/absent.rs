//! In a build without the feature `legacy`: its commands exist, but only print an error.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::failure::{ClientError, ExitCause};

const ABSENT: &str = "built without legacy support";
const HINT: &str = "use a build with the feature `legacy`, or knock(1) of knockd";

/// Any arguments.
#[derive(Args)]
#[command(about = "knock(1): not in this build")]
pub(super) struct LegacyArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

/// Runs the program under the name `knock`.
pub(super) fn main(_: &[OsString]) -> ExitCode {
    let _ = writeln!(io::stderr(), "knock: {ABSENT}\nhint: {HINT}");
    ExitCode::from(2)
}

/// Whether the program was started through a link named `knock`.
pub(super) fn is_called(args: &[OsString]) -> bool {
    args.first().and_then(|name| Path::new(name).file_stem()).is_some_and(|name| name == "knock")
}

/// Fails: the command is not in this build.
pub(super) fn knock(args: &LegacyArgs) -> Result<(), ClientError> {
    let arguments = args.arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>();
    Err(ClientError::new(ExitCause::Usage, format!("legacy {}: {ABSENT}", arguments.join(" "))).hint(HINT))
}
