//! Runs the cases that were recorded with Debian's knockd, with our fixes, and compares the matcher with a naive one.

#[path = "../../../../tests/knockd/cases.rs"]
#[allow(dead_code, reason = "the end-to-end tests use more of it")]
mod cases;
mod naive;

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;
use crate::legacy::knockd::{Config, FlagTest, OneTimeList};
use cases::{Case, outcome_event};
use naive::Naive;
use spa_knock_core::knock::Protocol;

/// Base of all times, in milliseconds; a whole second.
const BEGIN: u64 = 1_795_000_000_000;
const A: &str = "[a]\nsequence=7000,8000,9000\ntcpflags=syn\nseq_timeout=5\n";
const ADDRESSES: [&str; 3] = ["10.77.0.1", "10.77.0.100", "fd77::1"];

fn doors(config: &str) -> Vec<Door> {
    Config::read(config.as_bytes()).unwrap().doors
}

fn matcher(config: &str) -> Matcher {
    let mut matcher = Matcher::new(doors(config));
    matcher.set_addresses(ADDRESSES.map(|address| address.parse().unwrap()));
    matcher
}

/// The events after these packets, which arrive 10 ms apart.
fn outcome(case: &Case) -> String {
    let mut matcher = matcher(&case.config);
    let names: Vec<String> = matcher.doors().iter().map(|door| door.name.clone()).collect();
    let events = RefCell::new(Vec::new());
    let mut emit = |event: MatchEvent| {
        let text = match event.step {
            MatchStage::Stage(stage) => format!("S{stage}"),
            MatchStage::Open => "OPEN".to_owned(),
            MatchStage::Timeout(stage) => format!("timeout{stage}"),
        };
        let door = (names.len() > 1).then(|| names[event.door].as_str());
        events.borrow_mut().push(outcome_event(&event.source.to_string(), door, &text));
    };
    let (mut ms, mut gap) = (BEGIN + case.start.unwrap_or(0), 0);
    for step in &case.steps {
        match step {
            cases::Step::Pause(pause) => {
                ms += u64::try_from(pause.as_millis()).unwrap();
                gap = 0;
                while let Some(due) = matcher.next_due().filter(|due| *due <= Timestamp::from_millis(ms)) {
                    matcher.expire(due, &mut emit);
                }
            }
            cases::Step::Look => events.borrow_mut().push("|".to_owned()),
            cases::Step::Packet(sent) => {
                ms += std::mem::replace(&mut gap, 10);
                let packet = of(sent, Timestamp::from_millis(ms));
                // The watcher drops these before the matcher.
                let unseen = sent.form == "later" || case.options == "-4" && packet.source.is_ipv6();
                if !unseen {
                    matcher.take(&packet, &mut emit);
                }
            }
        }
    }
    events.into_inner().join(" ")
}

fn of(sent: &cases::Sent, time: Timestamp) -> LegacyPacket {
    let protocol = if sent.udp { Protocol::Udp } else { Protocol::Tcp };
    LegacyPacket {
        time,
        source: sent.source,
        destination: sent.destination,
        knock: SequencePort { protocol, port: sent.port },
        flags: TcpFlags::of(sent.flags),
    }
}

fn packet(notation: &str, time: Timestamp) -> LegacyPacket {
    of(&cases::packet(notation), time)
}

#[test]
fn recorded_cases_end_as_with_knockd_or_as_fixed() {
    let cases = cases::cases();
    assert!(cases.len() > 50, "{}", cases.len());
    for case in cases {
        assert_eq!(outcome(&case), case.outcome, "{}", case.title);
    }
}

#[test]
fn timeouts_ignore_the_fraction_of_the_second_of_the_first_packet() {
    for (timeout, start, packets, expected) in [
        (1, 880, "7000 +0.12 8000 +0.12 9000", "S1 timeout1"),
        (1, 0, "7000 +0.4 8000 +0.4 9000", "S1 S2 S3 OPEN"),
        (2, 990, "7000 +0.98 8000 9000", "S1 S2 S3 OPEN"),
        (2, 990, "7000 8000 +1.1", "S1 S2 timeout2"),
    ] {
        let text = format!("seconds\ndoor: seq_timeout={timeout}\nstart: {start}\npackets: {packets}");
        assert_eq!(outcome(&Case::read(&text)), expected, "{timeout} {packets}");
    }
}

#[test]
fn each_attempt_expires_after_the_timeout_of_its_door() {
    let mut matcher = matcher("[a]\nsequence=1,2\ntimeout=9\n[b]\nsequence=1,3\ntimeout=2\n");
    assert_eq!(matcher.next_due(), None);
    matcher.take(&packet("1", Timestamp::from_millis(BEGIN + 999)), &mut |_| ());
    let mut events = Vec::new();
    for (due, door) in [(2_000, 1), (9_000, 0)] {
        assert_eq!(matcher.next_due(), Some(Timestamp::from_millis(BEGIN + due)));
        matcher.expire(Timestamp::from_millis(BEGIN + due - 1), &mut |event| events.push(event));
        assert!(events.is_empty());
        matcher.expire(Timestamp::from_millis(BEGIN + due), &mut |event| events.push(event));
        let event = events.pop().unwrap();
        assert_eq!((event.door, event.step, events.len()), (door, MatchStage::Timeout(1), 0));
    }
    assert_eq!(matcher.next_due(), None);
}

#[test]
fn the_last_one_time_sequence_disables_only_its_own_door() {
    let mut matcher = matcher("[once]\none_time_sequences=/x\n[a]\nsequence=1,2\n");
    let mut list = OneTimeList::read(b" 5,6\n 7,8\n");
    matcher.set_sequence(0, list.current().cloned());
    let knock = |matcher: &mut Matcher, packets: &str| -> Vec<usize> {
        let mut opened: Vec<usize> = Vec::new();
        for notation in packets.split(' ') {
            matcher.take(&packet(notation, Timestamp::from_millis(BEGIN)), &mut |event| {
                opened.extend((event.step == MatchStage::Open).then_some(event.door));
            });
        }
        opened
    };
    for good in ["5 6", "7 8"] {
        assert_eq!(knock(&mut matcher, good), [0]);
        assert!(knock(&mut matcher, good).is_empty(), "it is invalid immediately");
        list = OneTimeList::read(&list.used().unwrap());
        matcher.set_sequence(0, list.current().cloned());
        assert!(knock(&mut matcher, good).is_empty(), "and remains invalid");
    }
    assert_eq!(list.current(), None);
    assert_eq!(knock(&mut matcher, "1 2"), [1]);
}

#[test]
fn a_new_sequence_discards_attempts_at_the_old_one() {
    let mut matcher = matcher("[once]\none_time_sequences=/x\n");
    matcher.set_sequence(0, KnockSequence::read(b"1,2").ok());
    matcher.take(&packet("1", Timestamp::from_millis(BEGIN)), &mut |_| ());
    matcher.set_sequence(0, KnockSequence::read(b"3,2").ok());
    matcher.take(&packet("2", Timestamp::from_millis(BEGIN)), &mut |event| panic!("{event:?}"));
}

#[test]
fn a_flood_of_first_knocks_locks_no_one_out_and_takes_bounded_memory() {
    let mut matcher = matcher(A);
    let mut opened = 0;
    let mut emit = |event: MatchEvent| opened += usize::from(event.step == MatchStage::Open);
    let mut flooder = 0x0C00_0000_u32;
    // 20,000 packets a second. A real sequence with pauses of 0.5 s starts every 1.5 s.
    for ms in 0..9_000_u64 {
        let time = Timestamp::from_millis(BEGIN + ms);
        for _ in 0..20 {
            flooder += 1;
            let source = IpAddr::V4(flooder.into());
            matcher.take(&LegacyPacket { source, ..packet("7000", time) }, &mut emit);
        }
        let knock = ["7000", "8000", "9000"].get((ms / 500 % 3) as usize).unwrap();
        if ms % 500 == 250 {
            matcher.take(&packet(knock, time), &mut emit);
        }
        assert!(matcher.attempts.count() <= ATTEMPTS_MAX);
    }
    assert_eq!(opened, 6);
}

#[test]
fn the_cost_of_a_packet_does_not_grow_with_the_number_of_doors() {
    let config = |doors: u16| {
        (0..doors)
            .map(|n| {
                let port = 10_000 + n * 3;
                format!("[d{n}]\nsequence={port},{},{}\ntcpflags=syn\n", port + 1, port + 2)
            })
            .collect::<String>()
    };
    // Counts the doors that are looked at instead of measuring time.
    let matcher = matcher(&config(800));
    let first_of = matcher.index.find(&matcher.doors, &packet("10000", Timestamp::default()), true);
    assert_eq!(first_of, Some([0].as_slice()));
    let one = "[d0]\nsequence=1,2,3\n".repeat(800);
    assert_eq!(Matcher::new(doors(&one)).index.conditions_at(packet("1", Timestamp::default()).knock), 1);
}

fn some_door() -> impl Strategy<Value = Door> {
    let knock = (1_u16..5, any::<bool>())
        .prop_map(|(port, udp)| if udp { format!("{port}:udp") } else { port.to_string() });
    let sequence = proptest::collection::vec(knock, 1..4).prop_map(|knocks| knocks.join(","));
    let flags = prop_oneof![Just(None), Just(Some("syn")), Just(Some("syn,!ack")), Just(Some("!fin"))];
    let target = prop_oneof![3 => Just(None), 1 => Just(Some("10.77.0.1")), 1 => Just(Some("10.99.0.5"))];
    let sources = prop_oneof![3 => Just(vec![]), 1 => Just(vec!["10.77.0.2/31".parse().unwrap()])];
    (sequence, flags, target, sources, -1..4_i32, any::<bool>()).prop_map(
        |(sequence, flags, target, sources, sequence_timeout, allow_duplicates)| Door {
            sequence: KnockSequence::read(sequence.as_bytes()).ok(),
            flags: flags
                .map_or(FlagTest::default(), |text| FlagTest::default().with(text.as_bytes()).unwrap()),
            target: target.and_then(crate::legacy::knockd::door::DoorTarget::read),
            sources,
            sequence_timeout,
            allow_duplicates,
            ..Door::new("d".to_owned())
        },
    )
}

fn some_packet() -> impl Strategy<Value = (u64, LegacyPacket)> {
    let step = prop_oneof![4 => Just(1_u64), 2 => Just(300), 1 => Just(1_000), 1 => Just(2_500)];
    let source = prop_oneof![Just([10, 77, 0, 2]), Just([10, 77, 0, 3]), Just([10, 77, 0, 9])];
    let destination =
        prop_oneof![4 => Just([10, 77, 0, 1]), 2 => Just([10, 77, 0, 100]), 1 => Just([10, 99, 0, 5])];
    let flags = prop_oneof![3 => Just(0x02_u8), 1 => Just(0x12), 1 => Just(0x10), 1 => Just(0x01)];
    (step, source, destination, 1_u16..6, any::<bool>(), flags).prop_map(
        |(step, source, destination, port, udp, flags)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let knock = SequencePort { protocol, port };
            let packet = LegacyPacket {
                time: Timestamp::default(),
                source: source.into(),
                destination: destination.into(),
                knock,
                flags: TcpFlags::of(flags),
            };
            (step, packet)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn the_matcher_agrees_with_a_naive_matcher(
        doors in proptest::collection::vec(some_door(), 1..5),
        packets in proptest::collection::vec(some_packet(), 0..60),
    ) {
        let locals: Vec<IpAddr> = ADDRESSES.map(|address| address.parse().unwrap()).to_vec();
        let mut naive = Naive::new(doors.clone(), locals.clone());
        let mut matcher = Matcher::new(doors);
        matcher.set_addresses(locals);
        let mut ms = BEGIN;
        for (step, packet) in packets {
            ms += step;
            let packet = LegacyPacket { time: Timestamp::from_millis(ms), ..packet };
            let mut events = Vec::new();
            matcher.take(&packet, &mut |event| events.push(event));
            prop_assert_eq!(events, naive.take(&packet));
            prop_assert_eq!(matcher.attempts.count(), naive.attempts());
            prop_assert!(matcher.next_due().is_some() || naive.attempts() == 0);
        }
    }
}
