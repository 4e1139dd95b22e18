//! Any line of a log is a packet or none. The fields of a packet are in the line once, at their places, and only a line
//! of the kernel has one.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use spa_knock::packet::{KernelLogLine, SyslogLine, Transport};
use spa_knock_core::knock::canonical;

const PREFIX: &str = "knock: ";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        let SyslogLine::Kernel(message) = SyslogLine::read(line) else { continue };
        let (before, _) = line.split_at(line.len() - message.len());
        assert!(before.contains(" kernel:"), "{line:?}");
        let tags = before.split_whitespace().filter(|word| word.ends_with(':')).count();
        assert_eq!(tags, 1, "another tag before the kernel's: {line:?}");
        for prefix in ["", PREFIX] {
            if let Some(logged) = KernelLogLine::read(message, prefix) {
                check_fields(message.strip_prefix(prefix).expect("its prefix"), &logged);
            }
        }
    }
});

fn check_fields(message: &str, logged: &KernelLogLine<'_>) {
    let message = message.strip_prefix(' ').unwrap_or(message);
    let KernelLogLine { packet, interface } = logged;
    let first = |name: &str| {
        let value = message.split(' ').find_map(|part| part.strip_prefix(name));
        value.unwrap_or_else(|| panic!("no {name} in {message:?}"))
    };
    assert!(message.starts_with(&format!("IN={interface} ")), "{message:?}");
    let address = |name| canonical(first(name).parse::<IpAddr>().expect("an address"));
    let port = |name| first(name).parse::<u16>().expect("a port");
    assert_eq!((packet.source.ip(), packet.source.port()), (address("SRC="), port("SPT=")), "{message:?}");
    assert_eq!(
        (packet.destination.ip(), packet.destination.port()),
        (address("DST="), port("DPT=")),
        "{message:?}"
    );
    let protocol = match packet.transport {
        Transport::Tcp { .. } => "TCP",
        Transport::Udp { payload } => {
            assert!(payload.is_none_or(<[u8]>::is_empty));
            "UDP"
        }
    };
    assert_eq!(first("PROTO="), protocol, "{message:?}");
    // Brackets enclose the packet quoted in an ICMP error. They can also be in the name of an interface.
    let (head, _) = message.split_once("PROTO=").expect("a protocol");
    assert!(!head.contains(" ["), "{message:?}");
}
