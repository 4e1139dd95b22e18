//! What the kernel lets through to us: step 1 of the ladder. Made from numbers alone, so that no text can smuggle
//! in a name to look up.

use crate::packet::Link;
use crate::wire::{DATAGRAM_MAX, DATAGRAM_MIN};

/// Bytes of a UDP header, which UDP's length field counts too.
const UDP_HEADER: usize = 8;

/// The pcap-filter(7) expression for knocks to `port`.
pub(super) fn knocks(link: Link, port: u16) -> String {
    let shortest = DATAGRAM_MIN.saturating_add(UDP_HEADER);
    let longest = DATAGRAM_MAX.saturating_add(UDP_HEADER);
    // UDP's length field also bounds the payload; a fragment has an offset or "more fragments" set.
    let v4 = format!(
        "(ip and udp dst port {port} and ip[6:2] & 0x3fff = 0 and udp[4:2] >= {shortest} and udp[4:2] <= {longest})"
    );
    // `udp[…]` never matches IPv6: the offsets count from the IPv6 header of 40 bytes.
    let v6 = format!(
        "(ip6 and ip6[6] = 17 and ip6[42:2] = {port} and ip6[44:2] >= {shortest} and ip6[44:2] <= {longest})"
    );
    // Behind extension headers (hop-by-hop, routing, destination options; 8 bytes at least) the filter's language
    // cannot look; these are rare, and the parser does.
    let extended = format!(
        "(ip6 and (ip6[6] = 0 or ip6[6] = 43 or ip6[6] = 60) and ip6[4:2] >= {})",
        shortest.saturating_add(8)
    );
    behind_tags(link, format!("({v4} or {v6} or {extended})"))
}

/// The expression for what could be meant as a knock to `port`: all that goes there, whatever else has a knock's
/// length, and fragments.
pub(super) fn around_knocks(link: Link, port: u16) -> String {
    let shortest = DATAGRAM_MIN.saturating_add(UDP_HEADER);
    let longest = DATAGRAM_MAX.saturating_add(UDP_HEADER);
    let v4 = format!(
        "(ip and udp and (udp dst port {port} or (udp[4:2] >= {shortest} and udp[4:2] <= {longest})))"
    );
    let later_fragment = "(ip proto 17 and ip[6:2] & 0x1fff != 0)";
    let v6 = format!(
        "(ip6 and ip6[6] = 17 and (ip6[42:2] = {port} or (ip6[44:2] >= {shortest} and ip6[44:2] <= {longest})))"
    );
    let extended = "(ip6 and (ip6[6] = 0 or ip6[6] = 43 or ip6[6] = 44 or ip6[6] = 60))";
    behind_tags(link, format!("({v4} or {later_fragment} or {v6} or {extended})"))
}

fn behind_tags(link: Link, any: String) -> String {
    match link {
        // `vlan` moves all offsets behind it, so it comes last; one tag, or a customer's inside a provider's.
        // On other links it is an error, and cooked frames are seen without it.
        Link::Ethernet => format!("{any} or (vlan and ({any} or (vlan and {any})))"),
        Link::LinuxCooked | Link::LinuxCooked2 | Link::Raw | Link::Loopback => any,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{Ethernet2Header, PacketBuilder, PacketBuilderStep, UdpHeader, VlanId};
    use pcap::{Capture, Linktype};

    use super::*;

    fn frame(builder: PacketBuilderStep<UdpHeader>, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        builder.write(&mut frame, &vec![0; payload]).unwrap();
        frame
    }

    fn ethernet() -> PacketBuilderStep<Ethernet2Header> {
        PacketBuilder::ethernet2([1; 6], [2; 6])
    }

    #[test]
    fn the_filter_compiles_on_every_link_and_lets_knocks_through_alone() {
        for (link, dlt) in [
            (Link::Ethernet, 1),
            (Link::LinuxCooked, 113),
            (Link::LinuxCooked2, 276),
            (Link::Raw, 12),
            (Link::Loopback, 0),
        ] {
            let capture = Capture::dead(Linktype(dlt)).unwrap();
            assert!(capture.compile(&knocks(link, 62201), true).is_ok(), "{link:?}");
            assert!(capture.compile(&around_knocks(link, 62201), true).is_ok(), "{link:?}");
        }

        let filter =
            Capture::dead(Linktype::ETHERNET).unwrap().compile(&knocks(Link::Ethernet, 62201), true).unwrap();
        let vlan = VlanId::try_new(5).unwrap();
        let v4 = |port| ethernet().ipv4([1; 4], [2; 4], 64).udp(4000, port);
        let v6 = |port| ethernet().ipv6([1; 16], [2; 16], 64).udp(4000, port);
        for (what, frame, passes) in [
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
            assert_eq!(filter.filter(&frame), passes, "{what}");
        }
        let mut fragment = frame(v4(62201), 250);
        fragment[20] = 0x20;
        assert!(!filter.filter(&fragment), "a first fragment");
        let mut hop_by_hop = frame(v6(62201), 250);
        hop_by_hop[20] = 0;
        assert!(filter.filter(&hop_by_hop), "an extension header");
    }
}
