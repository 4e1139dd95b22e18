//! fwknopd's command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::console::{AdminError, notice, print};

/// The text of `--help`.
const USAGE: &str = "\
usage: fwknopd [options]
       spa-knockd fwknopd [options]

Serves fwknop's clients with fwknopd.conf and access.conf as they are.

  -c, --config-file FILE     fwknopd.conf (default /etc/fwknop/fwknopd.conf)
  -a, --access-file FILE     access.conf (default: ACCESS_FILE of fwknopd.conf)
      --access-folder DIR    also read all *.conf files in this directory as access.conf
  -O, --override-config FILE more lines of fwknopd.conf, which take precedence
  -i, --interface NAME       interface to capture on (PCAP_INTF); any: all of them
  -P, --pcap-filter FILTER   ports, written as in PCAP_FILTER
  -U, --udp-server           receive by a UDP socket instead of a capture (ENABLE_UDP_SERVER)
  -f, --foreground           stay in the foreground and log to standard error; otherwise to syslog
  -p, --pid-file FILE        file for the process id (default: fwknopd.pid in FWKNOP_RUN_DIR)
  -r, --run-dir DIR          directory for it (FWKNOP_RUN_DIR)
      --sudo-exe FILE        path of sudo (SUDO_EXE)
      --state-dir DIR        where accepted packets are remembered, and commands that close later
                             (default /var/lib/spa-knock/fwknopd)
      --rotate-digest-cache  before the start, replace a damaged memory of accepted packets; packets that
                             are older than that are refused

  -D, --dump-config          print the settings and the stanzas, without keys, and exit
      --exit-parse-config    check both files and exit; the exit code is 5 if they have errors
  -S, --status               print whether fwknopd is running; the exit code is 1 if not
  -K, --kill                 stop it; grants end at their time
  -R, --restart              make it read its files again; errors in them change nothing
      --fw-list              print the grants that are active
      --fw-list-all          print all rules of nftables
  -V, --version              print the version
  -h, --help                 print this help

These options of fwknopd have no effect: -v, -l, --syslog-enable, --no-ipt-check-support,
--no-firewd-check-support, --pcap-any-direction.
";

/// The options.
#[derive(Debug, Clone, Parser)]
#[command(name = "fwknopd", disable_help_flag = true, disable_version_flag = true)]
pub(super) struct FwknopdArgs {
    #[arg(short = 'c', long, default_value = "/etc/fwknop/fwknopd.conf")]
    pub(super) config_file: PathBuf,
    #[arg(short = 'a', long)]
    pub(super) access_file: Option<PathBuf>,
    #[arg(long)]
    pub(super) access_folder: Option<PathBuf>,
    #[arg(short = 'O', long, value_delimiter = ',')]
    pub(super) override_config: Vec<PathBuf>,
    #[arg(short = 'i', long)]
    pub(super) interface: Option<String>,
    #[arg(short = 'P', long)]
    pub(super) pcap_filter: Option<String>,
    #[arg(short = 'U', long)]
    pub(super) udp_server: bool,
    #[arg(short = 'f', long)]
    pub(super) foreground: bool,
    #[arg(short = 'p', long)]
    pub(super) pid_file: Option<PathBuf>,
    #[arg(short = 'r', long)]
    pub(super) run_dir: Option<PathBuf>,
    #[arg(long)]
    pub(super) sudo_exe: Option<PathBuf>,
    #[arg(long, default_value = "/var/lib/spa-knock/fwknopd")]
    pub(super) state_dir: PathBuf,
    #[arg(long)]
    pub(super) rotate_digest_cache: bool,

    #[arg(short = 'D', long)]
    pub(super) dump_config: bool,
    #[arg(long)]
    pub(super) exit_parse_config: bool,
    #[arg(short = 'S', long)]
    pub(super) status: bool,
    #[arg(short = 'K', long)]
    pub(super) kill: bool,
    #[arg(short = 'R', long)]
    pub(super) restart: bool,
    #[arg(short = 'L', long)]
    pub(super) fw_list: bool,
    #[arg(long)]
    pub(super) fw_list_all: bool,
    #[arg(short = 'V', long)]
    version: bool,
    #[arg(short, long)]
    help: bool,

    // Without effect.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    #[arg(short, long)]
    locale: Option<String>,
    #[arg(long)]
    syslog_enable: bool,
    #[arg(long)]
    no_ipt_check_support: bool,
    #[arg(long)]
    no_firewd_check_support: bool,
    #[arg(long)]
    pcap_any_direction: bool,

    // Not supported; each is refused with what to do instead.
    #[arg(short = 'C', long)]
    packet_limit: Option<String>,
    #[arg(short = 'd', long)]
    digest_file: Option<PathBuf>,
    #[arg(long)]
    exit_parse_digest_cache: bool,
    #[arg(short = 't', long)]
    test: bool,
    #[arg(short = 'A', long)]
    afl_fuzzing: bool,
    #[arg(short = 'n', long)]
    nfq_capture: bool,
    #[arg(long)]
    pcap_file: Option<PathBuf>,
    #[arg(long)]
    fw_flush: bool,
    #[arg(short = 'k', long)]
    key_gen: bool,
    #[arg(long)]
    gpg_home_dir: Option<PathBuf>,
    #[arg(long)]
    gpg_exe: Option<PathBuf>,
    #[arg(long)]
    dump_serv_err_codes: bool,
    #[arg(long)]
    fault_injection_tag: Option<String>,
}

/// Parses the command line. The first of `args` is the program's name.
///
/// # Errors
/// The exit code, after the help, the version or an error has been printed.
pub(super) fn parse(args: &[OsString]) -> Result<FwknopdArgs, ExitCode> {
    let options = FwknopdArgs::try_parse_from(args).map_err(|error| {
        let text = error.render().to_string();
        notice(text.lines().next().unwrap_or_default());
        notice("hint: fwknopd --help");
        ExitCode::FAILURE
    })?;
    if options.help {
        let _ = print(USAGE);
        return Err(ExitCode::SUCCESS);
    }
    if options.version {
        let _ = print(concat!("fwknopd 2.6.10 (spa-knock ", env!("CARGO_PKG_VERSION"), ")\n"));
        return Err(ExitCode::SUCCESS);
    }
    match options.unsupported() {
        Some(reason) => Err(AdminError::usage(reason).exit()),
        None => Ok(options),
    }
}

impl FwknopdArgs {
    /// The first option that this daemon does not have.
    fn unsupported(&self) -> Option<&'static str> {
        [
            (self.packet_limit.is_some(), "-C: not supported: the daemon has no packet limit"),
            (
                self.digest_file.is_some() || self.exit_parse_digest_cache,
                "digest cache: accepted packets are remembered in the state directory, which needs no care\n\
                 hint: name another with --state-dir",
            ),
            (self.test, "-t: not supported\nhint: `fwknopd --exit-parse-config -D` shows what a packet is permitted"),
            (self.nfq_capture, "-n: capturing by NFQUEUE is not supported\nhint: omit it"),
            (self.pcap_file.is_some(), "--pcap-file: not supported\nhint: spa-knockd explain reads capture files"),
            (self.fw_flush, "--fw-flush: not supported: grants end at their time\nhint: nft delete table inet spa_knock, after fwknopd -K"),
            (self.key_gen, "-k: not supported here\nhint: spa-knock fwknop --key-gen"),
            (
                self.gpg_home_dir.is_some() || self.gpg_exe.is_some(),
                "GnuPG is not supported\nhint: use KEY_BASE64 and HMAC_KEY_BASE64",
            ),
            (
                self.afl_fuzzing || self.dump_serv_err_codes || self.fault_injection_tag.is_some(),
                "options for fwknop's own tests are not supported",
            ),
        ]
        .into_iter()
        .find_map(|(is_given, reason)| is_given.then_some(reason))
    }

    /// The lines of fwknopd.conf that the options replace.
    pub(super) fn overrides(&self) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let lines = [
            ("PCAP_INTF", self.interface.clone()),
            ("PCAP_FILTER", self.pcap_filter.clone()),
            ("ENABLE_UDP_SERVER", self.udp_server.then(|| "Y".to_owned())),
            ("FWKNOP_RUN_DIR", path(&self.run_dir)),
            ("SUDO_EXE", path(&self.sudo_exe)),
            ("ACCESS_FOLDER", path(&self.access_folder)),
        ];
        let lines = lines.into_iter().filter_map(|(name, value)| Some(format!("{name} {};\n", value?)));
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn read(line: &str) -> Result<FwknopdArgs, ExitCode> {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_options_of_fwknopd_are_understood() {
        FwknopdArgs::command().debug_assert();
        let options = read("fwknopd -f -c /c -a /a -i eth1 -U -vvv -r /run/x").ok().unwrap();
        assert!(options.foreground && options.access_file == Some("/a".into()));
        assert_eq!(options.overrides(), "PCAP_INTF eth1;\nENABLE_UDP_SERVER Y;\nFWKNOP_RUN_DIR /run/x;\n");
        for line in ["fwknopd -D --exit-parse-config", "fwknopd -K", "fwknopd -R", "fwknopd -S", "fwknopd -L"]
        {
            assert!(read(line).is_ok(), "{line}");
        }
        for line in ["fwknopd -t", "fwknopd --fw-flush", "fwknopd -C 3", "fwknopd --no-such-option"] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_help_names_every_option_that_has_an_effect() {
        for argument in FwknopdArgs::command().get_arguments() {
            let name = argument.get_long().unwrap_or_default();
            let is_without_effect = ["verbose", "locale"].contains(&name);
            let is_refused = [
                "packet-limit",
                "digest-file",
                "exit-parse-digest-cache",
                "test",
                "afl-fuzzing",
                "nfq-capture",
                "pcap-file",
                "fw-flush",
                "key-gen",
                "gpg-home-dir",
                "gpg-exe",
                "dump-serv-err-codes",
                "fault-injection-tag",
            ]
            .contains(&name);
            assert!(USAGE.contains(&format!("--{name}")) || is_without_effect || is_refused, "{name}");
        }
    }
}
