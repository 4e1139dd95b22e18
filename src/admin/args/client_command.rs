//! The arguments of `spa-knockd client`: adding, changing and revoking clients, and the form of their keys.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::StateDirArg;
use super::option_values::{Limit, digits, rate, source, typed_host};
use spa_knock_core::crypto::{OtpDigits, OtpHash};
use spa_knock_core::knock::{ActionName, AddressPolicy, ClientName};

/// What can be done with clients.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Make a key for a new client, and let it do some actions
    Add(AddClient),
    /// All clients: what they may do, until when, and their keys' fingerprints
    List {
        /// As one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Everything about a client but its secret
    Show {
        /// The client
        name: ClientName,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Change what a client may do; its key stays
    Set(SetClient),
    /// A new key for a client; the one that it has stays good for a while
    Rotate(RotateClient),
    /// Take a client out of the running daemon, close its grants, and remove its key
    ///
    /// It works whatever else is wrong with the config or the keys. Where its files cannot be changed, or the config
    /// itself defines it, the state folder keeps its key out after a restart, too.
    Revoke {
        /// Its name, or the fingerprint of its key
        client: String,
        #[command(flatten)]
        place: StateDirArg,
    },
}

const ADD_EXAMPLES: &str = "\
Examples:
  spa-knockd client add laptop --allow open-ssh -o laptop.key
  spa-knockd client add guest --allow open-ssh,restart-web --expires 7d -o guest.key
  spa-knockd client add visitor --allow open-ssh --uses 1 --token
  spa-knockd client add admin --allow open-ssh --otp -o admin.key
  spa-knock derive --key root.key --server-id bastion.example.org |
      ssh bastion.example.org spa-knockd client add laptop --allow open-ssh --key -";

/// A new client.
#[derive(Debug, Args)]
#[command(after_help = ADD_EXAMPLES)]
pub(crate) struct AddClient {
    /// What to call it: letters, digits, '.', '_' and '-'
    pub(crate) name: ClientName,
    /// The actions that it may do
    #[arg(long, required = true, value_delimiter = ',', value_name = "ACTION[,ACTION]")]
    pub(crate) allow: Vec<ActionName>,
    /// How it may name the address to let in: exact, observed, listed; exact alone stops captured knocks from working
    /// elsewhere
    #[arg(long, value_delimiter = ',', value_name = "SOURCE[,SOURCE]", default_value = "exact", value_parser = source)]
    pub(crate) source: Vec<AddressPolicy>,
    /// How often it may act, 10/m or 1/s; none = as often as it likes
    #[arg(long, value_name = "RATE", default_value = "60/m", value_parser = rate)]
    pub(crate) rate: Limit,
    /// Where it finds this server, a name or address, so that the key is enough; default: server.address of the config
    #[arg(long, value_parser = typed_host)]
    pub(crate) address: Option<String>,
    /// Do nothing, with exit code 0, where there is a client of this name that may do these actions
    #[arg(long)]
    pub(crate) if_missing: bool,
    /// From when on it may do nothing: 2027-01-31 (00:00 UTC), 2027-01-31T18:00:00+01:00, or 90d from now
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
    /// Take this pair key, made by `spa-knock derive`, instead of a new one; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub(crate) key: Option<PathBuf>,
    /// Write the client's key to a new file (0600) instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// How often it may act in all: 1 for a visit, or a job that runs once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) uses: Option<u64>,
    /// Ask for a one-time password with every knock: prints what an app that shows them reads, as text and QR code
    #[arg(long)]
    pub(crate) otp: bool,
    /// The hash of one-time passwords, sha1 or sha256; not every app knows the latter
    #[arg(long, value_name = "HASH", requires = "otp", default_value = "sha1")]
    pub(crate) otp_hash: OtpHash,
    /// How long one-time passwords are, 6 or 8 digits; not every app knows the latter
    #[arg(long, value_name = "DIGITS", requires = "otp", default_value = "6", value_parser = digits)]
    pub(crate) otp_digits: OtpDigits,
    #[command(flatten)]
    pub(crate) form: KeyForm,
}

/// What changes about a client.
#[derive(Debug, Args)]
#[group(id = "change", required = true, multiple = true, args = ["allow", "source", "rate", "expires"])]
pub(crate) struct SetClient {
    /// The client
    pub(crate) name: ClientName,
    /// The actions that it may do from now on
    #[arg(long, value_delimiter = ',', value_name = "ACTION[,ACTION]")]
    pub(crate) allow: Vec<ActionName>,
    /// How it may name the address to let in: exact, observed, listed
    #[arg(long, value_delimiter = ',', value_name = "SOURCE[,SOURCE]", value_parser = source)]
    pub(crate) source: Vec<AddressPolicy>,
    /// How often it may act, 10/m or 1/s; none = as often as it likes
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate: Option<Limit>,
    /// From when on it may do nothing, as for `client add`; never = no such time
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
}

/// A new key for a client.
#[derive(Debug, Args)]
pub(crate) struct RotateClient {
    /// The client
    pub(crate) name: ClientName,
    /// How long the key that it has stays good; 0s ends it at once
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    pub(crate) overlap: Duration,
    /// Take this pair key, made by `spa-knock derive`, instead of a new one; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub(crate) key: Option<PathBuf>,
    /// Write the client's key to a new file (0600) instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) form: KeyForm,
}

/// How a key is handed over.
#[derive(Debug, Args)]
pub(crate) struct KeyForm {
    /// Print the key as one line, for `spa-knock import`
    #[arg(long, conflicts_with_all = ["qr", "key"])]
    pub(crate) token: bool,
    /// Show that line as a QR code
    #[arg(long, conflicts_with_all = ["key", "output"])]
    pub(crate) qr: bool,
}
