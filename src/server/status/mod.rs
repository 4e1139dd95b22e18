//! What a running daemon says of itself: one object, from which the text for people, `--json` and the metrics are made.
//! Numbers and names of the config alone, and addresses that opened doors; nothing that strangers wrote.

mod exposition;
mod show;
mod text;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub(super) use exposition::exposition;
pub(super) use show::{Form, show};

/// The state of a daemon. Times are in seconds; counters count since its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// Of the program.
    pub(super) version: String,
    /// What knocks are bound to.
    pub(super) server: String,
    /// The keeper's process.
    pub(super) pid: u32,
    /// Since its start.
    pub(super) uptime: u64,
    /// Whether protected ports are closed.
    pub(super) gate: GateState,
    /// Where knocks are seen.
    pub(super) capture: CaptureState,
    /// The process that sees them.
    pub(super) watcher: WatcherState,
    /// How many clients may knock.
    pub(super) clients: usize,
    /// How many actions there are.
    pub(super) actions: usize,
    /// How many grants are live; `spa-knockd grants` lists them.
    pub(super) grants: usize,
    /// The commands of actions.
    pub(super) commands: CommandsState,
    /// The audit log; missing where there is none.
    #[serde(default)]
    pub(super) audit: Option<AuditState>,
    /// The daemon's log.
    #[serde(default)]
    pub(super) log: LogState,
    /// How many commands wait for their time to undo something.
    pub(super) undoings: usize,
    /// Datagrams of a knock's length, by what the watcher did with them.
    pub(super) datagrams: Datagrams,
    /// Knocking by ports; missing where it is off.
    #[serde(default)]
    pub(super) ports: Option<PortsState>,
    /// Plain sequences; missing where they are off.
    #[serde(default)]
    pub(super) legacy: Option<LegacyState>,
    /// Authentic knocks and what they led to, by how they ended.
    pub(super) knocks: Vec<Ended>,
    /// Clients that sent more knocks than their limit allows.
    #[serde(default)]
    pub(super) throttled: Vec<ThrottledClient>,
    /// Clients that have knocked with the key before their present one.
    pub(super) previous_keys: Vec<PreviousKey>,
}

/// Whether the protected ports are closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GateState {
    /// Which of the three.
    pub(super) state: Gate,
    /// Of a trial: until the gate is off again.
    pub(super) seconds_left: Option<u64>,
    /// What only a grant opens.
    pub(super) protect: Vec<String>,
    /// In mode `mark`: the mark of packets that a grant lets in. The admin's rules close the ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<String>,
}

/// The gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Gate {
    /// Closed but for grants.
    On,
    /// Open to all.
    Off,
    /// Closed, and off again unless it is confirmed.
    Trial,
}

/// Where knocks are seen, and what was missed there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CaptureState {
    /// `pcap` or `udp`.
    pub(super) kind: String,
    /// The knock port.
    pub(super) port: u16,
    /// Names, or `any`.
    pub(super) interfaces: Vec<String>,
    /// Those of them that are not there, or down. They are waited for.
    #[serde(default)]
    pub(super) missing: Vec<String>,
    /// Whether knocks can be replied to: not while another process has the knock port.
    pub(super) replies: bool,
    /// Frames; missing where a socket cannot tell.
    pub(super) frames: Option<Frames>,
}

/// Frames that libpcap has had for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Frames {
    /// That passed the kernel's filter, those that were missed too.
    pub(super) received: u64,
    /// Missed, as the watcher was too slow.
    pub(super) dropped: u64,
    /// Missed by the interface.
    pub(super) if_dropped: u64,
}

/// The process that sees knocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WatcherState {
    /// Since it was started; missing while another one is on its way.
    pub(super) uptime: Option<u64>,
    /// Since its last report; missing like that.
    pub(super) report_age: Option<u64>,
    /// How often it had to be replaced.
    pub(super) restarts: u64,
}

/// The audit log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct AuditState {
    /// Records that are not written yet.
    pub(super) waiting: usize,
    /// Records that are lost.
    pub(super) lost: u64,
    /// Why they cannot be written, while that is so.
    pub(super) error: Option<String>,
}

/// The daemon's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct LogState {
    /// Lines that are lost as standard error was not read.
    pub(super) lost: u64,
}

/// The commands of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CommandsState {
    /// That run now.
    pub(super) running: usize,
    /// That wait for their turn.
    pub(super) waiting: usize,
}

/// Datagrams of a knock's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Datagrams {
    /// Signed by a client, and passed on.
    pub(super) authentic: u64,
    /// Of nobody.
    pub(super) unknown_hint: u64,
    /// Not signed by whom they named.
    pub(super) forged: u64,
    /// One copy too many.
    pub(super) copied: u64,
    /// Of another length after all.
    pub(super) length: u64,
    /// Signed, but over the limit of the key, port sequences included.
    #[serde(default)]
    pub(super) throttled: u64,
}

/// Packets without a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortsState {
    /// The first and the last port that they are looked for at.
    pub(super) band: String,
    /// That came there.
    pub(super) packets: u64,
    /// Of which a client's first two ports were among an address' ports, and so were looked at.
    pub(super) sequences: u64,
}

/// Plain sequences, and who still opens doors by them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LegacyState {
    /// How many doors there are.
    pub(super) doors: usize,
    /// How often one was opened.
    pub(super) opened: u64,
    /// From how many addresses in the last 24 hours, or since the start.
    pub(super) addresses: usize,
    /// The busiest of these.
    pub(super) users: Vec<LegacyUser>,
    /// How often one was opened in that time from addresses that there was no room for.
    pub(super) uncounted: u64,
}

/// Who opens doors by plain sequences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LegacyUser {
    /// The source; maybe a made-up one.
    pub(super) address: IpAddr,
    /// How often in the last 24 hours, or since the start.
    pub(super) opened: u64,
}

/// How often knocks have ended in one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// The audit log's word, or `resent`.
    pub(super) event: String,
    /// Why it was refused; empty for the others.
    pub(super) reason: String,
    /// How often.
    pub(super) count: u64,
}

/// A client that sent more knocks than its limit allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ThrottledClient {
    /// Its name.
    pub(super) client: String,
    /// How many of its knocks were dropped.
    pub(super) count: u64,
}

/// A client that still uses a previous key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PreviousKey {
    /// Its name.
    pub(super) client: String,
    /// How often it has knocked with it.
    pub(super) uses: u64,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A daemon that has seen something of everything.
    pub(in crate::server) fn example() -> Status {
        let ended = |event: &str, reason: &str, count| Ended {
            event: event.to_owned(),
            reason: reason.to_owned(),
            count,
        };
        Status {
            version: "0.1.0".to_owned(),
            server: "bastion.test".to_owned(),
            pid: 4711,
            uptime: 93_784,
            gate: GateState {
                state: Gate::On,
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
            undoings: 4,
            datagrams: Datagrams {
                authentic: 7,
                unknown_hint: 1_200,
                forged: 3,
                copied: 1,
                length: 0,
                throttled: 8,
            },
            ports: Some(PortsState { band: "20480-28671".to_owned(), packets: 24, sequences: 1 }),
            legacy: Some(LegacyState {
                doors: 2,
                opened: 9,
                addresses: 2,
                users: vec![
                    LegacyUser { address: "10.0.0.1".parse().unwrap(), opened: 5 },
                    LegacyUser { address: "fd00::2".parse().unwrap(), opened: 1 },
                ],
                uncounted: 0,
            }),
            knocks: vec![
                ended("granted", "", 4),
                ended("done", "", 0),
                ended("stale", "stale", 1),
                ended("refused", "not-allowed", 2),
                ended("refused", "expired", 1),
            ],
            throttled: vec![ThrottledClient { client: "ci".to_owned(), count: 8 }],
            previous_keys: vec![PreviousKey { client: "phone".to_owned(), uses: 2 }],
        }
    }

    #[test]
    fn what_is_said_in_json_is_read_again() {
        let status = example();
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.starts_with(r#"{"version":"0.1.0","server":"bastion.test","pid":4711,"uptime":93784,"#));
        assert!(text.contains(r#""gate":{"state":"on","seconds_left":null,"protect":["tcp/22"]}"#), "{text}");
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
