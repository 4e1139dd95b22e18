//! The arguments of `spa-knockd client`: adding, changing and revoking clients, and the output format of keys.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::super::completions::{actions, clients};
use super::StateDirArg;
use super::option_values::{Limit, digits, rate, source, touch, typed_host};
use spa_knock_core::auth::Touch;
use spa_knock_core::crypto::{OtpDigits, OtpHash};
use spa_knock_core::knock::{ActionName, AddressPolicy, ClientName};

/// Subcommands for clients.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Add a client: create its key and allow it some actions
    Add(AddClient),
    /// List all clients: allowed actions, expiry and key fingerprint
    List {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show everything about a client except its secret
    Show {
        /// The client's name
        #[arg(add = ArgValueCompleter::new(clients))]
        name: ClientName,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Change a client's rules; its key stays the same
    Set(SetClient),
    /// Create a new key for a client; the previous one stays valid for a time
    Rotate(RotateClient),
    /// Revoke a client: the running daemon refuses it, its grants end, its key is removed
    ///
    /// Works even if the config or other keys are invalid. If the client's files cannot be changed, or the config
    /// itself defines it, the state directory records that its key is revoked, so a restart does not accept it again.
    Revoke {
        /// The client's name, or the fingerprint of its key
        #[arg(add = ArgValueCompleter::new(clients))]
        client: String,
        /// Revoke a client of the fleet, on all members
        #[arg(long)]
        fleet: bool,
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
  spa-knockd client add phone --allow open-ssh --ssh-key id_ed25519.pub --token
  spa-knockd client add alice --allow open-ssh --ssh-keys-of alice --token
  spa-knock derive --key root.key --server-id bastion.example.org |
      ssh bastion.example.org spa-knockd client add laptop --allow open-ssh --key -";

/// Arguments of `client add`.
#[derive(Debug, Args)]
#[command(after_help = ADD_EXAMPLES)]
pub(crate) struct AddClient {
    /// The client's name: letters, digits, '.', '_' and '-'
    pub(crate) name: ClientName,
    /// Actions that the client may request
    #[arg(long, required = true, value_delimiter = ',', value_name = "ACTION[,ACTION]", add = ArgValueCompleter::new(actions))]
    pub(crate) allow: Vec<ActionName>,
    /// Allowed address policies: exact, observed, listed; only exact prevents captured knocks from being used from
    /// another address
    #[arg(long, value_delimiter = ',', value_name = "SOURCE[,SOURCE]", default_value = "exact", value_parser = source)]
    pub(crate) source: Vec<AddressPolicy>,
    /// How often the client may act, such as 10/m or 1/s; none = no limit
    #[arg(long, value_name = "RATE", default_value = "60/m", value_parser = rate)]
    pub(crate) rate: Limit,
    /// Name or address of this server, written into the key, so that the client needs only the key; default: the
    /// config's server.address
    #[arg(long, value_parser = typed_host)]
    pub(crate) address: Option<String>,
    /// Do nothing and exit with 0 if a client of this name exists, with these actions and this SSH key or none; with
    /// --ssh-keys-of, add only the keys that have no client
    #[arg(long)]
    pub(crate) if_missing: bool,
    /// Expiry: 2027-01-31 (00:00 UTC), 2027-01-31T18:00:00+01:00, or a time from now such as 90d
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
    /// Accept only knocks that this SSH key has signed, in an agent or a FIDO device: a public key file, or "-" for
    /// standard input
    #[arg(long, value_name = "FILE.pub", value_hint = ValueHint::FilePath)]
    pub(crate) ssh_key: Option<PathBuf>,
    /// Add a client for each SSH key in this user's ~/.ssh/authorized_keys: NAME, or NAME-1, NAME-2, … for several
    #[arg(long, value_name = "USER", conflicts_with_all = ["ssh_key", "key"], value_hint = ValueHint::Username)]
    pub(crate) ssh_keys_of: Option<String>,
    /// What the FIDO device that has the SSH key must check: present (someone touches it) or pin
    #[arg(long, value_name = "TOUCH", requires = "ssh_key", value_parser = touch)]
    pub(crate) touch: Option<Touch>,
    /// Use this pair key from `spa-knock derive` instead of a new one; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub(crate) key: Option<PathBuf>,
    /// Write the client's key to a new file (0600) instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// How often the client may act in total: 1 for a visitor, or for a job that runs once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) uses: Option<u64>,
    /// Require a one-time password with every knock; prints the setup for an authenticator app as text and QR code
    #[arg(long)]
    pub(crate) otp: bool,
    /// Hash of the one-time passwords, sha1 or sha256; not every app supports sha256
    #[arg(long, value_name = "HASH", requires = "otp", default_value = "sha1")]
    pub(crate) otp_hash: OtpHash,
    /// Length of the one-time passwords, 6 or 8 digits; not every app supports 8
    #[arg(long, value_name = "DIGITS", requires = "otp", default_value = "6", value_parser = digits)]
    pub(crate) otp_digits: OtpDigits,
    /// Add the client to all members of the fleet, through its store
    #[arg(long)]
    pub(crate) fleet: bool,
    #[command(flatten)]
    pub(crate) form: KeyForm,
}

/// Arguments of `client set`.
#[derive(Debug, Args)]
#[group(id = "change", required = true, multiple = true, args = ["allow", "source", "rate", "expires"])]
pub(crate) struct SetClient {
    /// The client's name
    #[arg(add = ArgValueCompleter::new(clients))]
    pub(crate) name: ClientName,
    /// Actions that the client may request from now on
    #[arg(long, value_delimiter = ',', value_name = "ACTION[,ACTION]", add = ArgValueCompleter::new(actions))]
    pub(crate) allow: Vec<ActionName>,
    /// Allowed address policies: exact, observed, listed
    #[arg(long, value_delimiter = ',', value_name = "SOURCE[,SOURCE]", value_parser = source)]
    pub(crate) source: Vec<AddressPolicy>,
    /// How often the client may act, such as 10/m or 1/s; none = no limit
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate: Option<Limit>,
    /// Expiry, as for `client add`; never = no expiry
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
    /// Change a client of the fleet, on all members
    #[arg(long)]
    pub(crate) fleet: bool,
}

/// Arguments of `client rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateClient {
    /// The client's name
    #[arg(add = ArgValueCompleter::new(clients))]
    pub(crate) name: ClientName,
    /// How long the previous key stays valid, by default 24h; 0s ends it immediately, as does a client's first SSH key
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) overlap: Option<Duration>,
    /// From now on accept only knocks that this SSH key has signed: a public key file, or "-" for standard input; with
    /// the client's present key as --key, the SSH key alone is replaced, immediately
    #[arg(long, value_name = "FILE.pub", value_hint = ValueHint::FilePath)]
    pub(crate) ssh_key: Option<PathBuf>,
    /// Use this pair key from `spa-knock derive` instead of a new one; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub(crate) key: Option<PathBuf>,
    /// Write the client's key to a new file (0600) instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Change a client of the fleet, on all members
    #[arg(long)]
    pub(crate) fleet: bool,
    #[command(flatten)]
    pub(crate) form: KeyForm,
}

/// The output format of a key.
#[derive(Debug, Args)]
pub(crate) struct KeyForm {
    /// Print the key as one line, for `spa-knock import`
    #[arg(long, conflicts_with_all = ["qr", "key"])]
    pub(crate) token: bool,
    /// Show that line as a QR code
    #[arg(long, conflicts_with_all = ["key", "output"])]
    pub(crate) qr: bool,
}
