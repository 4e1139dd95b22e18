//! In a build without the feature `fwknop`: its commands exist, but only print an error.

pub(super) mod hints;

use std::ffi::OsString;
use std::path::Path;

use clap::Args;

use super::failure::{ClientError, ExitCause};

const ABSENT: &str = "built without fwknop support";
const HINT: &str = "use a build with the feature `fwknop`, or fwknop itself";

/// Any arguments.
#[derive(Args)]
#[command(about = "fwknop's client: not in this build")]
pub(super) struct FwknopArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

/// Fails: the command is not in this build.
pub(super) fn send(_: &FwknopArgs) -> Result<(), ClientError> {
    // The arguments are not repeated: they can contain keys.
    Err(ClientError::new(ExitCause::Usage, format!("fwknop: {ABSENT}")).hint(HINT))
}

/// Fails: the option is not in this build.
pub(super) fn import(_: &Path, _: &[String], _: bool) -> Result<(), ClientError> {
    Err(ClientError::new(ExitCause::Usage, format!("--fwknoprc: {ABSENT}")).hint(HINT))
}
