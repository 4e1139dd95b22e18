//! The cases of a real knockd as data, with what is mended; and a naive matcher beside the clever one.

mod naive;

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::knock::Protocol;
use crate::knockd::{Config, FlagTest, OneTimeList};
use naive::Naive;

/// Times are counted from here: a whole second.
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

/// What happens when these packets come, 10 ms apart: `PORT`, `PORTu` for UDP, `PORT(FLAGS)`, `SOURCE:PORT`,
/// `PORT>DESTINATION`, and `+SECONDS`, a pause in which the matcher is asked when it is due. Sources and destinations
/// are `.N` for 10.77.0.N, `6` for IPv6, or an address in brackets.
fn outcome(config: &str, start: u64, packets: &str) -> String {
    let mut matcher = matcher(config);
    let mut told = String::new();
    let names: Vec<String> = matcher.doors().iter().map(|door| door.name.clone()).collect();
    let mut tell = |event: Event| {
        let source = event.source.to_string();
        let source = source.strip_prefix("10.77.0").unwrap_or(&source);
        if !matches!(source, ".2" | "fd77::2") {
            write!(told, "{source}:").unwrap();
        }
        if names.len() > 1 {
            write!(told, "{}:", names[event.door]).unwrap();
        }
        match event.step {
            Step::Stage(stage) => write!(told, "S{stage} "),
            Step::Open => write!(told, "OPEN "),
            Step::Timeout(stage) => write!(told, "timeout{stage} "),
        }
        .unwrap();
    };
    let mut ms = BEGIN + start;
    for word in packets.split_whitespace() {
        if let Some(pause) = word.strip_prefix('+') {
            ms += (pause.parse::<f64>().unwrap() * 1_000.0) as u64;
            while let Some(due) = matcher.next_due().filter(|due| *due <= Timestamp::from_millis(ms)) {
                matcher.expire(due, &mut tell);
            }
            continue;
        }
        matcher.take(&packet(word, Timestamp::from_millis(ms)), &mut tell);
        ms += 10;
    }
    told.trim_end().to_owned()
}

fn packet(word: &str, time: Timestamp) -> Packet {
    let (source, rest) = match word.split_once(':').filter(|_| !word.starts_with('[')) {
        Some((source, rest)) => (source, rest),
        None => word.strip_prefix('[').and_then(|rest| rest.split_once("]:")).unwrap_or((".2", word)),
    };
    let default = if source == "6" { "6" } else { ".1" };
    let (rest, destination) = rest.split_once('>').unwrap_or((rest, default));
    let (port, flags) = rest.split_once('(').unwrap_or((rest, "S)"));
    let flags = flags.bytes().map(|flag| match flag {
        b'F' => 0x01,
        b'S' => 0x02,
        b'R' => 0x04,
        b'A' => 0x10,
        _ => 0,
    });
    let address = |text: &str, last: u8| match text.strip_prefix('.') {
        Some(number) => IpAddr::from([10, 77, 0, number.parse().unwrap()]),
        None if text == "6" => IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last)]),
        None => text.parse().unwrap(),
    };
    let (port, protocol) = port.strip_suffix('u').map_or((port, Protocol::Tcp), |port| (port, Protocol::Udp));
    Packet {
        time,
        source: address(source, 2),
        destination: address(destination, 1),
        knock: Knock { protocol, port: port.parse().unwrap() },
        flags: TcpFlags::of(flags.fold(0, |all, flag| all | flag)),
    }
}

#[test]
fn the_cases_of_a_real_knockd_end_as_they_do_there_or_mended() {
    let a = |more: &str| format!("{A}{more}");
    let scan = (6990..=9005).step_by(5).map(|port| port.to_string()).collect::<Vec<_>>().join(" ");
    let thirty_two = (1..=32).map(|port| port.to_string()).collect::<Vec<_>>();
    let stages = (1..=32).map(|stage| format!("S{stage} ")).collect::<String>();
    let b = "[b]\ntcpflags=syn\nseq_timeout=5\nsequence=";
    for (case, config, packets, expected) in [
        ("C01", a(""), "7000 8000 9000", "S1 S2 S3 OPEN"),
        ("C02", a(""), "7000 9000 7000 8000 9000", "S1 S1 S2 S3 OPEN"),
        ("C03", a(""), "7000 1234 8000 5555 9000", "S1 S2 S3 OPEN"),
        ("C04", a(""), "7000 7000 8000 9000", "S1"),
        ("first port three times", a(""), "7000 7000 7000", "S1 S1"),
        ("C06", a(""), "7000 8000 7000 8000 9000", "S1 S2"),
        ("retransmitted", a(""), "7000 7000 8000 8000 9000 9000", "S1"),
        ("C08 mended: told when it happens", a("timeout=2"), "7000 +3.2 8000", "S1 timeout1"),
        ("C09", a("timeout=2"), "7000 +2.2 8000 7000 8000 9000", "S1 timeout1 S1 S2 S3 OPEN"),
        ("C10", a("timeout=2"), "7000 +2.2 7000 8000 9000", "S1 timeout1 S1 S2 S3 OPEN"),
        ("C13", a("timeout=0"), "7000 8000 9000", "S1 timeout1"),
        ("negative timeout", a("timeout=-5"), "7000 8000 9000", "S1 timeout1"),
        ("C14", a("timeout=0\nsequence=7000"), "7000 7000", "S1 OPEN S1 OPEN"),
        ("C16", a("sequence=2222:udp,3333:tcp,4444:udp"), "2222u 3333 4444u", "S1 S2 S3 OPEN"),
        ("C18", a("sequence=2222:udp"), "2222u", "S1 OPEN"),
        ("C19", a(""), "7000 9000(A) 9000(FA) 7000(R) 8000 9000", "S1 S2 S3 OPEN"),
        ("C20", a(""), "7000(SA) 8000 9000", "S1 S2 S3 OPEN"),
        ("excluded flag", a("tcpflags=!ack"), "7000(SA) 8000 9000", ""),
        ("C22", "[a]\nsequence=7000,8000,9000".to_owned(), "7000(A) 8000(F) 9000()", "S1 S2 S3 OPEN"),
        ("C23", "[a]\nsequence=7000,8000,9000".to_owned(), "7000 7000(R) 8000 9000", "S1"),
        ("C25", a(&format!("{b}5000,6000")), "7000 5000 8000 9000", "a:S1"),
        (
            "C25, other flags",
            a("[b]\nsequence=5000,6000\ntcpflags=fin"),
            "7000 5000(F) 5000 8000 9000",
            "a:S1 a:S2 a:S3 a:OPEN",
        ),
        ("UDP of another door", a("[b]\nsequence=5000:udp,1\ntcpflags=fin"), "7000 5000u 8000 9000", "a:S1"),
        ("C27", a(&format!("{b}7000,8000,9500")), "7000 8000 9500", "a:S1 b:S1 a:S2 b:S2 b:S3 b:OPEN"),
        ("C28", a(&format!("{b}8000,9000")), "7000 8000 9000", "a:S1 a:S2 a:S3 a:OPEN"),
        (
            "C29 mended: the longer door, too",
            a(&format!("{b}7000,8000,9000,9100")),
            "7000 8000 9000 9100",
            "a:S1 b:S1 a:S2 b:S2 a:S3 a:OPEN b:S3 b:S4 b:OPEN",
        ),
        (
            "identical doors",
            a(&format!("{b}7000,8000,9000")),
            "7000 8000 9000",
            "a:S1 b:S1 a:S2 b:S2 a:S3 a:OPEN b:S3 b:OPEN",
        ),
        (
            "C31 mended: both",
            a(""),
            ".2:7000 .3:7000 .2:8000 .3:8000 .2:9000 .3:9000",
            "S1 .3:S1 S2 .3:S2 S3 OPEN .3:S3 .3:OPEN",
        ),
        (
            "C32",
            a(""),
            ".2:7000 .3:7000 .3:8000 .3:9000 .2:8000 .2:9000",
            "S1 .3:S1 .3:S2 .3:S3 .3:OPEN S2 S3 OPEN",
        ),
        (
            "C33 mended: the other opens",
            a(""),
            ".4:7000 .2:7000 .4:7000 .2:8000 .2:9000",
            ".4:S1 S1 S2 S3 OPEN",
        ),
        ("C35", a(""), "7000>.1 8000>.100 9000>.1", "S1 S2 S3 OPEN"),
        ("C36", a("target=10.77.0.100"), "7000 8000 9000 7000>.100 8000>.100 9000>.100", "S1 S2 S3 OPEN"),
        ("C37", a("target=10.99.0.5"), "7000>10.99.0.5 8000>10.99.0.5 9000>10.99.0.5", "S1 S2 S3 OPEN"),
        ("C39", a(""), "7000>10.99.0.5 8000>10.99.0.5 9000>10.99.0.5", ""),
        ("C40", a("sequence=2222:udp"), "2222u>.255", ""),
        ("C41, C42", a(""), "6:7000 6:8000 6:9000", "S1 S2 S3 OPEN"),
        ("C47", a("sequence=2222:udp,3333"), "6:2222u 6:3333", "S1 S2 OPEN"),
        ("IPv4 and IPv6 are two", a(""), "7000 6:8000 9000", "S1"),
        ("C53", a("sequence=7000"), "7000 7000 7000", "S1 OPEN S1 OPEN S1 OPEN"),
        ("C54", a(""), scan.as_str(), "S1 S2 S3 OPEN"),
        ("C55", a("sequence ="), "0", "S1 OPEN"),
        ("C57", a(&format!("{b}5000,6000")), "7000 5000 6000 5000 6000", "a:S1 b:S1 b:S2 b:OPEN"),
        ("C59", a("target=fd77::1"), "6:7000 6:8000 6:9000", "S1 S2 S3 OPEN"),
        ("C60", a("target=FD77:0::1"), "6:7000 6:8000 6:9000", ""),
        (
            "C62",
            a(&format!("sequence={}", thirty_two.join(","))),
            &thirty_two.join(" "),
            &format!("{stages}OPEN"),
        ),
        (
            "C66",
            a(""),
            "[203.0.113.77]:7000 [203.0.113.77]:8000 [203.0.113.77]:9000",
            "203.0.113.77:S1 203.0.113.77:S2 203.0.113.77:S3 203.0.113.77:OPEN",
        ),
        ("duplicates allowed", a("allowduplicates"), "7000 7000 8000 7000 8000 9000 9000", "S1 S2 S3 OPEN"),
        ("and wrong ports not", a("allowduplicates"), "7000 9000 8000 9000", "S1"),
        ("sources", a("source=10.77.0.0/30"), ".2:7000 .4:7000 .2:8000 .2:9000", "S1 S2 S3 OPEN"),
        (
            "a port for other sources",
            a(&format!("{b}5000,1\nsource=10.0.0.0/30")),
            "7000 5000 8000 9000",
            "a:S1 a:S2 a:S3 a:OPEN",
        ),
    ] {
        assert_eq!(outcome(&config, 0, packets), expected, "{case}");
    }
}

#[test]
fn seconds_are_whole_whatever_the_fraction_of_the_first_knock() {
    let config = format!("{A}timeout=1");
    // C11: 7000 at .88, 8000 at 1.00.
    assert_eq!(outcome(&config, 880, "7000 +0.11 8000 +0.11 9000"), "S1 timeout1");
    assert_eq!(outcome(&config, 0, "7000 +0.4 8000 +0.4 9000"), "S1 S2 S3 OPEN");
    let config = format!("{A}timeout=2");
    assert_eq!(outcome(&config, 990, "7000 +0.98 8000 9000"), "S1 S2 S3 OPEN");
    assert_eq!(outcome(&config, 990, "7000 8000 +1.1"), "S1 S2 timeout2");
}

#[test]
fn each_door_is_due_when_its_own_time_is_over() {
    let mut matcher = matcher("[a]\nsequence=1,2\ntimeout=9\n[b]\nsequence=1,3\ntimeout=2\n");
    assert_eq!(matcher.next_due(), None);
    matcher.take(&packet("1", Timestamp::from_millis(BEGIN + 999)), &mut |_| ());
    let mut told = Vec::new();
    for (due, door) in [(2_000, 1), (9_000, 0)] {
        assert_eq!(matcher.next_due(), Some(Timestamp::from_millis(BEGIN + due)));
        matcher.expire(Timestamp::from_millis(BEGIN + due - 1), &mut |event| told.push(event));
        assert!(told.is_empty());
        matcher.expire(Timestamp::from_millis(BEGIN + due), &mut |event| told.push(event));
        let event = told.pop().unwrap();
        assert_eq!((event.door, event.step, told.len()), (door, Step::Timeout(1), 0));
    }
    assert_eq!(matcher.next_due(), None);
}

#[test]
fn the_last_one_time_sequence_closes_its_own_door_alone() {
    let mut matcher = matcher("[once]\none_time_sequences=/x\n[a]\nsequence=1,2\n");
    let mut list = OneTimeList::read(b" 5,6\n 7,8\n");
    matcher.renew(0, list.current().cloned());
    let knock = |matcher: &mut Matcher, words: &str| -> Vec<usize> {
        let mut opened: Vec<usize> = Vec::new();
        for word in words.split(' ') {
            matcher.take(&packet(word, Timestamp::from_millis(BEGIN)), &mut |event| {
                opened.extend((event.step == Step::Open).then_some(event.door));
            });
        }
        opened
    };
    for good in ["5 6", "7 8"] {
        assert_eq!(knock(&mut matcher, good), [0]);
        assert!(knock(&mut matcher, good).is_empty(), "it is over at once");
        list = OneTimeList::read(&list.used().unwrap());
        matcher.renew(0, list.current().cloned());
        assert!(knock(&mut matcher, good).is_empty(), "and stays so");
    }
    assert_eq!(list.current(), None);
    assert_eq!(knock(&mut matcher, "1 2"), [1]);
}

#[test]
fn a_new_sequence_ends_what_was_on_the_way_through_the_old_one() {
    let mut matcher = matcher("[once]\none_time_sequences=/x\n");
    matcher.renew(0, Sequence::read(b"1,2").ok());
    matcher.take(&packet("1", Timestamp::from_millis(BEGIN)), &mut |_| ());
    matcher.renew(0, Sequence::read(b"3,2").ok());
    matcher.take(&packet("2", Timestamp::from_millis(BEGIN)), &mut |event| panic!("{event:?}"));
}

#[test]
fn a_flood_of_first_knocks_keeps_nobody_out_and_takes_bounded_room() {
    let mut matcher = matcher(A);
    let mut opened = 0;
    let mut tell = |event: Event| opened += usize::from(event.step == Step::Open);
    let mut stranger = 0x0C00_0000_u32;
    // 20,000 a second; a knock with pauses of half a second begins every 1.5 s.
    for ms in 0..9_000_u64 {
        let time = Timestamp::from_millis(BEGIN + ms);
        for _ in 0..20 {
            stranger += 1;
            let source = IpAddr::V4(stranger.into());
            matcher.take(&Packet { source, ..packet("7000", time) }, &mut tell);
        }
        let knock = ["7000", "8000", "9000"].get((ms / 500 % 3) as usize).unwrap();
        if ms % 500 == 250 {
            matcher.take(&packet(knock, time), &mut tell);
        }
        assert!(matcher.attempts.count() <= ATTEMPTS_MAX);
    }
    assert_eq!(opened, 6);
}

#[test]
fn what_a_packet_costs_does_not_grow_with_the_doors() {
    let config = |doors: u16| {
        (0..doors)
            .map(|n| {
                let port = 10_000 + n * 3;
                format!("[d{n}]\nsequence={port},{},{}\ntcpflags=syn\n", port + 1, port + 2)
            })
            .collect::<String>()
    };
    // Counted, not timed: how many doors a packet's port leads to.
    let matcher = matcher(&config(800));
    let first_of = matcher.index.find(&matcher.doors, &packet("10000", Timestamp::default()), true);
    assert_eq!(first_of, Some([0].as_slice()));
    let one = "[d0]\nsequence=1,2,3\n".repeat(800);
    assert_eq!(Matcher::new(doors(&one)).index.gates_at(packet("1", Timestamp::default()).knock), 1);
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
            sequence: Sequence::read(sequence.as_bytes()).ok(),
            flags: flags
                .map_or(FlagTest::default(), |text| FlagTest::default().with(text.as_bytes()).unwrap()),
            target: target.and_then(super::super::door::Target::read),
            sources,
            sequence_timeout,
            allow_duplicates,
            ..Door::new("d".to_owned())
        },
    )
}

fn some_packet() -> impl Strategy<Value = (u64, Packet)> {
    let step = prop_oneof![4 => Just(1_u64), 2 => Just(300), 1 => Just(1_000), 1 => Just(2_500)];
    let source = prop_oneof![Just([10, 77, 0, 2]), Just([10, 77, 0, 3]), Just([10, 77, 0, 9])];
    let destination =
        prop_oneof![4 => Just([10, 77, 0, 1]), 2 => Just([10, 77, 0, 100]), 1 => Just([10, 99, 0, 5])];
    let flags = prop_oneof![3 => Just(0x02_u8), 1 => Just(0x12), 1 => Just(0x10), 1 => Just(0x01)];
    (step, source, destination, 1_u16..6, any::<bool>(), flags).prop_map(
        |(step, source, destination, port, udp, flags)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let knock = Knock { protocol, port };
            let packet = Packet {
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
    fn it_tells_what_a_naive_matcher_tells(
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
            let packet = Packet { time: Timestamp::from_millis(ms), ..packet };
            let mut told = Vec::new();
            matcher.take(&packet, &mut |event| told.push(event));
            prop_assert_eq!(told, naive.take(&packet));
            prop_assert_eq!(matcher.attempts.count(), naive.attempts());
            prop_assert!(matcher.next_due().is_some() || naive.attempts() == 0);
        }
    }
}
