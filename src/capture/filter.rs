//! The kernel filters of captures: step 1 of processing. They are built from numbers only, so no text can inject a host
//! name that libpcap would look up.

#[cfg(feature = "legacy")]
use std::collections::BTreeSet;

use crate::packet::{LinkType, UDP_HEADER};
use spa_knock_core::knock::KnockRange;
use spa_knock_core::wire::{DATAGRAM_MAX, DATAGRAM_MIN};

/// The pcap-filter(7) expression for knocks to `port`, and for packets without a payload to `knock_range`.
pub(super) fn knocks(link: LinkType, port: u16, knock_range: Option<KnockRange>) -> String {
    let shortest = DATAGRAM_MIN.saturating_add(UDP_HEADER);
    let longest = DATAGRAM_MAX.saturating_add(UDP_HEADER);
    // UDP's length field limits the payload. A fragment has an offset or the flag "more fragments".
    let v4 = format!(
        "(ip and udp dst port {port} and ip[6:2] & 0x3fff = 0 and udp[4:2] >= {shortest} and udp[4:2] <= {longest})"
    );
    // `udp[…]` never matches IPv6. Offsets in `ip6[…]` include the IPv6 header of 40 bytes.
    let v6 = format!(
        "(ip6 and ip6[6] = 17 and ip6[42:2] = {port} and ip6[44:2] >= {shortest} and ip6[44:2] <= {longest})"
    );
    // The filter cannot skip extension headers (hop-by-hop, routing, destination options; at least 8 bytes). They are
    // rare, and the parser skips them.
    let extended = format!(
        "(ip6 and (ip6[6] = 0 or ip6[6] = 43 or ip6[6] = 60) and ip6[4:2] >= {})",
        shortest.saturating_add(8)
    );
    let hits = knock_range.map(port_hits).unwrap_or_default();
    behind_tags(link, &format!("({v4} or {v6} or {extended}{hits})"))
}

/// The expression for packets that could be intended as knocks: everything to `ports`, datagrams to other ports with a
/// knock's length, fragments, and packets without a payload to `knock_range`.
pub(super) fn around_knocks(link: LinkType, ports: &[u16], knock_range: Option<KnockRange>) -> String {
    let shortest = DATAGRAM_MIN.saturating_add(UDP_HEADER);
    let longest = DATAGRAM_MAX.saturating_add(UDP_HEADER);
    let v4 = format!(
        "(ip and udp and ({}(udp[4:2] >= {shortest} and udp[4:2] <= {longest})))",
        ports.iter().map(|port| format!("udp dst port {port} or ")).collect::<String>()
    );
    let hits = knock_range.map(port_hits).unwrap_or_default();
    let later_fragment = "(ip proto 17 and ip[6:2] & 0x1fff != 0)";
    let v6 = format!(
        "(ip6 and ip6[6] = 17 and ({}(ip6[44:2] >= {shortest} and ip6[44:2] <= {longest})))",
        ports.iter().map(|port| format!("ip6[42:2] = {port} or ")).collect::<String>()
    );
    let extended = "(ip6 and (ip6[6] = 0 or ip6[6] = 43 or ip6[6] = 44 or ip6[6] = 60))";
    behind_tags(link, &format!("({v4} or {later_fragment} or {v6} or {extended}{hits})"))
}

/// Extends an expression to packets with one or two VLAN tags.
pub(super) fn behind_tags(link: LinkType, any: &str) -> String {
    match link {
        // `vlan` shifts all offsets after it, so it must come last. Two tags: a customer's inside a provider's.
        // On other link types `vlan` is an error; cooked frames are captured without tags.
        LinkType::Ethernet => format!("{any} or (vlan and ({any} or (vlan and {any})))"),
        LinkType::LinuxCooked | LinkType::LinuxCooked2 | LinkType::Raw | LinkType::Loopback => any.to_owned(),
    }
}

/// The expression for packets with any payload to these TCP and UDP ports. If there are many ports, ports between them
/// pass as well: the caller must check the port again.
#[cfg(feature = "legacy")]
pub(super) fn ports(link: LinkType, tcp: &BTreeSet<u16>, udp: &BTreeSet<u16>) -> String {
    // `dst portrange` matches only the first fragment, and no packet with IPv6 extension headers.
    let terms = [("tcp", tcp), ("udp", udp)].map(|(protocol, ports)| {
        ranges(ports).into_iter().map(move |(first, last)| format!("{protocol} dst portrange {first}-{last}"))
    });
    let extended = "(ip6 and (ip6[6] = 0 or ip6[6] = 43 or ip6[6] = 60))".to_owned();
    let terms: Vec<String> = terms.into_iter().flatten().chain([extended]).collect();
    behind_tags(link, &format!("({})", terms.join(" or ")))
}

/// Covers the ports with few ranges. The kernel accepts 4,096 instructions, and VLAN tags triple their number.
#[cfg(feature = "legacy")]
fn ranges(ports: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    const RANGES_MAX: usize = 32;
    let mut gap = 1;
    loop {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for &port in ports {
            match ranges.last_mut().filter(|(_, last)| port.saturating_sub(*last) <= gap) {
                Some((_, last)) => *last = port,
                None => ranges.push((port, port)),
            }
        }
        if ranges.len() <= RANGES_MAX {
            return ranges;
        }
        gap = gap.saturating_mul(2);
    }
}

/// The expression for port hits: TCP with SYN and without FIN, RST and ACK (RFC 9293), or UDP with only its header.
/// Clients send port sequences without extension headers.
fn port_hits(knock_range: KnockRange) -> String {
    let (low, high) = (knock_range.low(), knock_range.high());
    // TCP and UDP have the ports at the same offset. `tcp[…]` and `udp[…]` match only the first fragment, which has the
    // ports, and never match IPv6.
    let v4 = format!(
        "(ip and ((tcp dst portrange {low}-{high} and tcp[13] & 0x17 = 0x02) or (udp dst portrange {low}-{high} and udp[4:2] = {UDP_HEADER})))"
    );
    let v6 = format!(
        "(ip6 and ip6[42:2] >= {low} and ip6[42:2] <= {high} and ((ip6[6] = 6 and ip6[53] & 0x17 = 0x02) or (ip6[6] = 17 and ip6[44:2] = {UDP_HEADER})))"
    );
    format!(" or {v4} or {v6}")
}

#[cfg(test)]
pub(super) mod tests {
    use etherparse::{Ethernet2Header, PacketBuilder, PacketBuilderStep, TcpHeader, UdpHeader, VlanId};
    use pcap::{Capture, Linktype};

    use super::*;

    /// Every link type, with its number in libpcap.
    pub(in crate::capture) const LINKS: [(LinkType, i32); 5] = [
        (LinkType::Ethernet, 1),
        (LinkType::LinuxCooked, 113),
        (LinkType::LinuxCooked2, 276),
        (LinkType::Raw, 12),
        (LinkType::Loopback, 0),
    ];

    pub(in crate::capture) fn frame(builder: PacketBuilderStep<UdpHeader>, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        builder.write(&mut frame, &vec![0; payload]).unwrap();
        frame
    }

    pub(in crate::capture) fn ethernet() -> PacketBuilderStep<Ethernet2Header> {
        PacketBuilder::ethernet2([1; 6], [2; 6])
    }

    #[test]
    fn the_filter_compiles_for_every_link_type_and_passes_only_knocks() {
        for (link, dlt) in LINKS {
            let capture = Capture::dead(Linktype(dlt)).unwrap();
            for knock_range in [None, Some(KnockRange::USUAL)] {
                for text in
                    [knocks(link, 62201, knock_range), around_knocks(link, &[62201, 4000], knock_range)]
                {
                    assert!(capture.compile(&text, true).is_ok(), "{link:?}");
                }
            }
        }

        let filter = Capture::dead(Linktype::ETHERNET)
            .unwrap()
            .compile(&knocks(LinkType::Ethernet, 62201, None), true)
            .unwrap();
        let vlan = VlanId::try_new(5).unwrap();
        let v4 = |port| ethernet().ipv4([1; 4], [2; 4], 64).udp(4000, port);
        let v6 = |port| ethernet().ipv6([1; 16], [2; 16], 64).udp(4000, port);
        for (name, frame, passes) in [
            ("shortest", frame(v4(62201), 228), true),
            ("longest", frame(v4(62201), 291), true),
            ("too short", frame(v4(62201), 227), false),
            ("too long", frame(v4(62201), 292), false),
            ("another port", frame(v4(62202), 250), false),
            ("v6 shortest", frame(v6(62201), 228), true),
            ("v6 longest", frame(v6(62201), 291), true),
            ("v6 too short", frame(v6(62201), 227), false),
            ("v6 too long", frame(v6(62201), 292), false),
            ("v6 another port", frame(v6(22), 250), false),
            (
                "a VLAN tag",
                frame(ethernet().single_vlan(vlan).ipv4([1; 4], [2; 4], 64).udp(4000, 62201), 250),
                true,
            ),
            (
                "two VLAN tags",
                frame(ethernet().double_vlan(vlan, vlan).ipv6([1; 16], [2; 16], 64).udp(4000, 62201), 250),
                true,
            ),
        ] {
            assert_eq!(filter.filter(&frame), passes, "{name}");
        }
        let mut fragment = frame(v4(62201), 250);
        fragment[20] = 0x20;
        assert!(!filter.filter(&fragment), "a first fragment");
        let mut hop_by_hop = frame(v6(62201), 250);
        hop_by_hop[20] = 0;
        assert!(filter.filter(&hop_by_hop), "an extension header");
    }

    #[test]
    #[cfg(feature = "legacy")]
    fn many_ports_are_covered_by_few_ranges() {
        let few = BTreeSet::from([22, 7000, 7001, 7002, 65_535]);
        assert_eq!(ranges(&few), [(22, 22), (7000, 7002), (65_535, 65_535)]);
        let many: BTreeSet<u16> = (0..2_400).map(|n| n * 27).collect();
        let found = ranges(&many);
        assert!(found.len() <= 32);
        assert!(many.iter().all(|port| found.iter().any(|(first, last)| (first..=last).contains(&port))));
        for (link, dlt) in [(LinkType::Ethernet, 1), (LinkType::LinuxCooked, 113), (LinkType::Raw, 12)] {
            let capture = Capture::dead(Linktype(dlt)).unwrap();
            let scattered: BTreeSet<u16> = (0..32).map(|n| n * 2_000).collect();
            let program = capture.compile(&ports(link, &scattered, &scattered), true).unwrap();
            assert!(program.get_instructions().len() <= 4_096, "{}", program.get_instructions().len());
        }
    }

    #[test]
    #[cfg(feature = "legacy")]
    fn only_packets_to_the_ports_pass_with_or_without_a_tag() {
        let filter = ports(LinkType::Ethernet, &BTreeSet::from([7000]), &BTreeSet::from([2222]));
        let filter = Capture::dead(Linktype::ETHERNET).unwrap().compile(&filter, true).unwrap();
        let tcp = |port| {
            let mut frame = Vec::new();
            ethernet().ipv4([1; 4], [2; 4], 64).tcp(1, port, 0, 0).write(&mut frame, &[]).unwrap();
            frame
        };
        let vlan = VlanId::try_new(5).unwrap();
        for (name, frame, passes) in [
            ("TCP", tcp(7000), true),
            ("TCP to a UDP port", tcp(2222), false),
            ("UDP", frame(ethernet().ipv4([1; 4], [2; 4], 64).udp(1, 2222), 1), true),
            ("UDP to a TCP port", frame(ethernet().ipv6([1; 16], [2; 16], 64).udp(1, 7000), 1), false),
            ("IPv6", frame(ethernet().ipv6([1; 16], [2; 16], 64).udp(1, 2222), 1), true),
            ("a tag", frame(ethernet().single_vlan(vlan).ipv6([1; 16], [2; 16], 64).udp(1, 2222), 1), true),
        ] {
            assert_eq!(filter.filter(&frame), passes, "{name}");
        }
    }

    fn tcp_frame(builder: PacketBuilderStep<TcpHeader>) -> Vec<u8> {
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).unwrap();
        frame
    }

    #[test]
    fn with_a_knock_range_only_port_hits_pass_in_addition_to_knocks() {
        let capture = Capture::dead(Linktype::ETHERNET).unwrap();
        let with =
            capture.compile(&knocks(LinkType::Ethernet, 62201, Some(KnockRange::USUAL)), true).unwrap();
        let without = capture.compile(&knocks(LinkType::Ethernet, 62201, None), true).unwrap();
        let vlan = VlanId::try_new(5).unwrap();
        let v4 = || ethernet().ipv4([1; 4], [2; 4], 64);
        let v6 = || ethernet().ipv6([1; 16], [2; 16], 64);
        let tcp = |port| v4().tcp(4000, port, 7, 1024);
        let tcp6 = |port| v6().tcp(4000, port, 7, 1024);
        let (low, high) = (KnockRange::USUAL.low(), KnockRange::USUAL.high());
        let both_tags = || ethernet().double_vlan(vlan, vlan);
        for (name, frame, passes) in [
            ("SYN to the first port", tcp_frame(tcp(low).syn()), true),
            ("SYN to the last port", tcp_frame(tcp(high).syn()), true),
            ("SYN below", tcp_frame(tcp(low - 1).syn()), false),
            ("SYN above", tcp_frame(tcp(high + 1).syn()), false),
            ("SYN with other flags", tcp_frame(tcp(low).syn().psh().urg(0).ece().cwr()), true),
            ("no SYN", tcp_frame(tcp(low).psh()), false),
            ("SYN and ACK", tcp_frame(tcp(low).syn().ack(1)), false),
            ("SYN and FIN", tcp_frame(tcp(low).syn().fin()), false),
            ("SYN and RST", tcp_frame(tcp(low).syn().rst()), false),
            ("empty UDP", frame(v4().udp(4000, low), 0), true),
            ("UDP that is not empty", frame(v4().udp(4000, low), 1), false),
            ("empty UDP above", frame(v4().udp(4000, high + 1), 0), false),
            ("v6 SYN", tcp_frame(tcp6(high).syn()), true),
            ("v6 SYN above", tcp_frame(tcp6(high + 1).syn()), false),
            ("v6 SYN and ACK", tcp_frame(tcp6(low).syn().ack(1)), false),
            ("v6 empty UDP", frame(v6().udp(4000, low), 0), true),
            ("v6 UDP that is not empty", frame(v6().udp(4000, low), 1), false),
            ("tagged SYN", tcp_frame(both_tags().ipv4([1; 4], [2; 4], 64).tcp(1, low, 7, 9).syn()), true),
            (
                "tagged v6 SYN",
                tcp_frame(both_tags().ipv6([1; 16], [2; 16], 64).tcp(1, low, 7, 9).syn()),
                true,
            ),
        ] {
            assert_eq!(with.filter(&frame), passes, "{name}");
            assert!(!without.filter(&frame), "{name}");
        }
        assert!(with.filter(&frame(v4().udp(4000, 62201), 250)), "a knock");
    }
}
