//! What root asks the daemon, and what it answers: one line of JSON each.

use serde::{Deserialize, Serialize};

use super::status::DaemonStatus;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Take up config, clients and keys anew.
    Reload {},
    /// Whether a reload would work now. Changes nothing.
    CheckReload {},
    /// Close the gate, for good or until this time has passed without a knock that worked; or open it.
    Gate {
        /// Which of the two.
        to: OnOff,
        /// For how many milliseconds it is on trial.
        trial_ms: Option<u64>,
        /// Whose knocks alone confirm a trial; none = those of any client.
        by: Option<String>,
    },
    /// The live grants.
    Grants {},
    /// End grants before their time.
    Revoke {
        /// Which; without a number, all of them.
        grant: Option<String>,
    },
    /// Refuse a client from now on, and close its grants.
    DropClient {
        /// Its name, or the fingerprint of one of its keys.
        client: String,
    },
    /// Let an address in from the console.
    LetIn {
        /// Which.
        address: String,
        /// To which ports; without any, all that are protected.
        ports: Vec<String>,
        /// For how long.
        seconds: u64,
    },
    /// The state of the daemon.
    Status {},
    /// How often a client has knocked with its previous key.
    PreviousUses {
        /// The client.
        client: String,
    },
}

/// What becomes of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnOff {
    /// Closed but for grants
    On,
    /// Open to all
    Off,
}

/// A live grant, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GrantLine {
    /// What names it.
    pub(crate) grant: String,
    /// Whose it is.
    pub(crate) client: String,
    /// By which action.
    pub(crate) action: String,
    /// For which addresses.
    pub(crate) from: String,
    /// What is open.
    pub(crate) opens: String,
    /// For how many seconds it still is.
    pub(crate) seconds: u64,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub(crate) enum Response {
    /// It is done.
    Done,
    /// It is done, with something to add for people.
    DoneBut {
        /// What does not hold.
        remark: String,
    },
    /// A number that was asked for.
    Count {
        /// The number.
        count: u64,
    },
    /// The live grants.
    Grants {
        /// Each, once for each who holds it.
        grants: Vec<GrantLine>,
    },
    /// The state of the daemon.
    Status {
        /// All of it.
        status: Box<DaemonStatus>,
    },
    /// An address is let in.
    LetIn {
        /// To these ports; none where nothing is closed.
        ports: Vec<String>,
    },
    /// Clients that were dropped.
    Dropped {
        /// Their names; none where none is known.
        clients: Vec<String>,
        /// Those of all their keys.
        fingerprints: Vec<String>,
        /// How many grants were closed.
        closed: u64,
        /// What of it could not be done.
        remarks: Vec<String>,
    },
    /// It is not done.
    Failed {
        /// Why, for people.
        reason: String,
    },
}
