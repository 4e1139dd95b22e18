//! Settings of the gate: whose rules close the ports, the packet mark, and the failsafe. Data only.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use spa_knock_core::knock::Prefix;

/// Whose rules close the protected ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirewallMode {
    /// Ours.
    #[default]
    Guard,
    /// The administrator's, which refer to our sets.
    Set,
    /// The administrator's, which drop by default and accept packets with this mark.
    Mark(PacketMark),
}

impl FirewallMode {
    /// Phrase for what the gate does for these ports while it is on.
    #[must_use]
    pub fn when_on(self, ports: &str) -> String {
        match self {
            Self::Guard | Self::Set => format!("{ports} closed without a grant"),
            Self::Mark(mark) => {
                format!("packets with a grant for {ports} get the mark {mark}; your own rules decide")
            }
        }
    }

    /// Phrase for the effect of a gate that is off.
    #[must_use]
    pub const fn when_off(self) -> &'static str {
        match self {
            Self::Guard | Self::Set => "all ports are open",
            Self::Mark(_) => "no packet is marked; only your own rules decide",
        }
    }
}

/// The bit of a packet's mark that is set if a grant admits the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketMark(u32);

impl PacketMark {
    /// The bit as a number.
    #[must_use]
    pub const fn bit(self) -> u32 {
        self.0
    }
}

impl Default for PacketMark {
    /// Bit 28. Kubernetes uses bits 14 and 15, Docker and Weave bits up to 17, Tailscale bits 16 to 23, Cilium bits 0 to
    /// 15, and firewalld and ufw none of the high bits.
    fn default() -> Self {
        Self(0x1000_0000)
    }
}

impl fmt::Display for PacketMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Not exactly one bit of 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidPacketMark;

impl fmt::Display for InvalidPacketMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a single bit in hexadecimal, such as \"0x10000000\"")
    }
}

impl std::error::Error for InvalidPacketMark {}

impl FromStr for PacketMark {
    type Err = InvalidPacketMark;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").ok_or(InvalidPacketMark)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidPacketMark);
        }
        match u32::from_str_radix(digits, 16) {
            Ok(bit) if bit.is_power_of_two() => Ok(Self(bit)),
            _ => Err(InvalidPacketMark),
        }
    }
}

/// A TCP port of the daemon that only these addresses reach, in every mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPort {
    /// The port, at all addresses of this host.
    pub port: u16,
    /// The addresses; packets of others are dropped.
    pub from: Vec<Prefix>,
}

/// Where datagrams to the knock port are dropped before they have cost much. Later they are in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EarlyDrop {
    /// Nowhere.
    #[default]
    None,
    /// Before routing.
    Prerouting,
    /// Where they arrive on these interfaces.
    Ingress(Vec<String>),
}

/// Access after the daemon has been dead for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failsafe {
    /// How long the daemon must have been dead.
    pub after: Duration,
    /// Addresses that may then reach the protected ports.
    pub allow: Vec<Prefix>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_mark_is_one_bit_in_hexadecimal() {
        for text in ["0x1", "0x10000000", "0x80000000"] {
            assert_eq!(text.parse::<PacketMark>().unwrap().to_string(), text);
        }
        for text in ["", "0x", "0x0", "0x3", "1", "0x100000000", "0x+1", "16"] {
            assert_eq!(text.parse::<PacketMark>(), Err(InvalidPacketMark), "{text}");
        }
        assert_eq!(PacketMark::default().to_string(), "0x10000000");
    }
}
