//! The arguments of `import`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// A key, or a file with stanzas of fwknop's client.
#[derive(Args)]
pub(in crate::client) struct ImportArgs {
    /// Token, or text of a key file; "-" reads either from standard input
    #[arg(value_name = "TOKEN", default_value = "-", hide_default_value = true)]
    pub(in crate::client) token: OsString,
    /// Make profiles from this .fwknoprc instead, each with a new key
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(in crate::client) fwknoprc: Option<PathBuf>,
    /// Only from this stanza; can be repeated
    #[arg(long, value_name = "NAME", requires = "fwknoprc")]
    pub(in crate::client) stanza: Vec<String>,
    /// Print the profiles; write nothing
    #[arg(long, requires = "fwknoprc")]
    pub(in crate::client) dry_run: bool,
}
