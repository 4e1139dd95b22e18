//! What a running daemon says of itself: one object, from which the text for people, `--json` and the metrics are made.
//! Numbers and names of the config alone, and addresses that opened doors; nothing that strangers wrote.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The state of a daemon. Times are in seconds; counters count since its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DaemonStatus {
    /// Of the program.
    pub(crate) version: String,
    /// What knocks are bound to.
    pub(crate) server: String,
    /// The keeper's process.
    pub(crate) pid: u32,
    /// Since its start.
    pub(crate) uptime: u64,
    /// Whether protected ports are closed.
    pub(crate) gate: GateStatus,
    /// Where knocks are seen.
    pub(crate) capture: CaptureState,
    /// The process that sees them.
    pub(crate) watcher: WatcherState,
    /// How many clients may knock.
    pub(crate) clients: usize,
    /// How many actions there are.
    pub(crate) actions: usize,
    /// How many grants are live; `spa-knockd grants` lists them.
    pub(crate) grants: usize,
    /// The commands of actions.
    pub(crate) commands: CommandsState,
    /// The audit log; missing where there is none.
    #[serde(default)]
    pub(crate) audit: Option<AuditState>,
    /// The daemon's log.
    #[serde(default)]
    pub(crate) log: LogState,
    /// How many commands wait for their time to undo something.
    pub(crate) pending_undo: usize,
    /// Datagrams of a knock's length, by what the watcher did with them.
    pub(crate) datagrams: Datagrams,
    /// Knocking by ports; missing where it is off.
    #[serde(default)]
    pub(crate) ports: Option<PortsState>,
    /// Plain sequences; missing where they are off.
    #[serde(default)]
    pub(crate) legacy: Option<LegacyState>,
    /// Authentic knocks and what they led to, by how they ended.
    pub(crate) knocks: Vec<KnockCount>,
    /// Clients that sent more knocks than their limit allows.
    #[serde(default)]
    pub(crate) throttled: Vec<ThrottledClient>,
    /// Clients that have knocked with the key before their present one.
    pub(crate) previous_keys: Vec<PreviousKeyUse>,
}

/// Whether the protected ports are closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GateStatus {
    /// Which of the three.
    pub(crate) state: GateMode,
    /// Of a trial: until the gate is off again.
    pub(crate) seconds_left: Option<u64>,
    /// What only a grant opens.
    pub(crate) protect: Vec<String>,
    /// In mode `mark`: the mark of packets that a grant lets in. The admin's rules close the ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mark: Option<String>,
}

/// The gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GateMode {
    /// Closed but for grants.
    On,
    /// Open to all.
    Off,
    /// Closed, and off again unless it is confirmed.
    Trial,
}

/// Where knocks are seen, and what was missed there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaptureState {
    /// `pcap` or `udp`.
    pub(crate) kind: String,
    /// The knock port.
    pub(crate) port: u16,
    /// Names, or `any`.
    pub(crate) interfaces: Vec<String>,
    /// Those of them that are not there, or down. They are waited for.
    #[serde(default)]
    pub(crate) missing: Vec<String>,
    /// Whether knocks can be replied to: not while another process has the knock port.
    pub(crate) replies: bool,
    /// Frames; missing where a socket cannot tell.
    pub(crate) frames: Option<Frames>,
}

/// Frames that libpcap has had for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frames {
    /// That passed the kernel's filter, those that were missed too.
    pub(crate) received: u64,
    /// Missed, as the watcher was too slow.
    pub(crate) dropped: u64,
    /// Missed by the interface.
    pub(crate) if_dropped: u64,
}

/// The process that sees knocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WatcherState {
    /// Since it was started; missing while restarting.
    pub(crate) uptime: Option<u64>,
    /// Since its last report; missing like that.
    pub(crate) report_age: Option<u64>,
    /// How often it had to be replaced.
    pub(crate) restarts: u64,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct AuditState {
    /// Records that are not written yet.
    pub(crate) waiting: usize,
    /// Records that are lost.
    pub(crate) lost: u64,
    /// Why they cannot be written, while that is so.
    pub(crate) error: Option<String>,
}

/// The daemon's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct LogState {
    /// Lines that are lost as standard error was not read.
    pub(crate) lost: u64,
}

/// The commands of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommandsState {
    /// That run now.
    pub(crate) running: usize,
    /// That wait for their turn.
    pub(crate) waiting: usize,
}

/// Datagrams of a knock's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Datagrams {
    /// Signed by a client, and passed on.
    pub(crate) authentic: u64,
    /// Of nobody.
    pub(crate) unknown_hint: u64,
    /// Not signed by whom they named.
    pub(crate) forged: u64,
    /// One copy too many.
    pub(crate) duplicates: u64,
    /// Of another length after all.
    pub(crate) bad_length: u64,
    /// Signed, but over the limit of the key, port sequences included.
    #[serde(default)]
    pub(crate) throttled: u64,
}

/// Packets without a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortsState {
    /// The first and the last port that they are looked for at.
    pub(crate) range: String,
    /// That came there.
    pub(crate) hits: u64,
    /// Of which a client's first two ports were among an address' ports, and so were looked at.
    pub(crate) sequences: u64,
}

/// Plain sequences, and who still opens doors by them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LegacyState {
    /// How many doors there are.
    pub(crate) doors: usize,
    /// How often one was opened.
    pub(crate) opened: u64,
    /// From how many addresses in the last 24 hours, or since the start.
    pub(crate) addresses: usize,
    /// The busiest of these.
    pub(crate) users: Vec<LegacyUser>,
    /// How often one was opened in that time from addresses that there was no room for.
    pub(crate) other_openings: u64,
}

/// Who opens doors by plain sequences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LegacyUser {
    /// The source; maybe a made-up one.
    pub(crate) address: IpAddr,
    /// How often in the last 24 hours, or since the start.
    pub(crate) opened: u64,
}

/// How often knocks have ended in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnockCount {
    /// The audit log's word, or `resent`.
    pub(crate) event: String,
    /// Why it was refused; empty for the others.
    pub(crate) reason: String,
    /// How often.
    pub(crate) count: u64,
}

/// A client that sent more knocks than its limit allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ThrottledClient {
    /// Its name.
    pub(crate) client: String,
    /// How many of its knocks were dropped.
    pub(crate) count: u64,
}

/// A client that still uses a previous key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PreviousKeyUse {
    /// Its name.
    pub(crate) client: String,
    /// How often it has knocked with it.
    pub(crate) uses: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A daemon that has seen something of everything.
    pub(crate) fn example() -> DaemonStatus {
        let ended = |event: &str, reason: &str, count| KnockCount {
            event: event.to_owned(),
            reason: reason.to_owned(),
            count,
        };
        DaemonStatus {
            version: "0.1.0".to_owned(),
            server: "bastion.test".to_owned(),
            pid: 4711,
            uptime: 93_784,
            gate: GateStatus {
                state: GateMode::On,
                seconds_left: None,
                protect: vec!["tcp/22".to_owned()],
                mark: None,
            },
            capture: CaptureState {
                kind: "pcap".to_owned(),
                port: 62201,
                interfaces: vec!["lan0".to_owned(), "wg0".to_owned()],
                missing: Vec::new(),
                replies: true,
                frames: Some(Frames { received: 1_207, dropped: 0, if_dropped: 2 }),
            },
            watcher: WatcherState { uptime: Some(3_600), report_age: Some(0), restarts: 1 },
            clients: 3,
            actions: 2,
            grants: 1,
            commands: CommandsState { running: 1, waiting: 0 },
            audit: Some(AuditState { waiting: 0, lost: 3, error: None }),
            log: LogState { lost: 2 },
            pending_undo: 4,
            datagrams: Datagrams {
                authentic: 7,
                unknown_hint: 1_200,
                forged: 3,
                duplicates: 1,
                bad_length: 0,
                throttled: 8,
            },
            ports: Some(PortsState { range: "20480-28671".to_owned(), hits: 24, sequences: 1 }),
            legacy: Some(LegacyState {
                doors: 2,
                opened: 9,
                addresses: 2,
                users: vec![
                    LegacyUser { address: "10.0.0.1".parse().unwrap(), opened: 5 },
                    LegacyUser { address: "fd00::2".parse().unwrap(), opened: 1 },
                ],
                other_openings: 0,
            }),
            knocks: vec![
                ended("granted", "", 4),
                ended("done", "", 0),
                ended("stale", "stale", 1),
                ended("refused", "not-allowed", 2),
                ended("refused", "expired", 1),
            ],
            throttled: vec![ThrottledClient { client: "ci".to_owned(), count: 8 }],
            previous_keys: vec![PreviousKeyUse { client: "phone".to_owned(), uses: 2 }],
        }
    }

    #[test]
    fn what_is_said_in_json_is_read_again() {
        let status = example();
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.starts_with(r#"{"version":"0.1.0","server":"bastion.test","pid":4711,"uptime":93784,"#));
        assert!(text.contains(r#""gate":{"state":"on","seconds_left":null,"protect":["tcp/22"]}"#), "{text}");
        assert_eq!(serde_json::from_str::<DaemonStatus>(&text).unwrap(), status);
    }
}
