//! Maps an access or an interval to its element of a set or map, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use super::plane::{Area, Interval, Rectangle, is_bounded};
use spa_knock_core::auth::{Access, AccessTarget, SourceTranslation, TransitPort, TransitRoute};
use spa_knock_core::knock::{PortRange, PortSpec, Protocol};

/// The sets and maps that contain grants, as C strings.
pub(super) const SETS: [&[u8]; 20] = [
    b"grants4\0",
    b"grants6\0",
    b"range_grants4\0",
    b"range_grants6\0",
    b"prefix_grants4\0",
    b"prefix_grants6\0",
    b"linked6\0",
    b"once4\0",
    b"once6\0",
    b"forwards4\0",
    b"forwards6\0",
    b"redirects4\0",
    b"redirects6\0",
    b"diverts4\0",
    b"routes4\0",
    b"masqueraded_routes4\0",
    b"translated_routes4\0",
    b"transits4\0",
    b"masqueraded_transits4\0",
    b"translated_transits4\0",
];

/// An element in the kernel's encoding: each part of a concatenation is padded to four bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    /// The set's name, as a C string.
    pub(super) set: &'static [u8],
    /// Its key, or the lowest key of an interval.
    pub(super) key: Vec<u8>,
    /// The highest key of an interval.
    pub(super) last_key: Option<Vec<u8>>,
    /// The value, in a map.
    pub(super) value: Option<Vec<u8>>,
}

/// What an element opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ElementEntry {
    /// One access.
    Access(Access),
    /// A range of addresses and ports.
    Interval(Area, Rectangle),
}

/// The elements by which the kernel sees that the daemon is alive.
pub(super) fn heartbeat() -> [Element; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| Element {
        set: b"heartbeat\0",
        key: vec![protocol.number()],
        last_key: None,
        value: None,
    })
}

/// The element that opens an access; `None` for an interval, which others may overlap.
pub(super) fn of(access: &Access) -> Option<Element> {
    let from = access.from.single().filter(|_| access.link.is_none())?;
    let v4 = from.is_ipv4();
    let one = |set, port: PortSpec, value| Element { set, key: key(from, port), last_key: None, value };
    Some(match access.target {
        AccessTarget::Ports(ports) => {
            one(if v4 { b"grants4\0" } else { b"grants6\0" }, ports.single()?, None)
        }
        AccessTarget::Once(port) => one(if v4 { b"once4\0" } else { b"once6\0" }, port, None),
        AccessTarget::Forward { port, to } if to.ip().is_unspecified() => {
            let set: &[u8] = if v4 { b"redirects4\0" } else { b"redirects6\0" };
            one(set, port, Some(to.port().to_be_bytes().to_vec()))
        }
        AccessTarget::Forward { port, to } => {
            let set: &[u8] = if v4 { b"forwards4\0" } else { b"forwards6\0" };
            let mut value = octets(to.ip());
            value.extend(padded_port(to.port()));
            one(set, port, Some(value))
        }
        AccessTarget::Divert(to) => {
            let key = Some(octets(from)).filter(|_| v4)?;
            Element { set: b"diverts4\0", key, last_key: None, value: Some(to.octets().to_vec()) }
        }
        AccessTarget::Transit(route) => transit(Some(from).filter(IpAddr::is_ipv4)?, route),
    })
}

fn transit(from: IpAddr, TransitRoute { to, source }: TransitRoute) -> Element {
    let set: &[u8] = match (to, source) {
        (Some(_), SourceTranslation::Kept) => b"routes4\0",
        (Some(_), SourceTranslation::Masquerade) => b"masqueraded_routes4\0",
        (Some(_), SourceTranslation::Address(_)) => b"translated_routes4\0",
        (None, SourceTranslation::Kept) => b"transits4\0",
        (None, SourceTranslation::Masquerade) => b"masqueraded_transits4\0",
        (None, SourceTranslation::Address(_)) => b"translated_transits4\0",
    };
    let mut address = octets(from);
    if let Some(TransitPort { host, port }) = to {
        address.extend(key(host.into(), port));
    }
    let value = match source {
        SourceTranslation::Kept | SourceTranslation::Masquerade => None,
        SourceTranslation::Address(address) => Some(address.octets().to_vec()),
    };
    Element { set, key: address, last_key: None, value }
}

/// The access of an element of the sets for diverted and routed packets.
fn routed(set: &str, key: &[u8], value: Option<&Vec<u8>>) -> Option<Access> {
    let mut key = ElementKey(key);
    let from = key.address(true)?;
    let value = value.and_then(|value| ElementKey(value).take()).map(Ipv4Addr::from);
    if set == "diverts4" {
        return key.0.is_empty().then(|| Some(Access::new(from.into(), AccessTarget::Divert(value?))))?;
    }
    let source = match value {
        None if set.starts_with("masqueraded") => SourceTranslation::Masquerade,
        None => SourceTranslation::Kept,
        Some(address) => SourceTranslation::Address(address),
    };
    let to = if key.0.is_empty() {
        None
    } else {
        let host = key.take().map(Ipv4Addr::from)?;
        Some(TransitPort { host, port: PortSpec::new(key.protocol()?, key.port()?)? })
    };
    let access = Access::new(from.into(), AccessTarget::Transit(TransitRoute { to, source }));
    // The set must be the one that has such elements.
    (of(&access)?.set.strip_suffix(b"\0")? == set.as_bytes()).then_some(access)
}

/// The element of one interval.
pub(super) fn of_interval(interval: &Interval) -> Element {
    let Rectangle { first, last, ports } = interval.rectangle;
    let set: &[u8] = match (interval.area, first.is_ipv4()) {
        (Area::Spans, true) => b"range_grants4\0",
        (Area::Spans, false) => b"range_grants6\0",
        (Area::Nets, true) => b"prefix_grants4\0",
        (Area::Nets, false) => b"prefix_grants6\0",
        (Area::Linked(_), _) => b"linked6\0",
    };
    let (low, high) = ports.bounds();
    let with = |address, port| {
        let mut key = match interval.area {
            // In interval sets, nft stores numbers in host order as big-endian too, so that they can be compared.
            Area::Linked(link) => link.get().to_be_bytes().to_vec(),
            Area::Spans | Area::Nets => Vec::new(),
        };
        key.extend(octets(address));
        key.extend([ports.protocol().number(), 0, 0, 0]);
        key.extend(padded_port(port));
        key
    };
    Element { set, key: with(first, low), last_key: Some(with(last, high)), value: None }
}

/// What this element opens; `None` if it does not have the form that we write.
pub(super) fn entry(element: &Element) -> Option<ElementEntry> {
    let Element { set, key, last_key, value } = element;
    let is = |name: &str| set.strip_suffix(b"\0").is_some_and(|set| set.starts_with(name.as_bytes()));
    let v4 = set.ends_with(b"4\0");
    let mut first = ElementKey(key);
    if is("range_grants") || is("prefix_grants") || is("linked") {
        let mut last = ElementKey(last_key.as_ref()?);
        let area = if is("linked") {
            let link = first.link().filter(|link| last.link() == Some(*link))?;
            Area::Linked(link)
        } else if is("prefix_grants") {
            Area::Nets
        } else {
            Area::Spans
        };
        let (first_address, protocol, low) = first.rest(v4)?;
        let (last_address, last_protocol, high) = last.rest(v4)?;
        let ports = PortRange::between(protocol, low, high)?;
        let rectangle = Rectangle { first: first_address, last: last_address, ports };
        let fits = protocol == last_protocol && is_bounded(first_address, last_address);
        let one = first_address == last_address;
        return (fits && (one || area != Area::Spans)).then_some(ElementEntry::Interval(area, rectangle));
    }
    if last_key.is_some() {
        return None;
    }
    if is("diverts") || set.ends_with(b"routes4\0") || set.ends_with(b"transits4\0") {
        let set = std::str::from_utf8(set.strip_suffix(b"\0")?).ok()?;
        return routed(set, key, value.as_ref()).map(ElementEntry::Access);
    }
    let (from, protocol, number) = first.rest(v4)?;
    let port = PortSpec::new(protocol, number)?;
    let target = if is("grants") {
        AccessTarget::Ports(port.into())
    } else if is("once") {
        AccessTarget::Once(port)
    } else {
        let mut value = ElementKey(value.as_ref()?);
        let to = if is("redirects") {
            let here: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            SocketAddr::new(here, value.port()?)
        } else {
            SocketAddr::new(value.address(v4)?, value.port()?)
        };
        AccessTarget::Forward { port, to }
    };
    Some(ElementEntry::Access(Access::new(from.into(), target)))
}

/// The accesses that together form an interval.
pub(super) fn accesses(area: Area, rectangle: &Rectangle) -> Vec<Access> {
    let link = match area {
        Area::Linked(link) => Some(link),
        Area::Spans | Area::Nets => None,
    };
    let access = |from| Access { from, link, target: AccessTarget::Ports(rectangle.ports) };
    rectangle.prefixes().into_iter().map(access).collect()
}

/// The unread rest of a key or value.
struct ElementKey<'a>(&'a [u8]);

impl ElementKey<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn link(&mut self) -> Option<NonZeroU32> {
        NonZeroU32::new(u32::from_be_bytes(self.take()?))
    }

    fn address(&mut self, v4: bool) -> Option<IpAddr> {
        if v4 {
            return self.take::<4>().map(|octets| Ipv4Addr::from(octets).into());
        }
        self.take::<16>().map(|octets| Ipv6Addr::from(octets).into())
    }

    fn protocol(&mut self) -> Option<Protocol> {
        let [number, ..] = self.take::<4>()?;
        [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.number() == number)
    }

    fn port(&mut self) -> Option<u16> {
        self.take::<2>().map(u16::from_be_bytes)
    }

    fn rest(&mut self, v4: bool) -> Option<(IpAddr, Protocol, u16)> {
        Some((self.address(v4)?, self.protocol()?, self.port()?))
    }
}

/// A key of address, protocol and port.
fn key(address: IpAddr, port: PortSpec) -> Vec<u8> {
    let mut key = octets(address);
    key.extend([port.protocol().number(), 0, 0, 0]);
    key.extend(padded_port(port.port()));
    key
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
    use crate::firewall::grant_table::GrantHolder;
    use crate::os::clock;

    fn access(from: &str, target: AccessTarget) -> Access {
        Access::new(from.parse().unwrap(), target)
    }

    fn one(access: &Access) -> Element {
        let holder =
            GrantHolder { client: "a".parse().unwrap(), action: "b".parse().unwrap(), end: clock::steady() };
        of(access).unwrap_or_else(|| of_interval(&Interval::of(access, holder).unwrap()))
    }

    #[test]
    fn elements_are_encoded_as_nft_encodes_them() {
        let ports = |text: &str| AccessTarget::Ports(text.parse().unwrap());
        // nft 1.0.6: add element inet spa_knock prefix_grants4 { 10.2.0.0/24 . tcp . 80-90 }
        let net = one(&access("10.2.0.0/24", ports("tcp/80-90")));
        assert_eq!(net.set, b"prefix_grants4\0");
        assert_eq!(net.key, b"\x0a\x02\x00\x00\x06\x00\x00\x00\x00\x50\x00\x00");
        assert_eq!(net.last_key.unwrap(), b"\x0a\x02\x00\xff\x06\x00\x00\x00\x00\x5a\x00\x00");
        // nft 1.0.6: add element inet spa_knock forwards4 { 10.0.0.7 . tcp . 80 : 10.9.0.1 . 8080 }
        let port = "tcp/80".parse().unwrap();
        let forward =
            one(&access("10.0.0.7", AccessTarget::Forward { port, to: "10.9.0.1:8080".parse().unwrap() }));
        assert_eq!(forward.set, b"forwards4\0");
        assert_eq!(forward.key, b"\x0a\x00\x00\x07\x06\x00\x00\x00\x00\x50\x00\x00");
        assert_eq!(forward.value.unwrap(), b"\x0a\x09\x00\x01\x1f\x90\x00\x00");
    }

    #[test]
    fn each_kind_of_access_has_its_own_set_and_is_decoded_from_its_element() {
        let port: PortSpec = "tcp/80".parse().unwrap();
        let ports = |text: &str| AccessTarget::Ports(text.parse().unwrap());
        let link = NonZeroU32::new(7);
        let transit = |to_port: bool, source| {
            let to = to_port.then_some(TransitPort { host: [10, 9, 0, 1].into(), port });
            access("10.0.0.7", AccessTarget::Transit(TransitRoute { to, source }))
        };
        let accesses = [
            (access("10.0.0.7", ports("tcp/22")), "grants4\0"),
            (access("fd00::7", ports("udp/53")), "grants6\0"),
            (access("10.0.0.7", ports("tcp/22-23")), "range_grants4\0"),
            (access("fd00::7", ports("tcp/22-23")), "range_grants6\0"),
            (access("10.0.0.0/24", ports("tcp/22")), "prefix_grants4\0"),
            (access("fd00::/64", ports("tcp/22")), "prefix_grants6\0"),
            (Access { link, ..access("fe80::7", ports("tcp/22")) }, "linked6\0"),
            (Access { link, ..access("fe80::/64", ports("tcp/22-23")) }, "linked6\0"),
            (access("10.0.0.7", AccessTarget::Once(port)), "once4\0"),
            (access("fd00::7", AccessTarget::Once(port)), "once6\0"),
            (
                access("10.0.0.7", AccessTarget::Forward { port, to: "10.0.0.8:1".parse().unwrap() }),
                "forwards4\0",
            ),
            (
                access("fd00::7", AccessTarget::Forward { port, to: "[fd00::8]:1".parse().unwrap() }),
                "forwards6\0",
            ),
            (
                access("10.0.0.7", AccessTarget::Forward { port, to: "0.0.0.0:8080".parse().unwrap() }),
                "redirects4\0",
            ),
            (
                access("fd00::7", AccessTarget::Forward { port, to: "[::]:8080".parse().unwrap() }),
                "redirects6\0",
            ),
            (access("10.0.0.7", AccessTarget::Divert([10, 9, 0, 1].into())), "diverts4\0"),
            (transit(true, SourceTranslation::Kept), "routes4\0"),
            (transit(true, SourceTranslation::Masquerade), "masqueraded_routes4\0"),
            (transit(true, SourceTranslation::Address([10, 9, 0, 2].into())), "translated_routes4\0"),
            (transit(false, SourceTranslation::Kept), "transits4\0"),
            (transit(false, SourceTranslation::Masquerade), "masqueraded_transits4\0"),
            (transit(false, SourceTranslation::Address([10, 9, 0, 2].into())), "translated_transits4\0"),
        ];
        for (access, set) in accesses {
            let element = one(&access);
            assert_eq!(element.set, set.as_bytes(), "{access:?}");
            assert!(SETS.contains(&element.set));
            let read = match entry(&element).unwrap() {
                ElementEntry::Access(read) => vec![read],
                ElementEntry::Interval(area, rectangle) => super::accesses(area, &rectangle),
            };
            assert_eq!(read, [access]);
            let short = Element { key: element.key[1..].to_vec(), ..element };
            assert_eq!(entry(&short), None, "{access:?}");
        }
    }
}
