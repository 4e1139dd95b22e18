//! For any packets: a door of knockd.conf opens only for the source that has sent its sequence, in order and in time.
//! Stages are reported one after another, and no attempt outlives its timeout.
//!
//! An input is a knockd.conf, a line of `#####`, and packets of six bytes each: pause, source, destination, index of a
//! port in the config, flags, and whether to call `expire` first.
#![no_main]

use std::collections::HashMap;
use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use spa_knock::legacy::knockd::{Config, Door, LegacyPacket, MatchEvent, MatchStage, Matcher, SequencePort};
use spa_knock::packet::TcpFlags;
use spa_knock_core::knock::Timestamp;

const CUT: &[u8] = b"#####\n";
/// More would only be slower.
const DOORS_MAX: usize = 8;
const BEGIN: u64 = 1_795_000_000_000;
const SOURCES: [&str; 4] = ["10.77.0.2", "10.77.0.3", "203.0.113.9", "fd77::2"];
const DESTINATIONS: [&str; 4] = ["10.77.0.1", "10.77.0.100", "fd77::1", "10.99.0.5"];

fuzz_target!(|data: &[u8]| {
    let Some(cut) = data.windows(CUT.len()).position(|window| window == CUT) else { return };
    let Ok(config) = Config::read(&data[..cut]) else { return };
    let doors: Vec<Door> =
        config.doors.into_iter().filter(|door| door.one_time.is_none()).take(DOORS_MAX).collect();
    let ports: Vec<SequencePort> =
        doors.iter().flat_map(|door| door.sequence.as_ref().expect("a sequence").knocks().to_vec()).collect();
    let mut matcher = Matcher::new(doors);
    matcher.set_addresses(DESTINATIONS[..3].iter().map(|address| address.parse().expect("an address")));
    let mut witness = Witness::default();
    let mut ms = BEGIN;
    for step in data[cut + CUT.len()..].chunks_exact(6) {
        ms += u64::from(step[0]) * 20;
        let Some(knock) = ports.get(usize::from(step[3]) % ports.len().max(1)) else { return };
        let packet = LegacyPacket {
            time: Timestamp::from_millis(ms),
            source: address(SOURCES[usize::from(step[1] % 4)]),
            destination: address(DESTINATIONS[usize::from(step[2] % 4)]),
            knock: *knock,
            flags: TcpFlags::of(step[4]),
        };
        let mut events = Vec::new();
        if step[5] % 2 == 1 {
            matcher.expire(packet.time, &mut |event| events.push(event));
        }
        witness.record(&packet);
        matcher.take(&packet, &mut |event| events.push(event));
        witness.check_events(&events, matcher.doors(), &packet);
        assert!(matcher.next_due().is_none_or(|due| due > packet.time));
    }
});

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Remembers every packet, and the last reported stage of each attempt.
#[derive(Default)]
struct Witness {
    packets: Vec<LegacyPacket>,
    stages: HashMap<(IpAddr, usize), u8>,
}

impl Witness {
    fn record(&mut self, packet: &LegacyPacket) {
        self.packets.push(*packet);
    }

    fn check_events(&mut self, events: &[MatchEvent], doors: &[Door], now: &LegacyPacket) {
        for event in events {
            let key = (event.source, event.door);
            let door = &doors[event.door];
            match event.step {
                MatchStage::Stage(1) => drop(self.stages.insert(key, 1)),
                MatchStage::Stage(stage) => {
                    assert_eq!(self.stages.insert(key, stage), Some(stage - 1), "a stage was skipped");
                }
                MatchStage::Timeout(stage) => assert_eq!(self.stages.remove(&key), Some(stage)),
                MatchStage::Open => {
                    let knocks = door.sequence.as_ref().expect("a sequence").knocks();
                    assert_eq!(self.stages.remove(&key).map(usize::from), Some(knocks.len()));
                    assert_eq!(event.source, now.source);
                    self.check_sequence(door, now);
                }
            }
        }
    }

    /// Checks that the sequence came from this source, with its last knock now and its first within the timeout of the
    /// door (knockd).
    fn check_sequence(&self, door: &Door, now: &LegacyPacket) {
        let knocks = door.sequence.as_ref().expect("a sequence").knocks();
        let mut rest = knocks.iter().rev().peekable();
        let mut first = now.time;
        for packet in self.packets.iter().rev().filter(|packet| packet.source == now.source) {
            let Some(wanted) = rest.peek() else { break };
            if packet.knock == **wanted {
                rest.next();
                first = packet.time;
            }
        }
        assert!(rest.peek().is_none(), "the sequence was not sent");
        let seconds = now.time.as_millis() / 1_000 - first.as_millis() / 1_000;
        assert!(knocks.len() == 1 || i128::from(seconds) < i128::from(door.sequence_timeout), "too late");
    }
}
