use super::*;

/// A daemon status in which every field has a value.
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
            hint_filter: None,
        },
        watcher: WatcherState { uptime: Some(3_600), report_age: Some(0), restarts: 1 },
        health: Some("ok".to_owned()),
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
        fleet: Some(FleetState {
            name: "prod".to_owned(),
            member: "b1".to_owned(),
            problem: None,
            silent_ms: Some(240),
            endpoints: [None, None, Some("does not answer".to_owned())]
                .into_iter()
                .zip(1..)
                .map(|(problem, number)| FleetEndpoint {
                    url: format!("https://10.0.1.{number}:2379"),
                    problem,
                })
                .collect(),
            members: [("b1", 0, true), ("b2", -4_100, true), ("b3", 20, false)]
                .into_iter()
                .map(|(name, offset_ms, same_policy)| FleetMemberState {
                    name: name.to_owned(),
                    address: format!("{name}.test"),
                    version: "0.1.0".to_owned(),
                    offset_ms,
                    same_policy,
                })
                .collect(),
            revision: 118,
            waiting: 0,
            claims: [("won", 41), ("lost", 2), ("unknown", 0)]
                .into_iter()
                .map(|(result, count)| ClaimCount { result: result.to_owned(), count })
                .collect(),
            times: ClaimTimes {
                median_us: Some(2_349),
                buckets: vec![(2_500, 40), (1_000_000, 43)],
                count: 43,
                total_us: 110_000,
            },
            warnings: Vec::new(),
            left_out: Vec::new(),
        }),
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
        fwknop: Some(FwknopState {
            stanzas: 3,
            accepted: 6,
            refused: 1,
            addresses: 1,
            users: vec![LegacyUser { address: "10.0.0.3".parse().unwrap(), opened: 6 }],
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
        signatures: vec![RefusedSignatures { client: "laptop".to_owned(), count: 3 }],
        previous_keys: vec![PreviousKeyUse { client: "phone".to_owned(), uses: 2 }],
    }
}

#[test]
fn a_status_survives_json() {
    let status = example();
    let text = serde_json::to_string(&status).unwrap();
    assert!(text.starts_with(r#"{"version":"0.1.0","server":"bastion.test","pid":4711,"uptime":93784,"#));
    assert!(text.contains(r#""gate":{"state":"on","seconds_left":null,"protect":["tcp/22"]}"#), "{text}");
    assert_eq!(serde_json::from_str::<DaemonStatus>(&text).unwrap(), status);
}
