//! Any line of a log is a packet or none; what counts stands in the line once, at its place, and only the kernel's line
//! has one.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use spa_knock::packet::{KernelLogLine, SyslogLine, Transport};
use spa_knock_core::knock::canonical;

const PREFIX: &str = "knock: ";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        let SyslogLine::Kernel(said) = SyslogLine::read(line) else { continue };
        let (before, _) = line.split_at(line.len() - said.len());
        assert!(before.contains(" kernel:"), "{line:?}");
        let tags = before.split_whitespace().filter(|word| word.ends_with(':')).count();
        assert_eq!(tags, 1, "nobody else is named in front: {line:?}");
        for prefix in ["", PREFIX] {
            if let Some(logged) = KernelLogLine::read(said, prefix) {
                stands_there(said.strip_prefix(prefix).expect("its prefix"), &logged);
            }
        }
    }
});

fn stands_there(said: &str, logged: &KernelLogLine<'_>) {
    let said = said.strip_prefix(' ').unwrap_or(said);
    let KernelLogLine { packet, interface } = logged;
    let first = |name: &str| {
        let word = said.split(' ').find_map(|word| word.strip_prefix(name));
        word.unwrap_or_else(|| panic!("no {name} in {said:?}"))
    };
    assert!(said.starts_with(&format!("IN={interface} ")), "{said:?}");
    let address = |name| canonical(first(name).parse::<IpAddr>().expect("an address"));
    let port = |name| first(name).parse::<u16>().expect("a port");
    assert_eq!((packet.source.ip(), packet.source.port()), (address("SRC="), port("SPT=")), "{said:?}");
    assert_eq!(
        (packet.destination.ip(), packet.destination.port()),
        (address("DST="), port("DPT=")),
        "{said:?}"
    );
    let protocol = match packet.transport {
        Transport::Tcp { .. } => "TCP",
        Transport::Udp { payload } => {
            assert!(payload.is_none_or(<[u8]>::is_empty));
            "UDP"
        }
    };
    assert_eq!(first("PROTO="), protocol, "{said:?}");
    // What an ICMP error quotes stands in brackets.
    let (head, _) = said.split_once("PROTO=").expect("a protocol");
    assert!(!head.contains('['), "{said:?}");
}
