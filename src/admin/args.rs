//! The command line of `spa-knockd`: its syntax only. Other modules carry out the commands.

mod client_command;
mod fleet_command;
mod help_text;
mod option_values;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use clap_complete::engine::ArgValueCompleter;

use super::completions::{clients, grants};
use super::facts::DaemonFacts;
use super::init::DEFAULT_CONFIG;
use crate::console;
use crate::control::OnOff;
pub(crate) use client_command::{AddClient, ClientCommand, KeyForm, RotateClient, SetClient};
pub(crate) use fleet_command::FleetCommand;
#[cfg(feature = "fleet")]
pub(crate) use fleet_command::{FleetTls, InitFleet, JoinFleet};
use help_text::{AFTER_HELP, AFTER_LONG_HELP};
use option_values::{trial, typed_host, typed_id, visit};
use spa_knock_core::knock::{ClientName, PortRange, ServerId};

/// Opens ports for one address after one signed datagram, and keeps them closed to everyone else.
#[derive(Debug, Parser)]
#[command(name = "spa-knockd", version, after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP, arg_required_else_help = true)]
#[command(max_term_width = 100)]
pub(crate) struct DaemonArgs {
    /// Config file; clients.d in the same directory holds its clients
    #[arg(short, long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub(crate) config: PathBuf,
    #[command(subcommand)]
    pub(crate) command: AdminCommand,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Run the daemon in the foreground (for systemd: Type=notify)
    Run,
    /// Reload config, clients and keys of the running daemon, all or nothing
    ///
    /// If the reload fails, prints the reason, an error or a change that needs a restart, and exits with 1.
    Reload(StateDirArg),
    /// Check configuration, keys, permissions, interfaces and capabilities
    ///
    /// Reports every problem with its file, its line and a hint. The exit code is 1 if there is any problem, including
    /// an invalid config, else 0; warnings do not change it.
    /// If a daemon is running, also reports the changes of the config that need a restart.
    Check {
        /// Print one JSON object: problems, warnings and passed checks
        #[arg(long)]
        json: bool,
        /// Only print a digest of the policy, without secrets, for --against on another server
        #[arg(long, conflicts_with_all = ["json", "against"])]
        policy: bool,
        /// Also compare the policy with that of another server: a file with the output of its `check --policy`, or -
        ///
        /// Two servers with one id and the same keys must have the same clients, rights and actions.
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
    },
    /// Write a commented config with an open-ssh action, and create the directories
    ///
    /// Never changes existing files. With --config outside /etc/spa-knock, keys, state, audit log and control socket
    /// are in the same directory as the config. Only the lock files of the gate, one for each network namespace, are
    /// always /run/spa-knock/gate-*.lock.
    Init {
        /// Server id: the name that knocks are bound to and that clients use; default: this host's name
        #[arg(long, value_parser = typed_id)]
        id: Option<ServerId>,
        /// Name or address of this server, written into each new key, so that clients need only the key
        #[arg(long, value_parser = typed_host)]
        address: Option<String>,
    },
    /// Add, list, show, change, rotate and revoke clients; works without a running daemon
    #[command(subcommand, arg_required_else_help = true)]
    Client(ClientCommand),
    /// Set up, join and show a fleet: servers that accept each knock once, together
    ///
    /// The servers share one id and their clients, and agree through etcd.
    #[command(subcommand, arg_required_else_help = true)]
    Fleet(FleetCommand),
    /// Repair the replay state on disk
    #[command(subcommand, arg_required_else_help = true)]
    State(StateCommand),
    /// Refuse every knock that another host with the same id and keys can have accepted
    ///
    /// For a pair of hosts with one address and one set of keys, of which one is active: run this on the host that
    /// becomes active, for example by keepalived's notify_master. Knocks made until now, and for one window after it,
    /// are refused; with the default window, that is 30 seconds. Works with or without a running daemon.
    Takeover(StateDirArg),
    /// Show the daemon's status: gate, grants, counters, dropped packets
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Print the status and the active grants every second until Ctrl-C
        #[arg(long)]
        watch: bool,
        /// Print metrics for Prometheus; `metrics` in the config serves the same over HTTP
        #[arg(long, conflicts_with_all = ["json", "watch"])]
        prometheus: bool,
        #[command(flatten)]
        place: StateDirArg,
    },
    /// List active grants: client, action, addresses, ports and time left
    Grants {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: StateDirArg,
    },
    /// Revoke a grant early; established connections stay open
    Revoke {
        /// The grant's number, as `spa-knockd grants` prints it
        #[arg(required_unless_present = "all", add = ArgValueCompleter::new(grants))]
        grant: Option<String>,
        /// Revoke all grants
        #[arg(long, conflicts_with = "grant")]
        all: bool,
        #[command(flatten)]
        place: StateDirArg,
    },
    /// Let one address in from the console, even with an invalid config, a full disk or no daemon
    LetIn(LetIn),
    /// Explain, for each packet of a capture, which check stops it and the likely cause
    ///
    /// Runs the daemon's own checks on every packet, with this config and these keys, at the time of its capture.
    /// Changes nothing and sends no reply. Does not know what the daemon accepted or counted before the capture began.
    Explain(Explain),
    /// Close the protected ports except for grants, or open them
    ///
    /// Takes effect immediately and is remembered for the next start. With --confirm, the kernel opens the ports again
    /// after that time, unless a knock has succeeded or `gate on` has been run without --confirm. Use it for a first
    /// setup over ssh; the ssh connection itself stays open in any case.
    Gate {
        /// Whether the gate is on (closed) or off (open)
        state: OnOff,
        /// Start a trial: turn the gate off after this time, unless a knock succeeds or the gate is confirmed
        #[arg(long, value_name = "DURATION", value_parser = trial)]
        confirm: Option<Duration>,
        /// Only a knock of this client confirms the trial: a scheduled job's knock does not prove that you get in
        #[arg(long, value_name = "CLIENT", requires = "confirm", add = ArgValueCompleter::new(clients))]
        by: Option<ClientName>,
        #[command(flatten)]
        place: StateDirArg,
    },
    /// Restore the gate as it was last closed; systemd does this at each boot, before the network is up
    ///
    /// Needs no daemon, no valid config and no key: the daemon records in the state directory which ports to close.
    /// Changes nothing if the gate is off, has never been closed or is kept closed by a running daemon.
    RestoreGate {
        /// State directory, if it is not the one in the config or the config cannot be read
        #[arg(long, value_name = "DIRECTORY")]
        state_dir: Option<PathBuf>,
    },
    /// Translate knockd's or fwknop's config into one for encrypted knocks, and print it
    ///
    /// In a knockd.conf, a command that opens ports for the source with iptables, nft or ufw becomes a grant, and the
    /// command that closes them determines its duration; other commands remain commands. In fwknop's access.conf, the
    /// rights of each stanza become actions; fwknopd.conf is read from the same directory. Reports on standard error what
    /// cannot be translated. Changes nothing.
    Migrate {
        /// knockd.conf, or fwknop's access.conf
        #[arg(value_name = "FILE", default_value = "/etc/knockd.conf")]
        file: PathBuf,
        /// Server id: the name that knocks are bound to; default: this host's name
        #[arg(long, value_parser = typed_id)]
        id: Option<ServerId>,
    },
    /// Run the daemon for knockd's knock sequences, with knockd's own options
    ///
    /// With -l, log lines show the host name of an address in parentheses after it, if there is one. getent looks names
    /// up, at most four at a time, for 2 s each, and not as root. Log lines wait for the name in order, at most 2 s;
    /// commands do not wait. Names are kept for 10 minutes. The owner of an address chooses its name.
    Knockd {
        /// knockd's options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Run the daemon for fwknop's clients, with fwknopd's own files and options
    ///
    /// `spa-knockd fwknopd --help` lists the options.
    /// A link named fwknopd to this program does the same. Packets need an HMAC: a stanza without HMAC_KEY is refused,
    /// because fwknop accepts a copy of such a packet with one more character. Packets with a grant get the mark
    /// 0x10000000, which a rule that this daemon adds at the start of iptables' INPUT accepts; the kernel ends each grant
    /// at its time, also if the daemon is not running. What the files ask for and this daemon does not do is reported
    /// with the line.
    Fwknopd {
        /// fwknopd's options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

impl AdminCommand {
    /// Whether the command runs a daemon.
    pub(crate) const fn is_daemon(&self) -> bool {
        matches!(self, Self::Run | Self::Knockd { .. } | Self::Fwknopd { .. })
    }
}

/// The state directory, for commands that work even if the config is invalid.
#[derive(Debug, Args)]
pub(crate) struct StateDirArg {
    /// State directory, if it is not the one in the config or the config cannot be read
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) state_dir: Option<PathBuf>,
}

impl StateDirArg {
    /// Returns what is known about the daemon.
    pub(crate) fn facts(&self, config: &Path) -> DaemonFacts {
        DaemonFacts::find(config, self.state_dir.as_deref())
    }

    /// What is known about the daemon, for a command whose result contains the errors of the config.
    pub(crate) fn quiet_facts(&self, config: &Path) -> DaemonFacts {
        DaemonFacts::find_quietly(config, self.state_dir.as_deref())
    }
}

/// Arguments of `let-in`.
#[derive(Debug, Args)]
pub(crate) struct LetIn {
    /// The address to let in
    pub(crate) address: IpAddr,
    /// Ports to open, such as tcp/22 or udp/5000-5010; default: all protected ports
    #[arg(long = "port", value_name = "PORT[,PORT]", value_delimiter = ',')]
    pub(crate) ports: Vec<PortRange>,
    /// How long, from 1s to 1d
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = visit)]
    pub(crate) time: Duration,
    #[command(flatten)]
    pub(crate) place: StateDirArg,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Capture file, as tcpdump -w writes it; "-" is standard input
    #[arg(required_unless_present = "live", conflicts_with = "live")]
    pub(crate) file: Option<PathBuf>,
    /// Explain packets as they arrive on the daemon's interfaces, until Ctrl-C
    #[arg(long)]
    pub(crate) live: bool,
    /// Also look for knocks that were signed with these keys for this server id; can be repeated
    #[arg(long = "try-id", value_name = "ID", value_parser = typed_id)]
    pub(crate) ids: Vec<ServerId>,
    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Subcommands for the replay state.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Rebuild damaged replay state; all knocks made so far remain refused
    Reset {
        /// Also lower floors that are ahead of the clock, after the clock was ahead and has been corrected: knocks
        /// accepted in that time can be accepted again when the clock reaches their timestamps
        #[arg(long)]
        forget: bool,
    },
}

/// Parses the arguments, program name first.
///
/// # Errors
/// The exit code, after help or the error has been printed.
pub(crate) fn parse(arguments: &[OsString]) -> Result<DaemonArgs, ExitCode> {
    DaemonArgs::try_parse_from(arguments).map_err(|error| {
        let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        if is_help || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            // Help succeeds even if standard output is closed.
            let _ = error.print();
        } else {
            let text = error.render().to_string();
            console::print_error(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
        }
        ExitCode::from(if is_help { 0 } else { 2 })
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_definition_is_consistent() {
        DaemonArgs::command().debug_assert();
    }
}
