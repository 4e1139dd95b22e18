//! The command line: what may be typed, and the help. What it means is decided elsewhere.

mod help_text;
mod option_values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::failure::{ClientError, ExitCause};
use super::keys::otp::OtpInput;
use super::legacy::LegacyArgs;
use help_text::{AFTER_HELP, AFTER_LONG_HELP};
use option_values::{gap, knock_range, port, protocol, some_time, whole_seconds};
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
    override_usage = "spa-knock [OPTIONS] SERVER [ACTION] [ARGUMENT]\n       spa-knock connect [OPTIONS] SERVER ACTION HOST PORT\n       spa-knock import | show | keygen | derive | doctor | legacy | completions | man"
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) knock: KnockArgs,
    #[command(subcommand)]
    pub(super) command: Option<ClientSubcommand>,
}

/// What a knock may be told.
#[derive(Args)]
pub(super) struct KnockArgs {
    /// The server: a name, an address, or the NAME of a profile
    #[arg(required = true, value_name = "SERVER")]
    pub(super) server: Option<String>,
    /// What to ask for, e.g. open-ssh; the profile may name it
    #[arg(value_name = "ACTION")]
    pub(super) action: Option<ActionName>,
    /// What the action is told besides, e.g. tcp/8443
    #[arg(value_name = "ARGUMENT")]
    pub(super) argument: Option<Argument>,
    /// Only to refuse it: clap takes a word too many for a subcommand.
    #[arg(hide = true)]
    surplus: Vec<String>,

    #[command(flatten)]
    pub(super) manner: CommonArgs,
    /// Then wait until this TCP port accepts
    #[arg(short, long, value_name = "PORT", value_parser = port())]
    pub(super) wait: Option<u16>,
    /// Wait until the command that the action starts has ended; exit 1 if it fails
    #[arg(long)]
    pub(super) wait_done: bool,
    /// Say what would be sent, field by field; send nothing
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// Say the outcome as text or as one JSON object on standard output
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    pub(super) output: Output,
}

/// How to knock, whatever comes after it.
#[derive(Args)]
pub(super) struct CommonArgs {
    /// Key file; "-" reads it from standard input
    #[arg(short, long, value_name = "FILE")]
    pub(super) key: Option<PathBuf>,
    /// Knock port [default: 62201]
    #[arg(short, long, value_name = "PORT", value_parser = port())]
    pub(super) port: Option<u16>,
    /// What the server calls itself [default: the key file's, else SERVER]
    #[arg(long, value_name = "ID", value_parser = ServerId::from_typed)]
    pub(super) server_id: Option<ServerId>,
    /// Who is to be let in: auto, observed, ADDR[,ADDR] or listed:ADDR[,ADDR] [default: auto]
    #[arg(short, long, value_name = "WHAT")]
    #[allow(
        rustdoc::broken_intra_doc_links,
        reason = "`--help` shows the brackets, and would show what escapes them"
    )]
    pub(super) source: Option<SourceOption>,
    /// How long the door should stay open, e.g. 30s, 5m [default: the action's own]
    #[arg(long = "for", value_name = "DURATION", value_parser = whole_seconds)]
    pub(super) seconds: Option<u32>,
    /// Ask for no reply: send once and leave
    #[arg(long)]
    pub(super) no_reply: bool,
    /// Stop after this long; an unanswered knock is sent again at 0.25, 0.75 and 1.75 s [default: 3s; 35s for a port
    /// after --ports; 60s for --wait-done]
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
    pub(super) timeout: Option<Duration>,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Say what happens on the way
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Use IPv4 only
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub(super) ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6')]
    pub(super) ipv6: bool,
    /// Profile [default: ~/.config/spa-knock/config.toml]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// The one-time password that your app shows, for a key that needs one; "-" asks for it
    #[arg(long, value_name = "CODE", allow_hyphen_values = true)]
    pub(super) otp: Option<OtpInput>,

    #[command(flatten)]
    pub(super) ports: PortModeArgs,
}

/// What a knock by ports may be told.
#[derive(Args)]
pub(super) struct PortModeArgs {
    /// Knock with packets to eight ports, which carry nothing; nothing answers
    #[arg(long)]
    pub(super) ports: bool,
    /// Where the server's 8,192 ports for this begin
    #[arg(long, value_name = "PORT", default_value = "20480", value_parser = knock_range())]
    pub(super) ports_low: u16,
    /// What the packets are: tcp (the first of a connection) or udp (empty)
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp", value_parser = protocol)]
    pub(super) ports_proto: Protocol,
    /// The time between two packets [default: 2 to 10 ms, at random]
    #[arg(long, value_name = "DURATION", value_parser = gap)]
    pub(super) ports_gap: Option<Duration>,
}

/// The form of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Text for people, on standard error.
    Text,
    /// One JSON object on standard output.
    Json,
}

/// What is done besides knocking.
#[derive(Subcommand)]
pub(super) enum ClientSubcommand {
    /// Make a new key for all servers
    Keygen {
        /// Write it to this file (mode 0600), which must not be there yet [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Who it is for: a name for people to read
        #[arg(long, value_name = "NAME")]
        client: Option<ClientName>,
    },
    /// Print the pair key that one server's admin needs
    ///
    /// The server learns neither your key nor the pair key of any other server.
    Derive {
        /// The key made by keygen; "-" reads it from standard input [default: $SPA_KNOCK_KEY, else ~/.knock.key]
        #[arg(short, long, value_name = "ROOT")]
        key: Option<PathBuf>,
        /// What the server calls itself
        #[arg(long, value_name = "ID", value_parser = ServerId::from_typed)]
        server_id: ServerId,
    },
    /// Say what a key file is for; never the secret
    Show {
        /// The key file, as with --key
        #[arg(value_name = "FILE", conflicts_with = "key")]
        file: Option<PathBuf>,
        /// The key file; "-" reads it from standard input [default: $SPA_KNOCK_KEY, else ~/.knock.key]
        #[arg(short, long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Knock, then join standard input and output to a TCP port: for ssh's ProxyCommand
    Connect(ConnectArgs),
    /// Keep a key that the server's admin has handed over
    ///
    /// Writes it to ~/.config/spa-knock/SERVER.key (mode 0600), which must not be there yet.
    Import {
        /// The token, or the text of a key file; "-" reads either from standard input
        #[arg(value_name = "TOKEN", default_value = "-", hide_default_value = true)]
        token: OsString,
    },
    /// Find out why a knock does not open
    ///
    /// Looks at key, name, ways, clock, and knocks. Every line has a verdict, and what is wrong has a hint. The
    /// exit code is 0 only if all is well.
    Doctor(DoctorArgs),
    Legacy(LegacyArgs),
    /// Print what completes this command line in a shell
    Completions {
        /// Which one
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// A knock, and where to connect to afterwards.
#[derive(Args)]
pub(super) struct ConnectArgs {
    /// The server to knock at: a name, an address, or the NAME of a profile
    pub(super) server: String,
    /// What to ask for, e.g. open-ssh
    pub(super) action: ActionName,
    /// Where to connect to then: a name or an address; ssh writes it as %h
    pub(super) host: String,
    /// On which TCP port; ssh writes it as %p
    #[arg(value_name = "PORT", value_parser = port())]
    pub(super) door: u16,
    #[command(flatten)]
    pub(super) manner: CommonArgs,
}

/// What is to be looked at.
#[derive(Args)]
pub(super) struct DoctorArgs {
    /// The server: a name, an address, or the NAME of a profile
    pub(super) server: String,
    /// What to ask for; without it, and where the profile names none, the knock asks for something that no
    /// server has: it opens nothing, and is answered all the same
    pub(super) action: Option<ActionName>,
    /// Compare the clock with this NTP server's (SNTP, RFC 4330: one datagram each way)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) ntp: Option<String>,
    #[command(flatten)]
    pub(super) manner: CommonArgs,
}

impl KnockArgs {
    /// Refuses words too many.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        if let Some(word) = self.surplus.first() {
            return Err(ClientError::new(
                ExitCause::Usage,
                format!("{word}: a word too many after ARGUMENT"),
            )
            .hint("an argument with spaces stands in quotes"));
        }
        if self.manner.ports.ports && self.argument.is_some() {
            return Err(no_room("ARGUMENT"));
        }
        self.manner.check()
    }
}

impl CommonArgs {
    /// Refuses what eight ports cannot say.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        if self.ports.ports && self.otp.is_some() {
            return Err(no_room("--otp"));
        }
        if self.ports.ports && self.seconds.is_some() {
            return Err(no_room("--for"));
        }
        Ok(())
    }
}

fn no_room(name: &str) -> ClientError {
    ClientError::new(ExitCause::Usage, format!("--ports: eight ports have no room for {name}"))
        .hint("leave one of the two away")
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
    fn a_server_is_knocked_at_however_it_is_called() {
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
    fn subcommands_come_first() {
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
