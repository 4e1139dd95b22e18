//! Any segment contains a packet or none. One is found only in a GET request of the right user agent, and a source only
//! where the rules permit it. The first byte of the input is the rules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spa_knock_fwknop::{RequestPacket, RequestRules, packet_in_request};

fuzz_target!(|input: (u8, &[u8])| {
    let (flags, segment) = input;
    let rules = RequestRules { any_user_agent: flags & 1 != 0, forwarded_for: flags & 2 != 0 };
    let found = packet_in_request(segment, rules);
    assert_eq!(found, packet_in_request(segment, rules), "read twice");
    let Some(RequestPacket { text, source }) = found else { return };
    assert!(segment.starts_with(b"GET "));
    assert!(text.len() < segment.len());
    assert!(!text.iter().any(|byte| matches!(byte, b'-' | b'_' | b' ' | b'\n')), "{text:?}");
    let contains = |word: &[u8]| segment.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    assert!(rules.any_user_agent || (contains(b"user-agent") && contains(b"Fwknop")));
    assert!(source.is_none() || (rules.forwarded_for && contains(b"x-forwarded-for")));
    // The rules only add packets and sources.
    let all = RequestRules { any_user_agent: true, forwarded_for: rules.forwarded_for };
    assert_eq!(packet_in_request(segment, all), Some(RequestPacket { text, source }));
});
