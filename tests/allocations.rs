//! Dropped packets cause no memory allocation: from the socket, or the bytes of a frame, to the verdict nothing is
//! allocated, not even temporarily.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests use plain arithmetic and invented times, and panic on failure"
)]

use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use allocation_counter::measure;
use etherparse::{PacketBuilder, VlanId};
use spa_knock::packet::{LinkType, Segment};
use spa_knock_core::auth::{Dropped, KeyLimit, WatchedKey, Watcher};
use spa_knock_core::crypto::{KeySet, PairSecret, Secret};
use spa_knock_core::knock::{
    AddressPolicy, Argument, Knock, KnockRange, Now, ReplyWanted, Steady, Timestamp,
};
use spa_knock_core::wire::Datagram;

const NOW: Timestamp = Timestamp::from_millis(1_795_331_877_123);
const WINDOW: Duration = Duration::from_secs(30);

fn keys(secret: u8) -> KeySet {
    PairSecret::new(Secret::from_bytes(&[secret; 32])).keys(&"bastion.test".parse().unwrap())
}

fn datagram(keys: &KeySet, nonce: u8) -> Vec<u8> {
    let knock = Knock {
        timestamp: NOW,
        reply: ReplyWanted::Yes,
        seconds: 0,
        otp: None,
        policy: AddressPolicy::Observed,
        ipv4: None,
        ipv6: None,
        action: "open-ssh".parse().unwrap(),
        argument: Argument::none(),
    };
    Datagram::seal_with(&knock, &keys.client(), [nonce; 12], 20).unwrap().as_bytes().to_vec()
}

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

/// The payload in each kind of frame that can contain a knock.
fn frames(payload: &[u8]) -> Vec<(LinkType, Vec<u8>)> {
    let vlan = VlanId::try_new(5).unwrap();
    let ethernet = || PacketBuilder::ethernet2([1; 6], [2; 6]);
    let builders = [
        ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 62201),
        ethernet().ipv6([1; 16], [2; 16], 64).udp(4000, 62201),
        ethernet().single_vlan(vlan).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 62201),
    ];
    let write = |builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>| {
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        (LinkType::Ethernet, frame)
    };
    let mut frames: Vec<_> = builders.into_iter().map(write).collect();
    let cooked = [&[8, 0, 0, 0, 0, 0, 0, 7], [0; 12].as_slice(), &frames[0].1[14..]].concat();
    frames.push((LinkType::LinuxCooked2, cooked));
    frames
}

/// Frames that are not parsed as UDP segments.
fn broken_frames() -> Vec<(LinkType, Vec<u8>)> {
    let whole = frames(&[0; 250]).remove(0).1;
    let changed = |at: usize, to: u8| {
        let mut frame = whole.clone();
        frame[at] = to;
        frame
    };
    let v6 = frames(&[0; 250]).remove(1).1;
    let mut fragment = v6;
    fragment[20] = 44;
    // ARP, more fragments, a fragment's offset, TCP, a short header, IP version 5, IP and UDP lengths, cut short,
    // empty.
    [
        changed(13, 6),
        changed(20, 0x20),
        changed(21, 1),
        changed(23, 6),
        changed(14, 0x44),
        changed(14, 0x55),
        changed(16, 0x7F),
        changed(38, 0x7F),
        changed(12, 0x81),
        fragment,
        whole[..60].to_vec(),
        Vec::new(),
    ]
    .map(|frame| (LinkType::Ethernet, frame))
    .to_vec()
}

fn at(wall: Timestamp) -> Now {
    Now { wall, steady: Steady::from_duration(Duration::ZERO) }
}

#[test]
fn dropped_packets_cause_no_allocation() {
    let [client, other] = [keys(1), keys(2)];
    let mut watcher = Watcher::new(WINDOW, [WatchedKey::of(&client, KeyLimit::default())]);
    watcher.prepare(NOW);
    let used_up = datagram(&client, 1);
    let passed = (0..100).filter(|_| watcher.judge(&used_up, at(NOW)).is_ok()).count();
    assert_eq!(passed, 16);

    let signed = datagram(&client, 2);
    let last = signed.len() - 1;
    let cases: [(&str, Vec<u8>, Dropped); 9] = [
        ("empty", Vec::new(), Dropped::Length),
        ("too short", signed[..227].to_vec(), Dropped::Length),
        ("too long", [signed.as_slice(), &[0; 64]].concat(), Dropped::Length),
        ("random bytes", (0..250_u8).map(|n| n.wrapping_mul(167)).collect(), Dropped::UnknownHint),
        ("another client", datagram(&other, 3), Dropped::UnknownHint),
        ("a changed nonce", flipped(signed.clone(), 8), Dropped::Forged),
        ("a changed body", flipped(signed.clone(), 100), Dropped::Forged),
        ("a changed tag", flipped(signed, last), Dropped::Forged),
        ("one duplicate too many", used_up, Dropped::Duplicate),
    ];
    // An epoch ends within this time; `prepare`, called every ten seconds, has already computed the hints of the next
    // one.
    for seconds in (0..30).step_by(10) {
        let now = NOW.plus(Duration::from_secs(seconds));
        for (what, payload, why) in &cases {
            for (link, frame) in frames(payload) {
                let counted = measure(|| {
                    let segment = Segment::read(link, &frame).expect("a segment");
                    assert_eq!(watcher.judge(segment.payload, at(now)).err(), Some(*why));
                });
                assert_eq!(counted.count_total, 0, "{what}, {link:?}, after {seconds} s");
            }
        }
        watcher.prepare(now);
    }
    for (link, frame) in broken_frames() {
        let counted = measure(|| assert!(Segment::read(link, &frame).is_none(), "{frame:?}"));
        assert_eq!(counted.count_total, 0, "{frame:?}");
    }
    // The allocation counter works.
    assert_eq!(measure(|| drop(std::hint::black_box(vec![0_u8; 100]))).count_total, 1);
}

#[cfg(feature = "daemon")]
#[test]
fn datagrams_are_received_without_an_allocation() {
    use std::net::UdpSocket;

    use spa_knock::capture::{Capture, CaptureEvent, Socket};
    use spa_knock::os::net::udp::{ReceiveMode, UdpPort};

    let free = || UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let (server, port) = (0..50)
        .map(|_| free())
        .find_map(|port| Some((UdpPort::bind(port, ReceiveMode::Received).ok()?, port)))
        .unwrap();
    let mut socket = Socket::new(server, port);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let payload = datagram(&keys(1), 1);
    (0..20).for_each(|_| assert_eq!(client.send_to(&payload, ("127.0.0.1", port)).unwrap(), payload.len()));
    let mut received = 0;
    let counted = measure(|| {
        let handle = &mut |event: CaptureEvent<'_>| {
            let CaptureEvent::Datagram(segment) = event else { panic!("not a datagram") };
            assert_eq!(segment.payload.len(), payload.len());
            received += 1;
        };
        assert_eq!(socket.read(15, handle).unwrap(), 15);
        assert_eq!(socket.read(15, handle).unwrap(), 5);
    });
    assert_eq!((received, counted.count_total), (20, 0));
}

#[test]
fn a_flood_of_port_hits_takes_no_memory_beyond_the_flow_table() {
    let client = keys(1);
    let mut watcher = Watcher::new(WINDOW, [WatchedKey::of(&client, KeyLimit::default())]);
    watcher.watch_range(KnockRange::USUAL, RandomState::new());
    let now = |n: u32| Now { wall: NOW, steady: Steady::from_duration(Duration::from_micros(n.into())) };
    let mut hit = |n: u32, sources: u32| {
        let source = SocketAddr::new(IpAddr::from((n % sources).to_be_bytes()), 4_000);
        let port = KnockRange::USUAL.port(usize::try_from(n % 8).unwrap(), u16::try_from(n % 999).unwrap());
        watcher.record_hit(source, IpAddr::from([192, 0, 2, 1]), port, now(n).steady);
        assert!(watcher.next_sequence(now(n)).is_none(), "it identifies no client");
    };
    // From many addresses, and from a few that hit many ports: this fills the table.
    (0..200_000).for_each(|n| hit(n, u32::MAX));
    (200_000..300_000).for_each(|n| hit(n, 1_001));
    let counted = measure(|| (300_000..350_000).for_each(|n| hit(n, u32::MAX)));
    assert_eq!(counted.count_total, 0);
    let counted = measure(|| (350_000..450_000).for_each(|n| hit(n, 1_001)));
    // The flow under examination is copied into a temporary list.
    assert_eq!(counted.count_current, 0);
}
