//! The status of a running daemon: one object, from which the text, `--json` and the metrics are made. It contains
//! numbers, names from the config and addresses that opened knockd doors; nothing that an unauthenticated sender wrote.

mod fleet;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

#[cfg(any(test, feature = "fleet"))]
pub(crate) use fleet::{ClaimCount, ClaimTimes};
pub(crate) use fleet::{FleetEndpoint, FleetMemberState, FleetState};

/// The status of a daemon. Times are in seconds; counters start at 0 when the daemon starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DaemonStatus {
    /// The program's version.
    pub(crate) version: String,
    /// The server id.
    pub(crate) server: String,
    /// The keeper's process id.
    pub(crate) pid: u32,
    /// The time since its start.
    pub(crate) uptime: u64,
    /// The gate.
    pub(crate) gate: GateStatus,
    /// The capture.
    pub(crate) capture: CaptureState,
    /// The watcher process.
    pub(crate) watcher: WatcherState,
    /// What health checks get: `ok`, or the reason why not. `None` if they are not served.
    pub(crate) health: Option<String>,
    /// The number of clients that may knock.
    pub(crate) clients: usize,
    /// The number of actions.
    pub(crate) actions: usize,
    /// The number of active grants; `spa-knockd grants` lists them.
    pub(crate) grants: usize,
    /// The commands of actions.
    pub(crate) commands: CommandsState,
    /// The audit log; `None` if it is off.
    pub(crate) audit: Option<AuditState>,
    /// The daemon's log.
    #[serde(default)]
    pub(crate) log: LogState,
    /// The length of the undo queue.
    pub(crate) pending_undo: usize,
    /// Datagrams of a knock's length, by the watcher's verdict.
    pub(crate) datagrams: Datagrams,
    /// Port sequences; `None` if they are off.
    pub(crate) ports: Option<PortsState>,
    /// knockd's knock sequences; `None` if they are off.
    pub(crate) legacy: Option<LegacyState>,
    /// fwknop's packets; none if not configured.
    pub(crate) fwknop: Option<FwknopState>,
    /// The fleet and its store; none if not configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fleet: Option<FleetState>,
    /// Authentic knocks, by outcome.
    pub(crate) knocks: Vec<KnockCount>,
    /// Clients that sent more knocks than their limit allows.
    #[serde(default)]
    pub(crate) throttled: Vec<ThrottledClient>,
    /// Clients whose knocks were refused for their SSH signature.
    #[serde(default)]
    pub(crate) signatures: Vec<RefusedSignatures>,
    /// Clients that have knocked with their previous key.
    pub(crate) previous_keys: Vec<PreviousKeyUse>,
}

/// The state of the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GateStatus {
    /// On, off or on trial.
    pub(crate) state: GateMode,
    /// During a trial: the time until the gate turns off.
    pub(crate) seconds_left: Option<u64>,
    /// The protected ports.
    pub(crate) protect: Vec<String>,
    /// In mode `mark`: the mark of packets that a grant lets in. The administrator's rules close the ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mark: Option<String>,
}

/// Whether the gate is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GateMode {
    /// Closed except for grants.
    On,
    /// Open to everyone.
    Off,
    /// Closed until the trial ends, unless it is confirmed.
    Trial,
}

/// Where knocks are captured, and how many frames were missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaptureState {
    /// `pcap` or `udp`.
    pub(crate) kind: String,
    /// The knock port.
    pub(crate) port: u16,
    /// Interface names, or `any`.
    pub(crate) interfaces: Vec<String>,
    /// Interfaces that do not exist or are down. The watcher waits for them.
    #[serde(default)]
    pub(crate) missing: Vec<String>,
    /// Whether replies can be sent: not while another process uses the knock port.
    pub(crate) replies: bool,
    /// Frame counters; `None` if the socket does not count frames.
    pub(crate) frames: Option<Frames>,
    /// Whether the kernel drops datagrams without a live hint; `None` if it cannot, with libpcap.
    #[serde(default)]
    pub(crate) hint_filter: Option<bool>,
}

/// libpcap's frame counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frames {
    /// Frames that passed the kernel's filter, including missed ones.
    pub(crate) received: u64,
    /// Frames missed because the watcher was too slow.
    pub(crate) dropped: u64,
    /// Frames missed by the interface.
    pub(crate) if_dropped: u64,
}

/// The watcher process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WatcherState {
    /// The time since its start; `None` while it restarts.
    pub(crate) uptime: Option<u64>,
    /// The time since its last report; `None` while it restarts.
    pub(crate) report_age: Option<u64>,
    /// How often it was replaced.
    pub(crate) restarts: u64,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct AuditState {
    /// The number of records not written yet.
    pub(crate) waiting: usize,
    /// The number of lost records.
    pub(crate) lost: u64,
    /// Why records cannot be written at present.
    pub(crate) error: Option<String>,
}

/// The daemon's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct LogState {
    /// The number of lines lost because standard error was not read.
    pub(crate) lost: u64,
}

/// The commands of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommandsState {
    /// Commands that are running.
    pub(crate) running: usize,
    /// Commands that are waiting to run.
    pub(crate) waiting: usize,
}

/// Datagrams of a knock's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Datagrams {
    /// Signed by a client, and passed to the keeper.
    pub(crate) authentic: u64,
    /// With a hint of no client.
    pub(crate) unknown_hint: u64,
    /// With a client's hint, but without its tag.
    pub(crate) forged: u64,
    /// Duplicates beyond the limit.
    pub(crate) duplicates: u64,
    /// Of another length.
    pub(crate) bad_length: u64,
    /// Signed, but over the key's rate limit, including port sequences.
    #[serde(default)]
    pub(crate) throttled: u64,
}

/// Port hits and port sequences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortsState {
    /// The first and the last port of the knock range.
    pub(crate) range: String,
    /// The number of port hits.
    pub(crate) hits: u64,
    /// The number of sequences checked because an address hit a client's first two ports.
    pub(crate) sequences: u64,
}

/// knockd's knock sequences, and who still uses them to open doors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LegacyState {
    /// The number of doors in knockd.conf.
    pub(crate) doors: usize,
    /// How often a knockd door was opened.
    pub(crate) opened: u64,
    /// The number of addresses that opened one in the last 24 hours, or since the start.
    pub(crate) addresses: usize,
    /// The busiest of these addresses.
    pub(crate) users: Vec<LegacyUser>,
    /// How often knockd doors were opened in that time from addresses beyond the limit of the list.
    pub(crate) other_openings: u64,
}

/// fwknop's packets, and who still sends them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FwknopState {
    /// The number of stanzas in access.conf.
    pub(crate) stanzas: usize,
    /// How many packets were accepted.
    pub(crate) accepted: u64,
    /// How many authentic packets were refused.
    pub(crate) refused: u64,
    /// The number of addresses that got access in the last 24 hours, or since the start.
    pub(crate) addresses: usize,
    /// The busiest of these addresses.
    pub(crate) users: Vec<LegacyUser>,
    /// How often access was given in that time to addresses beyond the limit of the list.
    pub(crate) other_openings: u64,
}

/// An address that opens knockd doors by knock sequences, or gets access by packets of fwknop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LegacyUser {
    /// The source address; it may be spoofed.
    pub(crate) address: IpAddr,
    /// How often in the last 24 hours, or since the start.
    pub(crate) opened: u64,
}

/// The number of knocks with one outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnockCount {
    /// The audit log's event, or `resent`.
    pub(crate) event: String,
    /// The reason code of a refusal; else empty.
    pub(crate) reason: String,
    /// The number of knocks.
    pub(crate) count: u64,
}

/// A client that sent more knocks than its limit allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ThrottledClient {
    /// The client's name.
    pub(crate) client: String,
    /// The number of its knocks that were dropped.
    pub(crate) count: u64,
}

/// A client with knocks that its SSH key did not sign, or that the server could not accept as signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedSignatures {
    /// The client's name.
    pub(crate) client: String,
    /// The number of refused knocks, including those that were dropped without verification.
    pub(crate) count: u64,
}

/// A client that still uses its previous key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PreviousKeyUse {
    /// The client's name.
    pub(crate) client: String,
    /// The number of its knocks with that key.
    pub(crate) uses: u64,
}

#[cfg(test)]
pub(crate) mod tests;
