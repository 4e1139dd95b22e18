//! Properties of the wire format: every changed bit is refused, no input panics, and the receiver reads exactly what
//! the sender wrote.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "tests count freely and may fail loudly"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use spa_knock_core::crypto::{KeySet, MacKey, PairSecret, Secret};
use spa_knock_core::knock::{
    AddressPolicy, Knock, Reply, ReplyStatus, ReplyText, ReplyWanted, Timestamp, canonical,
};
use spa_knock_core::wire::{
    Body, DATAGRAM_MAX, DATAGRAM_MIN, Datagram, Envelope, PADDING_MAX, REPLY_LEN, open_reply, seal_reply,
};

/// The number of cases with random bytes; all other tests use 1,000.
const ANY_BYTES: u32 = 100_000;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn keys() -> KeySet {
    PairSecret::new(Secret::from_bytes(&[7; 32])).keys(&"bastion.test".parse().unwrap())
}

/// The server's result for a datagram: read, verified, decrypted, understood.
fn receive(bytes: &[u8], keys: &KeySet) -> Option<Knock> {
    let envelope = Envelope::read(bytes)?;
    if !MacKey::from(&keys.watcher().sign).verify(&[envelope.signed], envelope.tag) {
        return None;
    }
    envelope.open(&keys.keeper()).ok()?.understand().ok().cloned()
}

fn datagram(padding: u8) -> Vec<u8> {
    let knock = Knock {
        timestamp: Timestamp::from_millis(1_795_331_877_123),
        reply: ReplyWanted::Yes,
        seconds: 30,
        otp: Some(123_456),
        policy: AddressPolicy::Exact,
        ipv4: Some(Ipv4Addr::new(192, 0, 2, 7)),
        ipv6: Some(Ipv6Addr::LOCALHOST),
        action: "open-ssh".parse().unwrap(),
        argument: "tcp/8443".parse().unwrap(),
    };
    let datagram = Datagram::seal_with(&knock, &keys().client(), [9; 12], padding).unwrap();
    assert_eq!(receive(datagram.as_bytes(), &keys()), Some(knock), "the unchanged datagram is accepted");
    datagram.as_bytes().to_vec()
}

#[test]
fn every_single_changed_bit_is_refused() {
    let keys = keys();
    for padding in [0, 1, PADDING_MAX] {
        let whole = datagram(padding);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(receive(&flipped, &keys), None, "padding {padding}, bit {bit}");
        }
    }
}

#[test]
fn a_body_with_a_changed_bit_is_not_decrypted_even_if_the_tag_is_not_checked() {
    let keeper = keys().keeper();
    let whole = datagram(0);
    // Only the watcher checks the 32 bytes of the tag.
    for bit in 0..(whole.len() - 32) * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Envelope::read(&flipped).unwrap().open(&keeper).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_every_extension_is_refused() {
    let keys = keys();
    for padding in [0, 31, PADDING_MAX] {
        let whole = datagram(padding);
        for length in 0..whole.len() {
            assert_eq!(receive(&whole[..length], &keys), None, "{length} bytes from the front");
            assert_eq!(receive(&whole[whole.len() - length..], &keys), None, "{length} bytes from the back");
        }
        let mut longer = whole.clone();
        while longer.len() <= DATAGRAM_MAX + 64 {
            longer.push(0);
            assert_eq!(receive(&longer, &keys), None, "{} bytes", longer.len());
        }
    }
}

#[test]
fn a_fresh_datagram_has_its_own_nonce_and_a_length_that_varies() {
    let keys = keys();
    let knock = receive(&datagram(0), &keys).unwrap();
    let sealed: Vec<_> = (0..256).map(|_| Datagram::seal(&knock, &keys.client()).unwrap()).collect();
    for datagram in &sealed {
        assert_eq!(Envelope::read(datagram.as_bytes()).unwrap().nonce, datagram.nonce());
    }
    let nonces: BTreeSet<_> = sealed.iter().map(Datagram::nonce).collect();
    assert_eq!(nonces.len(), sealed.len());
    let lengths: BTreeSet<_> = sealed.iter().map(|datagram| datagram.as_bytes().len()).collect();
    assert!(lengths.len() > 32, "64 lengths are equally likely: {lengths:?}");
    let longest = sealed.iter().filter(|datagram| datagram.as_bytes().len() == DATAGRAM_MAX).count();
    assert!(longest < 64, "as rare as any other length: {longest} of 256");
}

#[test]
fn a_body_of_another_version_or_with_an_unknown_flag_is_not_understood() {
    let mut body = vec![1, 1];
    body.extend([0; 8 + 4]);
    body.extend([0xFF; 4]);
    body.push(0);
    body.extend([0; 4 + 16]);
    body.extend(b"\x08open-ssh\0");
    let understood = |version: u8, flags: u8| {
        let mut body = body.clone();
        (body[0], body[1]) = (version, flags);
        Body::read(&body).unwrap().understand().is_ok()
    };
    for version in 0..=u8::MAX {
        for flags in 0..=u8::MAX {
            assert_eq!(understood(version, flags), version == 1 && flags <= 1, "{version} {flags}");
        }
    }
}

#[test]
fn only_a_knock_of_version_2_is_refused_for_its_signature() {
    let secret = || PairSecret::new(Secret::from_bytes(&[7; 32]));
    let server = "bastion.test".parse().unwrap();
    for (keys, is_signed) in [(secret().keys(&server), false), (secret().signed_keys(&server), true)] {
        for code in 0..=10 {
            let reply = Reply {
                status: ReplyStatus::from_code(code).unwrap(),
                server_time: Timestamp::from_millis(1_795_331_877_123),
                observed: Ipv4Addr::new(192, 0, 2, 7).into(),
                port: 4_000,
                seconds: 30,
                text: ReplyText::fitting("text"),
            };
            let bytes = seal_reply(&reply, &keys.client().reply, &[1; 12], &[2; 12]).unwrap();
            let read = open_reply(&bytes, &keys.client().reply, &[1; 12]).ok();
            let is_refused = reply.status == ReplyStatus::SignatureRefused && !is_signed;
            assert_eq!(read, Some(reply).filter(|_| !is_refused), "{code}");
        }
    }
}

#[test]
fn a_knock_for_another_server_or_with_another_secret_is_refused() {
    let whole = datagram(5);
    let secret = || PairSecret::new(Secret::from_bytes(&[7; 32]));
    let other_server = secret().keys(&"bastion2.test".parse().unwrap());
    let other_secret = PairSecret::new(Secret::from_bytes(&[8; 32])).keys(&"bastion.test".parse().unwrap());
    for keys in [other_server, other_secret] {
        assert_eq!(receive(&whole, &keys), None);
        assert!(Envelope::read(&whole).unwrap().open(&keys.keeper()).is_err());
    }
}

#[test]
fn every_changed_bit_and_length_of_a_reply_is_refused() {
    let keys = keys();
    let whole = seal_reply(&reply(), &keys.keeper().reply, &[9; 12], &[3; 12]).unwrap();
    assert_eq!(open_reply(&whole, &keys.client().reply, &[9; 12]), Ok(reply()));
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open_reply(&flipped, &keys.client().reply, &[9; 12]).is_err(), "bit {bit}");
    }
    for length in 0..whole.len() {
        assert!(open_reply(&whole[..length], &keys.client().reply, &[9; 12]).is_err(), "{length}");
    }
    assert!(open_reply(&[whole.as_slice(), &[0]].concat(), &keys.client().reply, &[9; 12]).is_err());
    assert!(open_reply(&whole, &keys.client().reply, &[8; 12]).is_err(), "a reply to another knock");
}

fn reply() -> Reply {
    Reply {
        status: ReplyStatus::Granted,
        server_time: Timestamp::from_millis(1_795_331_877_999),
        observed: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        port: 40_000,
        seconds: 30,
        text: ReplyText::fitting("open"),
    }
}

/// Random bytes of every length up to `longest`, generated quickly.
fn any_bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    (0..=longest).prop_perturb(|length, mut random| {
        let mut bytes = vec![0; length];
        random.fill_bytes(&mut bytes);
        bytes
    })
}

proptest! {
    #![proptest_config(cases(ANY_BYTES))]

    #[test]
    fn random_bytes_are_never_a_knock_and_never_panic(bytes in any_bytes(2 * DATAGRAM_MAX)) {
        let envelope = Envelope::read(&bytes);
        prop_assert_eq!(envelope.is_some(), (DATAGRAM_MIN..=DATAGRAM_MAX).contains(&bytes.len()));
        // Decryption costs an HMAC and a cipher, so only bytes with a valid length are tried.
        if let Some(envelope) = envelope {
            prop_assert!(envelope.open(&keys().keeper()).is_err());
        }
    }

    #[test]
    fn random_bytes_are_never_a_reply_and_never_panic(bytes in any_bytes(2 * REPLY_LEN)) {
        // Bytes of any other length are refused before a key is used.
        if bytes.len() != REPLY_LEN {
            return Ok(());
        }
        prop_assert!(open_reply(&bytes, &keys().client().reply, &[0; 12]).is_err());
    }

    #[test]
    fn the_bytes_of_a_decrypted_body_never_panic(
        start in prop_oneof![Just(vec![]), Just(vec![1, 0]), Just(vec![1, 1])],
        policy in 0_u8..=3,
        rest in any_bytes(260),
    ) {
        let mut body = [start, rest].concat();
        if let Some(byte) = body.get_mut(18) {
            *byte = policy;
        }
        prop_assert_eq!(Body::read(&body).is_some(), body.len() >= 10);
        let _ = Body::read(&body).map(|body| body.understand().cloned());
    }
}

prop_compose! {
    fn knocks()(
        timestamp: u64,
        reply: bool,
        seconds: u32,
        // On the wire, 0xFFFFFFFF and the unspecified addresses mean "none".
        otp in proptest::option::of(0..u32::MAX),
        policy in prop_oneof![
            Just(AddressPolicy::Observed), Just(AddressPolicy::Exact), Just(AddressPolicy::Listed),
        ],
        ipv4 in proptest::option::of((1..=u32::MAX).prop_map(Ipv4Addr::from)),
        ipv6 in proptest::option::of((1 << 96..=u128::MAX).prop_map(Ipv6Addr::from)),
        action in "[a-z0-9_-]{1,32}",
        argument in "[ -~]{0,80}",
    ) -> Knock {
        Knock {
            timestamp: Timestamp::from_millis(timestamp),
            reply: if reply { ReplyWanted::Yes } else { ReplyWanted::No },
            seconds,
            otp,
            policy,
            ipv4,
            ipv6,
            action: action.parse().unwrap(),
            argument: argument.parse().unwrap(),
        }
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn the_server_reads_exactly_what_the_client_wrote(knock in knocks(), nonce: [u8; 12], padding in 0..=PADDING_MAX) {
        let sent = Datagram::seal_with(&knock, &keys().client(), nonce, padding).unwrap();
        prop_assert_eq!(sent.as_bytes().len(), DATAGRAM_MIN + usize::from(padding));
        prop_assert_eq!(receive(sent.as_bytes(), &keys()), Some(knock));
    }

    #[test]
    fn the_client_reads_exactly_what_the_server_replied(
        code in 0_u8..=9,
        time: u64,
        observed: IpAddr,
        port: u16,
        seconds: u32,
        text: String,
        knock: [u8; 12],
        nonce: [u8; 12],
    ) {
        let reply = Reply {
            status: ReplyStatus::from_code(code).unwrap(),
            server_time: Timestamp::from_millis(time),
            observed: canonical(observed),
            port,
            seconds,
            text: ReplyText::fitting(&text),
        };
        let sent = seal_reply(&reply, &keys().keeper().reply, &knock, &nonce).unwrap();
        prop_assert_eq!(sent.len(), REPLY_LEN);
        prop_assert_eq!(open_reply(&sent, &keys().client().reply, &knock), Ok(reply));
    }
}
