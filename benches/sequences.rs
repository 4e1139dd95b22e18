//! The cost of a packet in the matcher of knock sequences, which must not grow with the number of doors of knockd.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark may fail loudly"
)]

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{Criterion, criterion_group, criterion_main};
use spa_knock::legacy::knockd::{Config, LegacyPacket, Matcher, SequencePort};
use spa_knock::packet::TcpFlags;
use spa_knock_core::knock::{Protocol, Timestamp};

const BEGIN: u64 = 1_795_000_000_000;

/// A matcher for doors of knockd that have no port in common.
fn matcher(doors: u16) -> Matcher {
    let door = |n: u16| {
        let port = 10_000 + n * 3;
        format!("[d{n}]\nsequence = {port},{},{}\ntcpflags = syn\n", port + 1, port + 2)
    };
    let config = Config::read((0..doors).map(door).collect::<String>().as_bytes()).unwrap();
    let mut matcher = Matcher::new(config.doors);
    matcher.set_addresses(["10.77.0.1".parse::<IpAddr>().unwrap()]);
    matcher
}

fn packet(number: u32, port: u16) -> LegacyPacket {
    LegacyPacket {
        time: Timestamp::from_millis(BEGIN + u64::from(number / 20)),
        source: IpAddr::V4(number.into()),
        destination: "10.77.0.1".parse().unwrap(),
        knock: SequencePort { protocol: Protocol::Tcp, port },
        flags: TcpFlags::SYN,
    }
}

fn packets(criterion: &mut Criterion) {
    for count in [1, 800] {
        let mut number = 0x0C00_0000;
        let mut next = move || {
            number += 1;
            number
        };
        let mut first = matcher(count);
        // Fill the table, as in a flood of 20,000 packets per second.
        (0..100_000).for_each(|_| first.take(&packet(next(), 10_000), &mut |_| ()));
        criterion.bench_function(&format!("first knock of a flood, {count} knockd doors"), |bench| {
            bench.iter(|| {
                first.take(&packet(next(), 10_000), &mut |event| {
                    let _ = black_box(event);
                })
            });
        });
        let mut whole = matcher(count);
        criterion.bench_function(&format!("three packets that open, {count} knockd doors"), |bench| {
            bench.iter(|| {
                for port in 10_000..10_003 {
                    whole.take(&packet(7, port), &mut |event| {
                        let _ = black_box(event);
                    });
                }
            });
        });
        let mut other = matcher(count);
        criterion.bench_function(&format!("another port, {count} knockd doors"), |bench| {
            bench.iter(|| {
                other.take(black_box(&packet(7, 9)), &mut |event| {
                    let _ = black_box(event);
                })
            });
        });
    }
}

criterion_group!(benches, packets);
criterion_main!(benches);
