//! Requests to the daemon and its responses: one line of JSON each.

use serde::{Deserialize, Serialize};

use super::status::DaemonStatus;

/// A request to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Reload config, clients and keys.
    Reload {},
    /// Check whether a reload would succeed. Changes nothing.
    CheckReload {},
    /// Close the gate, permanently or on trial, or open it.
    Gate {
        /// On or off.
        to: OnOff,
        /// The duration of the trial in milliseconds; `None` is permanent.
        trial_ms: Option<u64>,
        /// The only client whose knocks confirm the trial; `None` is any client.
        by: Option<String>,
    },
    /// List the active grants.
    Grants {},
    /// Revoke grants.
    Revoke {
        /// The grant's number; `None` is all grants.
        grant: Option<String>,
    },
    /// Refuse a client from now on, and revoke its grants.
    DropClient {
        /// The client's name, or the fingerprint of one of its keys.
        client: String,
    },
    /// Let an address in from the console.
    LetIn {
        /// The address.
        address: String,
        /// The ports to open; if empty, all protected ports.
        ports: Vec<String>,
        /// The duration in seconds.
        seconds: u64,
    },
    /// Refuse every knock that another server with the same id and keys can have accepted.
    TakeOver {},
    /// Report the daemon's status.
    Status {},
    /// Count a client's knocks with its previous key.
    PreviousUses {
        /// The client's name.
        client: String,
    },
}

/// The requested state of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnOff {
    /// Closed except for grants
    On,
    /// Open to everyone
    Off,
}

/// An active grant in a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GrantLine {
    /// Its number.
    pub(crate) grant: String,
    /// The client that holds it.
    pub(crate) client: String,
    /// The action that created it.
    pub(crate) action: String,
    /// The addresses that it is for.
    pub(crate) from: String,
    /// The ports that it opens.
    pub(crate) opens: String,
    /// The time left, in seconds.
    pub(crate) seconds: u64,
}

/// The daemon's response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub(crate) enum Response {
    /// The request was carried out.
    Done,
    /// The request was carried out, with an exception.
    DoneBut {
        /// The exception, as text.
        remark: String,
    },
    /// The requested number.
    Count {
        /// The number.
        count: u64,
    },
    /// Only knocks with a later timestamp are accepted.
    Floor {
        /// The timestamp in milliseconds.
        ms: u64,
    },
    /// The active grants.
    Grants {
        /// One entry per grant and client.
        grants: Vec<GrantLine>,
    },
    /// The daemon's status.
    Status {
        /// The status.
        status: Box<DaemonStatus>,
    },
    /// An address was let in.
    LetIn {
        /// The ports that are open to it; empty if no port is closed.
        ports: Vec<String>,
    },
    /// Clients were dropped.
    Dropped {
        /// Their names; empty if the client is unknown.
        clients: Vec<String>,
        /// The fingerprints of all their keys.
        fingerprints: Vec<String>,
        /// The number of revoked grants.
        closed: u64,
        /// The parts that failed, as text.
        remarks: Vec<String>,
    },
    /// The request was not carried out.
    Failed {
        /// The reason, as text.
        reason: String,
    },
}
