//! Packets without their addresses: recorded from a client, sent again or changed.

use std::net::Ipv4Addr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::lab::{CLIENT_MAC, SERVER, SERVER_MAC};

/// A datagram, or the first packet of a TCP connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Udp { from: u16, to: u16, payload: Vec<u8> },
    Syn { from: u16, to: u16 },
}

impl Packet {
    /// Reads a frame. Other packets, such as those of an existing connection, are `None`.
    pub(crate) fn read(frame: &[u8]) -> Option<(Ipv4Addr, Self)> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(NetSlice::Ipv4(ip)) = &packet.net else { return None };
        let read = match packet.transport? {
            TransportSlice::Udp(udp) => Self::Udp {
                from: udp.source_port(),
                to: udp.destination_port(),
                payload: udp.payload().to_vec(),
            },
            TransportSlice::Tcp(tcp) if tcp.syn() && !tcp.ack() => {
                Self::Syn { from: tcp.source_port(), to: tcp.destination_port() }
            }
            _ => return None,
        };
        Some((ip.header().source_addr(), read))
    }

    /// The frame with this packet from `source` to the server.
    pub(crate) fn frame(&self, source: Ipv4Addr) -> Vec<u8> {
        let builder =
            PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC).ipv4(source.octets(), SERVER.octets(), 64);
        let mut frame = Vec::new();
        match self {
            Self::Udp { from, to, payload } => builder.udp(*from, *to).write(&mut frame, payload).unwrap(),
            // The length of the options that Linux sends, which are 20 bytes.
            Self::Syn { from, to } => {
                let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
                let tcp = builder.tcp(*from, *to, 0x0102_0304, 64_240).syn().options_raw(&options).unwrap();
                tcp.write(&mut frame, &[]).unwrap();
            }
        }
        frame
    }
}

/// A small generator of numbers that look random (xorshift64*), the same in each run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = (self.roll() >> 56) as u8;
        }
    }

    /// An address of the block for benchmarks, 198.18.0.0/15 (RFC 2544).
    pub(crate) fn address(&mut self) -> Ipv4Addr {
        Ipv4Addr::from(0xC612_0000 | (self.roll() >> 47) as u32)
    }

    /// A port that a client may have.
    pub(crate) fn port(&mut self) -> u16 {
        32_768 + (self.roll() >> 49) as u16 / 2
    }
}
