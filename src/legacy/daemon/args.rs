//! knockd's command line, and how it ends where it is wrong.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::console::{notice, print};

/// What knockd prints about itself. Its man page leaves out -p and -g.
pub(in crate::legacy) const USAGE: &str = "\
usage: knockd [options]
options:
  -i, --interface <int>  network interface to listen on (default \"eth0\"); may be repeated
  -d, --daemon           run as a daemon
  -c, --config <file>    use an alternate config file
  -D, --debug            output debug messages
  -l, --lookup           lookup DNS names (may be a security risk)
  -p, --pidfile <file>   use an alternate pidfile
  -g, --logfile <file>   use an alternate logfile
  -v, --verbose          be verbose
  -4, --only-ip-v4       do not track ipv6
  -V, --version          display version
  -h, --help             this help
      --state-dir <dir>  keep what is still to be closed here
                         (default \"/var/lib/spa-knock/knockd\"; a folder below it for each config)

";

/// What was said.
#[derive(Debug, Parser)]
#[command(name = "knockd", disable_help_flag = true, disable_version_flag = true, infer_long_args = true)]
pub(in crate::legacy) struct KnockdArgs {
    /// Interfaces.
    #[arg(short, long)]
    pub(in crate::legacy) interface: Vec<String>,
    /// In the background.
    #[arg(short, long)]
    pub(in crate::legacy) daemon: bool,
    /// The config.
    #[arg(short, long, default_value = "/etc/knockd.conf")]
    pub(in crate::legacy) config: PathBuf,
    /// Says more.
    #[arg(short = 'D', long)]
    pub(in crate::legacy) debug: bool,
    /// With names.
    #[arg(short, long)]
    pub(in crate::legacy) lookup: bool,
    /// Where a daemon writes its process number.
    #[arg(short, long)]
    pub(in crate::legacy) pidfile: Option<PathBuf>,
    /// Where to log.
    #[arg(short = 'g', long)]
    pub(in crate::legacy) logfile: Option<PathBuf>,
    /// Says on standard output what it logs.
    #[arg(short, long)]
    pub(in crate::legacy) verbose: bool,
    /// Without IPv6.
    #[arg(short = '4', long)]
    pub(in crate::legacy) only_ip_v4: bool,
    #[arg(short = 'V', long)]
    version: bool,
    #[arg(short, long)]
    help: bool,
    /// Where our own state lies. (Not in knockd.)
    #[arg(long, default_value = "/var/lib/spa-knock/knockd")]
    pub(in crate::legacy) state_dir: PathBuf,
    /// knockd passes over words that are no options.
    #[arg(hide = true)]
    words: Vec<OsString>,
}

/// What these words say; the first is the program's name.
///
/// # Errors
/// The exit code, after help, version or what is wrong has been printed. As in knockd it is 0 in each case.
pub(in crate::legacy) fn parse(words: &[OsString]) -> Result<KnockdArgs, ExitCode> {
    let options = KnockdArgs::try_parse_from(words).map_err(|error| {
        let text = error.render().to_string();
        let told = text.lines().next().unwrap_or_default();
        notice(format_args!("knockd: {}", told.strip_prefix("error: ").unwrap_or(told)));
        debug_assert!(error.kind() != ErrorKind::DisplayHelp);
        usage(ExitCode::SUCCESS)
    })?;
    if options.help {
        return Err(usage(ExitCode::SUCCESS));
    }
    if options.version {
        let _ = print(concat!("knockd 0.8 (spa-knock ", env!("CARGO_PKG_VERSION"), ")\n"));
        return Err(ExitCode::SUCCESS);
    }
    Ok(options)
}

/// Prints the usage; a closed standard output is no reason to fail otherwise.
pub(in crate::legacy) fn usage(code: ExitCode) -> ExitCode {
    let _ = print(USAGE);
    code
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn read(line: &str) -> Result<KnockdArgs, ExitCode> {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_consistent() {
        KnockdArgs::command().debug_assert();
    }

    #[test]
    fn options_are_knockds_and_may_be_cut_short() {
        let options = read("knockd -vD4 -i eth0 -i eth1 --conf=/c -p /p --logf /l word -d").ok().unwrap();
        assert_eq!(options.interface, ["eth0", "eth1"]);
        assert_eq!(options.config, PathBuf::from("/c"));
        assert_eq!((options.pidfile, options.logfile), (Some("/p".into()), Some("/l".into())));
        assert!(options.verbose && options.debug && options.only_ip_v4 && options.daemon && !options.lookup);
        assert_eq!(read("knockd").ok().unwrap().config, PathBuf::from("/etc/knockd.conf"));
    }

    #[test]
    fn what_is_wrong_ends_with_0_as_in_knockd() {
        for line in ["knockd -6", "knockd -i", "knockd --nothing", "knockd -h", "knockd -V"] {
            assert_eq!(read(line).err(), Some(ExitCode::SUCCESS), "{line}");
        }
    }
}
