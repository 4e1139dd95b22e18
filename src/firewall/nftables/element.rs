//! Which element of which set or map stands for a passage.

use std::net::IpAddr;

use crate::gate::{Passage, Way};
use crate::knock::{Door, Ports, Prefix, Protocol};

/// An element, as bytes of the kernel's: each part of a concatenation is padded to four bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// The set's name, as a C string.
    pub(super) set: &'static [u8],
    /// Its key, or the lowest of them.
    pub(super) key: Vec<u8>,
    /// The highest of its keys, if they are many.
    pub(super) last_key: Option<Vec<u8>>,
    /// What a map maps it to.
    pub(super) value: Option<Vec<u8>>,
}

/// Those by which the kernel sees that the daemon lives.
pub(super) fn alive() -> [Element; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| Element {
        set: b"alive\0",
        key: vec![protocol.number()],
        last_key: None,
        value: None,
    })
}

/// The element that opens a passage.
pub(super) fn of(passage: &Passage) -> Element {
    let from = passage.from;
    let v4 = from.first().is_ipv4();
    let one = |set, door: Door, value| {
        let key = key(from.first(), door.into()).0;
        Element { set, key, last_key: None, value }
    };
    match passage.way {
        Way::Ports(ports) => open(from, ports),
        Way::Once(door) => one(if v4 { b"once4\0" } else { b"once6\0" }, door, None),
        Way::Forward { door, to } if to.ip().is_unspecified() => {
            let set: &[u8] = if v4 { b"locals4\0" } else { b"locals6\0" };
            one(set, door, Some(to.port().to_be_bytes().to_vec()))
        }
        Way::Forward { door, to } => {
            let set: &[u8] = if v4 { b"forwards4\0" } else { b"forwards6\0" };
            let mut value = octets(to.ip());
            value.extend(padded_port(to.port()));
            one(set, door, Some(value))
        }
    }
}

fn open(from: Prefix, ports: Ports) -> Element {
    let v4 = from.first().is_ipv4();
    let (first, _) = key(from.first(), ports);
    if from.single().is_some() && ports.single().is_some() {
        let set: &[u8] = if v4 { b"grants4\0" } else { b"grants6\0" };
        return Element { set, key: first, last_key: None, value: None };
    }
    let set: &[u8] = if v4 { b"spans4\0" } else { b"spans6\0" };
    Element { set, key: first, last_key: Some(key(from.last(), ports).1), value: None }
}

/// Address, protocol and port: the lowest and the highest key of these ports.
fn key(address: IpAddr, ports: Ports) -> (Vec<u8>, Vec<u8>) {
    let (first, last) = ports.bounds();
    let with = |port: u16| {
        let mut key = octets(address);
        key.extend([ports.protocol().number(), 0, 0, 0]);
        key.extend(padded_port(port));
        key
    };
    (with(first), with(last))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn padded_port(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(from: &str, way: Way) -> Element {
        of(&Passage { from: from.parse().unwrap(), way })
    }

    #[test]
    fn elements_are_the_bytes_that_nft_sends_for_the_same() {
        let ports = |text: &str| Way::Ports(text.parse().unwrap());
        // nft 1.0.6: add element inet spa_knock spans4 { 10.2.0.0/24 . tcp . 80-90 }
        let span = one("10.2.0.0/24", ports("tcp/80-90"));
        assert_eq!(span.set, b"spans4\0");
        assert_eq!(span.key, b"\x0a\x02\x00\x00\x06\x00\x00\x00\x00\x50\x00\x00");
        assert_eq!(span.last_key.unwrap(), b"\x0a\x02\x00\xff\x06\x00\x00\x00\x00\x5a\x00\x00");
        // nft 1.0.6: add element inet spa_knock forwards4 { 10.0.0.7 . tcp . 80 : 10.9.0.1 . 8080 }
        let door = "tcp/80".parse().unwrap();
        let forward = one("10.0.0.7", Way::Forward { door, to: "10.9.0.1:8080".parse().unwrap() });
        assert_eq!(forward.set, b"forwards4\0");
        assert_eq!(forward.key, b"\x0a\x00\x00\x07\x06\x00\x00\x00\x00\x50\x00\x00");
        assert_eq!(forward.value.unwrap(), b"\x0a\x09\x00\x01\x1f\x90\x00\x00");
    }

    #[test]
    fn each_kind_of_passage_has_its_set() {
        let door: Door = "tcp/80".parse().unwrap();
        let ports = |text: &str| Way::Ports(text.parse().unwrap());
        for (from, way, set) in [
            ("10.0.0.7", ports("tcp/22"), "grants4\0"),
            ("fd00::7", ports("udp/53"), "grants6\0"),
            ("10.0.0.7", ports("tcp/22-23"), "spans4\0"),
            ("fd00::/64", ports("tcp/22"), "spans6\0"),
            ("10.0.0.7", Way::Once(door), "once4\0"),
            ("fd00::7", Way::Once(door), "once6\0"),
            ("10.0.0.7", Way::Forward { door, to: "10.0.0.8:1".parse().unwrap() }, "forwards4\0"),
            ("fd00::7", Way::Forward { door, to: "[fd00::8]:1".parse().unwrap() }, "forwards6\0"),
            ("10.0.0.7", Way::Forward { door, to: "0.0.0.0:8080".parse().unwrap() }, "locals4\0"),
            ("fd00::7", Way::Forward { door, to: "[::]:8080".parse().unwrap() }, "locals6\0"),
        ] {
            assert_eq!(one(from, way).set, set.as_bytes(), "{from} {way}");
        }
    }
}
