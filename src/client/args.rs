//! The command line of `spa-knock`: its syntax and its help. `knock::request` decides what it means.

mod help_text;
mod import;
mod option_values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use clap_complete::engine::ArgValueCompleter;

use super::completions::{actions, servers};
use super::failure::{ClientError, ExitCause};
use super::fwknop::FwknopArgs;
use super::keys::otp::OtpInput;
use super::legacy::LegacyArgs;
pub(super) use import::ImportArgs;

use help_text::{AFTER_HELP, AFTER_LONG_HELP};
use option_values::{duration, gap, interval, knock_range, port, protocol, whole_seconds};
use spa_knock_core::knock::{ActionName, Argument, ClientName, Protocol, ServerId, SourceOption};

/// Opens a closed port with one signed datagram.
#[derive(Parser)]
#[command(
    name = "spa-knock",
    version,
    after_help = AFTER_HELP,
    after_long_help = AFTER_LONG_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    override_usage = "spa-knock [OPTIONS] SERVER [ACTION] [ARGUMENT]\n       spa-knock connect [OPTIONS] SERVER ACTION HOST PORT\n       spa-knock keep [OPTIONS] SERVER [ACTION] [ARGUMENT] [-- COMMAND [ARG...]]\n       spa-knock import | show | keygen | derive | doctor | legacy | fwknop | completions | man"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) knock: KnockArgs,
    #[command(subcommand)]
    pub(super) command: Option<ClientSubcommand>,
}

/// The arguments of a knock.
#[derive(Args)]
pub(super) struct KnockArgs {
    /// Server: a host name, an address or the NAME of a profile
    #[arg(required = true, value_name = "SERVER", add = ArgValueCompleter::new(servers))]
    pub(super) server: Option<String>,
    /// Action to request, e.g. open-ssh [default: the profile's]
    #[arg(value_name = "ACTION", add = ArgValueCompleter::new(actions))]
    pub(super) action: Option<ActionName>,
    /// Argument of the action, e.g. tcp/8443
    #[arg(value_name = "ARGUMENT")]
    pub(super) argument: Option<Argument>,
    /// Extra arguments, parsed only to be rejected: otherwise clap reports an unknown subcommand.
    #[arg(hide = true)]
    surplus: Vec<String>,

    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// After the knock, wait until this TCP port accepts connections
    #[arg(short, long, value_name = "PORT", value_parser = port())]
    pub(super) wait: Option<u16>,
    /// Wait until the action's command has ended; exit with 1 if it fails
    #[arg(long)]
    pub(super) wait_done: bool,
    /// Print what would be sent, field by field; send nothing
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// Print the result as text, or as one JSON object on standard output
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub(super) output: Output,
}

/// Options that a knock, `connect`, `keep` and `doctor` share.
#[derive(Args)]
pub(super) struct CommonArgs {
    /// Key file; "-" reads it from standard input
    #[arg(short, long, value_name = "FILE")]
    pub(super) key: Option<PathBuf>,
    /// Knock port [default: 62201]
    #[arg(short, long, value_name = "PORT", value_parser = port())]
    pub(super) port: Option<u16>,
    /// Server id that the knock is bound to [default: the key file's, else SERVER]
    #[arg(long, value_name = "ID", value_parser = ServerId::from_typed)]
    pub(super) server_id: Option<ServerId>,
    /// SSH key that signs the knock: a public key file, or "agent" for the key that the key file names
    #[arg(long, value_name = "agent|FILE")]
    pub(super) sign: Option<PathBuf>,
    /// Address that gets access: auto, observed, ADDR[,ADDR] or listed:ADDR[,ADDR] [default: auto]
    #[arg(short, long, value_name = "WHAT")]
    #[allow(
        rustdoc::broken_intra_doc_links,
        reason = "`--help` shows the brackets, and would show what escapes them"
    )]
    pub(super) source: Option<SourceOption>,
    /// How long the grant should last, e.g. 30s, 5m [default: set by the action]
    #[arg(long = "for", value_name = "DURATION", value_parser = whole_seconds)]
    pub(super) seconds: Option<u32>,
    /// Request no reply: send once and exit
    #[arg(long)]
    pub(super) no_reply: bool,
    /// Give up after this time; a knock without a reply is resent after 0.25, 0.75 and 1.75 s [default: 3s; 35s to
    /// wait for a port after --ports; 60s with --wait-done]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
    /// Print errors only
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Print details about each knock
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Use IPv4 only
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub(super) ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6')]
    pub(super) ipv6: bool,
    /// Knock at all addresses of the server simultaneously, not in turn
    #[arg(long)]
    pub(super) all: bool,
    /// Profile file [default: ~/.config/spa-knock/config.toml]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// One-time password that your app shows, if the key requires one; "-" prompts for it
    #[arg(long, value_name = "CODE", allow_hyphen_values = true)]
    pub(super) otp: Option<OtpInput>,

    #[command(flatten)]
    pub(super) ports: PortModeArgs,
}

/// Options of port-sequence mode.
#[derive(Args)]
pub(super) struct PortModeArgs {
    /// Knock with a port sequence: empty packets to eight ports; there is no reply
    #[arg(long)]
    pub(super) ports: bool,
    /// First port of the server's knock range, which has 8,192 ports
    #[arg(long, value_name = "PORT", default_value = "20480", value_parser = knock_range())]
    pub(super) ports_low: u16,
    /// Packet type: tcp (a SYN) or udp (an empty datagram)
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp", value_parser = protocol)]
    pub(super) ports_proto: Protocol,
    /// Time between two packets [default: random, 2 to 10 ms]
    #[arg(long, value_name = "DURATION", value_parser = gap)]
    pub(super) ports_gap: Option<Duration>,
}

/// The format of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Human-readable text on standard error.
    Text,
    /// One JSON object on standard output.
    Json,
}

/// The subcommands.
#[derive(Subcommand)]
pub(super) enum ClientSubcommand {
    /// Create a root key, for all servers
    Keygen {
        /// Write the key to this file (mode 0600), which must not exist yet [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Name of the client, recorded in the key file for reference
        #[arg(long, value_name = "NAME")]
        client: Option<ClientName>,
    },
    /// Print the pair key for one server's administrator
    ///
    /// The server learns neither your root key nor the pair key of any other server.
    Derive {
        /// Root key file; "-" reads it from standard input [default: $SPA_KNOCK_KEY, else ~/.knock.key]
        #[arg(short, long, value_name = "ROOT")]
        key: Option<PathBuf>,
        /// Id of the server
        #[arg(long, value_name = "ID", value_parser = ServerId::from_typed)]
        server_id: ServerId,
    },
    /// Show what a key file is for, without its secret
    Show {
        /// Server whose key is shown, or key file, as with --key
        #[arg(value_name = "SERVER|FILE", conflicts_with = "key")]
        file: Option<PathBuf>,
        /// Key file; "-" reads it from standard input [default: $SPA_KNOCK_KEY, else ~/.knock.key]
        #[arg(short, long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Knock, then connect standard input and output to a TCP port, for ssh's ProxyCommand
    Connect(ConnectArgs),
    /// Knock, run a command, and keep the port open as long as it runs
    ///
    /// The grant is renewed before it ends, and when your own address changes. Without a command, this continues until
    /// Ctrl-C. The exit code is the command's.
    Keep(KeepArgs),
    /// Save a key that the server's administrator gave you
    ///
    /// Writes it to ~/.config/spa-knock/SERVER.key (mode 0600), which must not exist yet.
    ///
    /// With --fwknoprc, makes profiles and new keys from the stanzas of fwknop's client, for servers that have moved to
    /// spa-knockd, and prints how the keys get there.
    Import(ImportArgs),
    /// Find out why a knock fails
    ///
    /// Checks the key, the name, the routes and the clock, then knocks. Each line has a verdict, and each problem has a
    /// hint. The exit code is 0 only if there is no problem.
    Doctor(DoctorArgs),
    Legacy(LegacyArgs),
    Fwknop(Box<FwknopArgs>),
    /// Print the completion script for a shell
    Completions {
        /// Shell to print the script for
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// The arguments of `connect`: a knock, and the port to connect to afterwards.
#[derive(Args)]
pub(super) struct ConnectArgs {
    /// Server to knock at: a host name, an address or the NAME of a profile
    #[arg(add = ArgValueCompleter::new(servers))]
    pub(super) server: String,
    /// Action to request, e.g. open-ssh
    #[arg(add = ArgValueCompleter::new(actions))]
    pub(super) action: ActionName,
    /// Host to connect to after the knock: a name or an address; %h in ssh's ProxyCommand
    pub(super) host: String,
    /// TCP port to connect to; %p in ssh's ProxyCommand
    #[arg(value_name = "PORT", value_parser = port())]
    pub(super) connect_port: u16,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// The arguments of `keep`: a knock, and the command that needs it.
#[derive(Args)]
#[command(override_usage = "spa-knock keep [OPTIONS] SERVER [ACTION] [ARGUMENT] [-- COMMAND [ARG...]]")]
pub(super) struct KeepArgs {
    /// Server: a host name, an address or the NAME of a profile
    #[arg(add = ArgValueCompleter::new(servers))]
    pub(super) server: String,
    /// Action to request, e.g. open-ssh [default: the profile's]
    #[arg(value_name = "ACTION", add = ArgValueCompleter::new(actions))]
    pub(super) action: Option<ActionName>,
    /// Argument of the action, e.g. tcp/8443
    #[arg(value_name = "ARGUMENT")]
    pub(super) argument: Option<Argument>,
    /// Command to run after the first knock, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
    /// Knock again at this interval [default: two thirds of the grant's duration]
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub(super) every: Option<Duration>,
    /// After the first knock, wait until this TCP port accepts connections
    #[arg(short, long, value_name = "PORT", value_parser = port())]
    pub(super) wait: Option<u16>,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// The arguments of `doctor`.
#[derive(Args)]
pub(super) struct DoctorArgs {
    /// Server: a host name, an address or the NAME of a profile
    #[arg(add = ArgValueCompleter::new(servers))]
    pub(super) server: String,
    /// Action to request. If neither this argument nor the profile names one, the knock requests an action that no
    /// server has: it opens nothing, but gets a reply
    pub(super) action: Option<ActionName>,
    /// Compare the clock with that of this NTP server (SNTP, RFC 4330: one datagram each way)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) ntp: Option<String>,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

impl KnockArgs {
    /// Rejects extra arguments, and arguments that a port sequence cannot carry.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        if let Some(extra) = self.surplus.first() {
            return Err(ClientError::new(
                ExitCause::Usage,
                format!("{extra}: unexpected argument after ARGUMENT"),
            )
            .hint("put an ARGUMENT that contains spaces in quotes"));
        }
        if self.common.ports.ports && self.argument.is_some() {
            return Err(not_in_ports("ARGUMENT"));
        }
        self.common.check()
    }
}

impl KeepArgs {
    /// Rejects what cannot be renewed, and arguments that a port sequence cannot carry.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        if self.common.otp.is_some() {
            return Err(ClientError::new(
                ExitCause::Usage,
                "--otp: a one-time password works once, and each renewal needs another one",
            )
            .hint("knock without keep, and set the time with --for; or use a key that needs no one-time password"));
        }
        if self.common.ports.ports && self.argument.is_some() {
            return Err(not_in_ports("ARGUMENT"));
        }
        self.common.check()
    }
}

impl CommonArgs {
    /// Rejects options that a port sequence cannot carry.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        if self.ports.ports && self.otp.is_some() {
            return Err(not_in_ports("--otp"));
        }
        if self.ports.ports && self.seconds.is_some() {
            return Err(not_in_ports("--for"));
        }
        if self.all && self.ports.ports {
            return Err(ClientError::new(
                ExitCause::Usage,
                "--all: a port sequence goes to one address at a time",
            )
            .hint("use only one of --all and --ports"));
        }
        if self.all && self.otp.is_some() {
            return Err(ClientError::new(
                ExitCause::Usage,
                "--all: a one-time password is for one server, which refuses it at its second address",
            )
            .hint("use only one of --all and --otp; knock at each server by itself: spa-knock SERVER ACTION --otp -"));
        }
        Ok(())
    }
}

fn not_in_ports(name: &str) -> ClientError {
    ClientError::new(ExitCause::Usage, format!("--ports: a port sequence cannot carry {name}"))
        .hint(format!("use only one of --ports and {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_server_may_have_the_name_of_a_subcommand() {
        for (line, server, action) in [
            ("spa-knock server open-ssh", "server", Some("open-ssh")),
            ("spa-knock --key f server open-ssh", "server", Some("open-ssh")),
            ("spa-knock server", "server", None),
            ("spa-knock server open-ssh --key f -4", "server", Some("open-ssh")),
            ("spa-knock -- show open-ssh", "show", Some("open-ssh")),
            ("spa-knock --key f -- keygen open-ssh", "keygen", Some("open-ssh")),
            ("spa-knock server show", "server", Some("show")),
            ("spa-knock server man", "server", Some("man")),
        ] {
            let cli = parse(line).ok().unwrap();
            assert!(cli.command.is_none(), "{line}");
            assert_eq!(cli.knock.server.as_deref(), Some(server), "{line}");
            assert_eq!(cli.knock.action.as_ref().map(ActionName::as_str), action, "{line}");
        }
    }

    #[test]
    fn a_subcommand_is_the_first_argument() {
        assert!(matches!(
            parse("spa-knock keygen").ok().unwrap().command,
            Some(ClientSubcommand::Keygen { .. })
        ));
        assert!(matches!(
            parse("spa-knock show --key f").ok().unwrap().command,
            Some(ClientSubcommand::Show { .. })
        ));
        let derive = parse("spa-knock derive --key f --server-id A.").ok().unwrap().command;
        assert!(
            matches!(derive, Some(ClientSubcommand::Derive { server_id, .. }) if server_id.as_str() == "a")
        );
        for line in
            ["connect -v s a h 22", "import -", "import", "legacy -u s 1:udp", "completions bash", "man"]
        {
            assert!(parse(&format!("spa-knock {line}")).ok().unwrap().command.is_some(), "{line}");
        }
    }
}
