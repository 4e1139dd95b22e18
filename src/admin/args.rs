//! The command line of `spa-knockd`: what can be typed. What it means is decided elsewhere.

mod client_command;
mod option_values;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::facts::DaemonFacts;
use super::init::DEFAULT_CONFIG;
use crate::console;
use crate::control::OnOff;
pub(crate) use client_command::{AddClient, ClientCommand, KeyForm, RotateClient, SetClient};
use option_values::{trial, typed_host, typed_id, visit};
use spa_knock_core::knock::{ClientName, PortRange, ServerId};

const EXAMPLES: &str = "\
Examples:
  spa-knockd init                              write a first config
  spa-knockd client add laptop --allow open-ssh -o laptop.key
                                               let a client in: hand it laptop.key
  spa-knockd check                             look for everything that is wrong
  spa-knockd run                               open doors (systemd does this)

Signals to a running daemon:
  SIGHUP             take up the config, clients and keys anew; a bad config changes nothing
  SIGTERM, SIGINT    stop; what is open stays open until its time is over

Exit codes:
  0  clean    1  failed at run time    2  wrong usage    5  config or keys";

/// Opens ports for one address after one signed datagram, and keeps them closed to everybody else.
#[derive(Debug, Parser)]
#[command(name = "spa-knockd", version, after_help = EXAMPLES, arg_required_else_help = true)]
#[command(max_term_width = 100)]
pub(crate) struct DaemonArgs {
    /// The config; its clients are in clients.d beside it
    #[arg(short, long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub(crate) config: PathBuf,
    #[command(subcommand)]
    pub(crate) command: AdminCommand,
}

/// What the daemon can be asked to do.
#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Run in the foreground, as systemd wants it (Type=notify)
    Run,
    /// Have the running daemon load config, clients and keys again: all or nothing
    ///
    /// The exit code is 1 when it did not, with the reason: what is wrong, or what needs a restart.
    Reload(StateDirArg),
    /// Look at config, keys, permissions, interfaces and rights, and tell every problem
    ///
    /// Every problem is told with its file, line and a hint. The exit code is 0, or 1 for any problem, a bad
    /// config too; warnings do not count.
    /// With a running daemon, it also reports what of the config only a restart takes up.
    Check {
        /// As one JSON object: problems, warnings and what is fine
        #[arg(long)]
        json: bool,
    },
    /// Write a commented config with an open-ssh action, and the folders
    ///
    /// Changes nothing that is there. With --config outside of /etc/spa-knock, keys, state, audit log and control
    /// socket lie beside the config.
    Init {
        /// What knocks are bound to, and what clients call the server; default: this host's name
        #[arg(long, value_parser = typed_id)]
        id: Option<ServerId>,
        /// Where clients find this server, a name or address: each new key names it, so that the key is enough
        #[arg(long, value_parser = typed_host)]
        address: Option<String>,
    },
    /// Add, list, show, rotate and revoke clients; the daemon need not run
    #[command(subcommand, arg_required_else_help = true)]
    Client(ClientCommand),
    /// The replay state on disk
    #[command(subcommand, arg_required_else_help = true)]
    State(StateCommand),
    /// How the running daemon is: gate, grants, counters by reason, what the capture missed
    Status {
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// Every second, with the live grants, until Ctrl-C
        #[arg(long)]
        watch: bool,
        /// As Prometheus reads it; `metrics` in the config serves the same over HTTP
        #[arg(long, conflicts_with_all = ["json", "watch"])]
        prometheus: bool,
        #[command(flatten)]
        place: StateDirArg,
    },
    /// The live grants: whose they are, what they open, for how long
    Grants {
        /// As one JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: StateDirArg,
    },
    /// Close a grant early; connections that stand stay
    Revoke {
        /// Its number, as `spa-knockd grants` prints it
        #[arg(required_unless_present = "all")]
        grant: Option<String>,
        /// Close all of them
        #[arg(long, conflicts_with = "grant")]
        all: bool,
        #[command(flatten)]
        place: StateDirArg,
    },
    /// Let one address in from the console, also with a broken config, a full disk and no daemon
    LetIn(LetIn),
    /// Find out why not: what stops each packet of a capture, and what the cause is likely to be
    ///
    /// Every packet is taken through the daemon's own checks with this config and these keys, at the time it was
    /// captured; nothing is changed or answered. What was accepted or counted before the capture began is not known.
    Explain(Explain),
    /// Close the protected ports but for grants, or leave them open
    ///
    /// It counts at once, and is remembered for the next start. With --confirm the kernel opens them again by itself
    /// after that time, unless a knock has worked until then or `gate on` is said without it: for a first set-up over
    /// ssh, which is not cut either way.
    Gate {
        /// on or off
        state: OnOff,
        /// Only on trial: off again after this time, unless a knock works or it is confirmed
        #[arg(long, value_name = "DURATION", value_parser = trial)]
        confirm: Option<Duration>,
        /// Only a knock of this client confirms the trial: one of a scheduled job does not prove that you get in
        #[arg(long, value_name = "CLIENT", requires = "confirm")]
        by: Option<ClientName>,
        #[command(flatten)]
        place: StateDirArg,
    },
    /// Close the protected ports as they were closed last; systemd does this at each boot, before the network is up
    ///
    /// Needs no daemon, no valid config and no key: the daemon writes what to close into the state folder. Changes
    /// nothing if the gate is off, has never been closed or is kept closed by a running daemon.
    RestoreGate {
        /// The state folder, if it is not what the config states or the config cannot be read
        #[arg(long, value_name = "FOLDER")]
        state_dir: Option<PathBuf>,
    },
    /// Print a knockd.conf as a config with sealed knocks
    ///
    /// What opens ports for the source, by iptables, nft or ufw, becomes a grant, and what closes them again its time;
    /// other commands stay commands. Standard error says what could not be translated. Nothing is changed.
    Migrate {
        /// A config of knockd
        #[arg(value_name = "FILE", default_value = "/etc/knockd.conf")]
        file: PathBuf,
        /// What knocks are bound to; default: this host's name
        #[arg(long, value_parser = typed_id)]
        id: Option<ServerId>,
    },
    /// The daemon for plain sequences, with knockd's own options
    ///
    /// With -l, lines of the log have the name of an address in parentheses behind it, if it has one. getent looks it
    /// up, at most four at a time, for 2 s each, and not as root. Lines wait for that in their order, 2 s at most;
    /// commands do not wait. What was found is kept for 10 minutes. Whoever owns an address chooses its name.
    Knockd {
        /// knockd's options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Print what completes this command line in a shell
    Completions {
        /// Which one
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

impl AdminCommand {
    /// Whether it becomes a daemon or a part of one.
    pub(crate) const fn is_daemon(&self) -> bool {
        matches!(self, Self::Run | Self::Knockd { .. })
    }
}

/// Where the daemon's state is, for commands that work whatever is wrong with the config.
#[derive(Debug, Args)]
pub(crate) struct StateDirArg {
    /// The state folder, if it is not what the config states or the config cannot be read
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state_dir: Option<PathBuf>,
}

impl StateDirArg {
    /// What is known of the daemon.
    pub(crate) fn facts(&self, config: &Path) -> DaemonFacts {
        DaemonFacts::find(config, self.state_dir.as_deref())
    }
}

/// An address to let in.
#[derive(Debug, Args)]
pub(crate) struct LetIn {
    /// The address
    pub(crate) address: IpAddr,
    /// The ports to open, tcp/22 or udp/5000-5010; default: all that are protected
    #[arg(long = "port", value_name = "PORT[,PORT]", value_delimiter = ',')]
    pub(crate) ports: Vec<PortRange>,
    /// For how long, from 1s to 1d
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = visit)]
    pub(crate) time: Duration,
    #[command(flatten)]
    pub(crate) place: StateDirArg,
}

/// Packets to explain.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A capture file, as tcpdump -w writes it; "-" is standard input
    #[arg(required_unless_present = "live", conflicts_with = "live")]
    pub(crate) file: Option<PathBuf>,
    /// What comes in from now on, on the interfaces that the daemon watches, until Ctrl-C
    #[arg(long)]
    pub(crate) live: bool,
    /// Look also for knocks that these keys signed for a server of this id; can be given several times
    #[arg(long = "try-id", value_name = "ID", value_parser = typed_id)]
    pub(crate) ids: Vec<ServerId>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// What can be done with the replay state.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Begin anew where it is damaged: whatever was knocked until now stays refused
    Reset {
        /// Also lower floors that are ahead of the clock, after it was ahead and has been set right: knocks that were
        /// accepted in that time can be accepted again when their time comes
        #[arg(long)]
        forget: bool,
    },
}

/// What these arguments ask for, program name first.
///
/// # Errors
/// The exit code, after help or what is wrong has been printed.
pub(crate) fn parse(arguments: &[OsString]) -> Result<DaemonArgs, ExitCode> {
    DaemonArgs::try_parse_from(arguments).map_err(|error| {
        let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        if asked_for || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            // A closed standard output is no reason to fail while helping.
            let _ = error.print();
        } else {
            let text = error.render().to_string();
            console::print_error(text.strip_prefix("error: ").unwrap_or(&text).trim_end());
        }
        ExitCode::from(if asked_for { 0 } else { 2 })
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        DaemonArgs::command().debug_assert();
    }
}
