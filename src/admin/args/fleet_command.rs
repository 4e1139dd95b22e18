//! The arguments of `spa-knockd fleet`: servers that share one id and accept each knock once, together.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::option_values::typed_host;

/// Subcommands for fleets.
#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// Set up a fleet in etcd and make this server its first member; prints the line with which others join
    ///
    /// Creates users and roles in etcd, the fleet key, and the section [fleet] of the config. Asks for the password of the
    /// etcd user at the terminal, or reads it from standard input. The daemon must not run, because it would accept
    /// knocks that the store does not know of. The printed line is a secret.
    Init(InitFleet),
    /// Make this server a member of a fleet, with the line that another member prints
    ///
    /// Asks for the line at the terminal, or reads it from standard input. Without a config, creates one, as
    /// `spa-knockd init` does. If anything fails, no file is changed.
    Join(JoinFleet),
    /// Print the line with which other servers join this member's fleet; it is a secret
    ///
    /// The line contains the fleet key, the members' login, the endpoints and the id of the cluster, as this member has
    /// them now. After `fleet accept-store` in another cluster, earlier lines are refused.
    JoinLine,
    /// Show the fleet's store and members
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the live members: name, address, version, clock, policy, age of the record
    Members {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Accept a store that was set up again or restored; refuses all knocks made until now
    ///
    /// A store that has lost what it knew could accept a knock twice. So this raises the floor of the whole fleet: knocks
    /// that any member can have accepted are refused, and new ones too for one window and a minute. Also ends all grants
    /// of the fleet. Run it on each member, then reload the daemon.
    AcceptStore {
        /// Do not ask for a confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// The files for TLS. They are copied to the directory `fleet` next to the config; without them, those that are there already
/// are used.
#[derive(Debug, Args)]
pub(crate) struct FleetTls {
    /// Certificate of the CA that has signed the certificates of etcd
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"], value_hint = ValueHint::FilePath)]
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate of this server, with an empty subject: etcd's gateway refuses those with a CommonName
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"], value_hint = ValueHint::FilePath)]
    pub(crate) cert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, value_name = "FILE", requires_all = ["ca", "cert"], value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,
}

/// Arguments of `fleet init`.
#[derive(Debug, Args)]
pub(crate) struct InitFleet {
    /// The fleet's name in the store
    #[arg(long)]
    pub(crate) name: String,
    /// This server's name in the fleet; default: this host's name, without its domain
    #[arg(long, value_name = "NAME")]
    pub(crate) member: Option<String>,
    /// The members of etcd
    #[arg(long, required = true, value_delimiter = ',', value_name = "URL[,URL]")]
    pub(crate) endpoints: Vec<String>,
    #[command(flatten)]
    pub(crate) tls: FleetTls,
    /// The etcd user who creates users and roles
    #[arg(long, value_name = "NAME", default_value = "root")]
    pub(crate) user: String,
    /// Enable authentication in an etcd that has none: creates the user root with the password that is asked for
    #[arg(long)]
    pub(crate) enable_auth: bool,
}

/// Arguments of `fleet join`.
#[derive(Debug, Args)]
pub(crate) struct JoinFleet {
    /// This server's name in the fleet; default: this host's name, without its domain
    #[arg(long, value_name = "NAME")]
    pub(crate) member: Option<String>,
    #[command(flatten)]
    pub(crate) tls: FleetTls,
    /// Name or address of the servers, for a new config: it is written into each new key
    #[arg(long, value_parser = typed_host)]
    pub(crate) address: Option<String>,
}
