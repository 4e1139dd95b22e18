//! knockd's command line, with knockd's exit codes for errors.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::console::{notice, print};

/// knockd's usage text. (Its man page does not mention -p and -g.)
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
      --state-dir <dir>  keep pending stop commands in this directory
                         (default \"/var/lib/spa-knock/knockd\"; with a subdirectory for each config)

";

/// The options.
#[derive(Debug, Parser)]
#[command(name = "knockd", disable_help_flag = true, disable_version_flag = true, infer_long_args = true)]
pub(in crate::legacy) struct KnockdArgs {
    /// The interfaces to listen on.
    #[arg(short, long)]
    pub(in crate::legacy) interface: Vec<String>,
    /// Runs in the background.
    #[arg(short, long)]
    pub(in crate::legacy) daemon: bool,
    /// The path of the config.
    #[arg(short, long, default_value = "/etc/knockd.conf")]
    pub(in crate::legacy) config: PathBuf,
    /// Treated like `verbose`.
    #[arg(short = 'D', long)]
    pub(in crate::legacy) debug: bool,
    /// Logs host names with addresses.
    #[arg(short, long)]
    pub(in crate::legacy) lookup: bool,
    /// The file for the process id, with `daemon`.
    #[arg(short, long)]
    pub(in crate::legacy) pidfile: Option<PathBuf>,
    /// The log file.
    #[arg(short = 'g', long)]
    pub(in crate::legacy) logfile: Option<PathBuf>,
    /// Also prints the log to standard output.
    #[arg(short, long)]
    pub(in crate::legacy) verbose: bool,
    /// Ignores IPv6.
    #[arg(short = '4', long)]
    pub(in crate::legacy) only_ip_v4: bool,
    #[arg(short = 'V', long)]
    version: bool,
    #[arg(short, long)]
    help: bool,
    /// The state directory. (Not in knockd.)
    #[arg(long, default_value = "/var/lib/spa-knock/knockd")]
    pub(in crate::legacy) state_dir: PathBuf,
    /// Ignored, as in knockd.
    #[arg(hide = true)]
    words: Vec<OsString>,
}

/// Parses the command line. The first of `args` is the program's name.
///
/// # Errors
/// The exit code, after the help, the version or an error has been printed. It is 0 in all three cases, as in knockd.
pub(in crate::legacy) fn parse(args: &[OsString]) -> Result<KnockdArgs, ExitCode> {
    let options = KnockdArgs::try_parse_from(args).map_err(|error| {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default();
        notice(format_args!("knockd: {}", message.strip_prefix("error: ").unwrap_or(message)));
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

/// Prints the usage and returns `code`, also if standard output is closed.
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
    fn knockds_options_are_accepted_and_can_be_abbreviated() {
        let options = read("knockd -vD4 -i eth0 -i eth1 --conf=/c -p /p --logf /l word -d").ok().unwrap();
        assert_eq!(options.interface, ["eth0", "eth1"]);
        assert_eq!(options.config, PathBuf::from("/c"));
        assert_eq!((options.pidfile, options.logfile), (Some("/p".into()), Some("/l".into())));
        assert!(options.verbose && options.debug && options.only_ip_v4 && options.daemon && !options.lookup);
        assert_eq!(read("knockd").ok().unwrap().config, PathBuf::from("/etc/knockd.conf"));
    }

    #[test]
    fn a_wrong_command_line_exits_with_0_as_in_knockd() {
        for line in ["knockd -6", "knockd -i", "knockd --nothing", "knockd -h", "knockd -V"] {
            assert_eq!(read(line).err(), Some(ExitCode::SUCCESS), "{line}");
        }
    }
}
