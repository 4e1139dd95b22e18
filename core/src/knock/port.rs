//! A protocol with one port or a range of consecutive ports, such as `tcp/22`: what a grant opens and the gate
//! protects.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
}

impl Protocol {
    /// The number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The name in nftables and in configs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port of one protocol, written `tcp/22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    protocol: Protocol,
    port: NonZeroU16,
}

impl PortSpec {
    /// The port of a protocol, or `None` for port 0.
    #[must_use]
    pub fn new(protocol: Protocol, port: u16) -> Option<Self> {
        NonZeroU16::new(port).map(|port| Self { protocol, port })
    }

    /// The protocol.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        self.protocol
    }

    /// The port, 1 to 65535.
    #[must_use]
    pub const fn port(self) -> u16 {
        self.port.get()
    }
}

/// Error: the text is not a port. Its `Display` shows the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidPortSpec;

impl fmt::Display for InvalidPortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a port such as tcp/22 or udp/51820, from 1 to 65535")
    }
}

impl std::error::Error for InvalidPortSpec {}

impl FromStr for PortSpec {
    type Err = InvalidPortSpec;

    fn from_str(text: &str) -> Result<Self, InvalidPortSpec> {
        let (protocol, port) = text.split_once('/').ok_or(InvalidPortSpec)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(InvalidPortSpec),
        };
        // `parse` would accept a leading plus sign.
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidPortSpec);
        }
        Ok(Self { protocol, port: port.parse().map_err(|_| InvalidPortSpec)? })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.as_str(), self.port)
    }
}

/// Consecutive ports of one protocol, written `tcp/22` or `tcp/8000-8999`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    protocol: Protocol,
    first: NonZeroU16,
    last: NonZeroU16,
}

impl PortRange {
    /// The range that sorts first.
    pub const LOWEST: Self = Self { protocol: Protocol::Tcp, first: NonZeroU16::MIN, last: NonZeroU16::MIN };

    /// The ports from `first` to `last`; `None` if one of them is 0 or `last` is lower than `first`.
    #[must_use]
    pub fn between(protocol: Protocol, first: u16, last: u16) -> Option<Self> {
        let (first, last) = (NonZeroU16::new(first)?, NonZeroU16::new(last)?);
        (first <= last).then_some(Self { protocol, first, last })
    }

    /// The protocol.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        self.protocol
    }

    /// The first and the last port, each 1 to 65535.
    #[must_use]
    pub const fn bounds(self) -> (u16, u16) {
        (self.first.get(), self.last.get())
    }

    /// The numbers: a single one, or first and last joined by `between`, which differs between firewalls.
    #[must_use]
    pub fn numbers(self, between: char) -> String {
        match self.bounds() {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}{between}{last}"),
        }
    }

    /// The port, if the range contains exactly one.
    #[must_use]
    pub fn single(self) -> Option<PortSpec> {
        (self.first == self.last).then_some(PortSpec { protocol: self.protocol, port: self.first })
    }

    /// The number of ports.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last.get()).saturating_sub(self.first.get().into()).saturating_add(1)
    }

    /// Iterates over the ports.
    pub fn each(self) -> impl Iterator<Item = PortSpec> {
        let (first, last) = self.bounds();
        (first..=last).filter_map(move |port| PortSpec::new(self.protocol, port))
    }

    /// Whether the range contains all of `other`.
    #[must_use]
    pub fn contain(self, other: Self) -> bool {
        self.protocol == other.protocol && self.first <= other.first && other.last <= self.last
    }

    /// Whether the range contains at least one port of `other`.
    #[must_use]
    pub fn overlap(self, other: Self) -> bool {
        self.protocol == other.protocol && self.first <= other.last && other.first <= self.last
    }

    /// The range from the lower first port to the higher last port of both, with the protocol of `self`.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last), ..self }
    }
}

impl From<PortSpec> for PortRange {
    fn from(port: PortSpec) -> Self {
        Self { protocol: port.protocol, first: port.port, last: port.port }
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortSpec;

    fn from_str(text: &str) -> Result<Self, InvalidPortSpec> {
        let Some((first, last)) = text.split_once('-') else {
            return text.parse::<PortSpec>().map(Self::from);
        };
        let first: PortSpec = first.parse()?;
        let last: PortSpec = format!("{}/{last}", first.protocol.as_str()).parse()?;
        if last.port < first.port {
            return Err(InvalidPortSpec);
        }
        Ok(Self { protocol: first.protocol, first: first.port, last: last.port })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.as_str(), self.numbers('-'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_written_as_protocol_and_number() {
        for text in ["tcp/22", "udp/65535", "tcp/1"] {
            assert_eq!(text.parse::<PortSpec>().unwrap().to_string(), text);
        }
        for text in
            ["", "22", "tcp/", "tcp/0", "tcp/65536", "tcp/+22", "sctp/22", "tcp/22/23", "TCP/22", "tcp/2-3"]
        {
            assert_eq!(text.parse::<PortSpec>(), Err(InvalidPortSpec), "{text}");
        }
    }

    #[test]
    fn a_port_range_is_one_port_or_ascending() {
        for text in ["tcp/22", "udp/1-65535", "tcp/8000-8999"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        assert_eq!("tcp/7-7".parse(), "tcp/7".parse::<PortRange>());
        for (text, count) in [("tcp/22", 1), ("tcp/8000-8999", 1_000), ("udp/1-65535", 65_535)] {
            let ports: PortRange = text.parse().unwrap();
            assert_eq!(
                (ports.count(), ports.each().count()),
                (count, usize::try_from(count).unwrap()),
                "{text}"
            );
        }
        for text in ["", "tcp/2-1", "tcp/0-5", "tcp/1-", "tcp/-1", "tcp/1-65536", "tcp/1-2-3", "tcp/1-udp/2"]
        {
            assert_eq!(text.parse::<PortRange>(), Err(InvalidPortSpec), "{text}");
        }
        let ports = |text: &str| text.parse::<PortRange>().unwrap();
        for (one, other, contains, overlaps) in [
            ("tcp/1-9", "tcp/1-9", true, true),
            ("tcp/1-9", "tcp/5", true, true),
            ("tcp/1-9", "tcp/5-10", false, true),
            ("tcp/1-9", "tcp/10", false, false),
            ("tcp/1-9", "udp/5", false, false),
        ] {
            assert_eq!(ports(one).contain(ports(other)), contains, "{one} {other}");
            assert_eq!(ports(one).overlap(ports(other)), overlaps, "{one} {other}");
            assert_eq!(ports(other).overlap(ports(one)), overlaps, "{other} {one}");
        }
    }

    #[test]
    fn a_port_has_its_number_and_its_protocol_the_one_of_the_ip_header() {
        for (text, protocol, number, port) in
            [("tcp/22", Protocol::Tcp, 6, 22), ("udp/51820", Protocol::Udp, 17, 51_820)]
        {
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!((spec.protocol(), spec.protocol().number(), spec.port()), (protocol, number, port));
            assert_eq!(PortSpec::new(protocol, port), Some(spec));
            assert_eq!(PortSpec::new(protocol, 0), None);
        }
        assert_eq!(
            InvalidPortSpec.to_string(),
            "expected a port such as tcp/22 or udp/51820, from 1 to 65535"
        );
    }

    #[test]
    fn the_ports_between_two_are_a_range_and_two_ranges_join_to_one() {
        let between = |first, last| PortRange::between(Protocol::Tcp, first, last);
        for (first, last, text) in
            [(1, 1, Some("tcp/1")), (1, 2, Some("tcp/1-2")), (2, 1, None), (0, 1, None), (0, 0, None)]
        {
            assert_eq!(between(first, last).map(|range| range.to_string()).as_deref(), text);
        }
        let ports = |text: &str| text.parse::<PortRange>().unwrap();
        for (one, other, joined) in [
            ("tcp/5-9", "tcp/1-7", "tcp/1-9"),
            ("tcp/1", "tcp/9", "tcp/1-9"),
            ("tcp/1-9", "tcp/5", "tcp/1-9"),
        ] {
            assert_eq!(ports(one).joined(ports(other)), ports(joined));
        }
        let protocols = ["tcp/7", "udp/7-8"].map(|text| ports(text).protocol());
        assert_eq!(protocols, [Protocol::Tcp, Protocol::Udp]);
        assert_eq!((ports("tcp/7").single(), ports("tcp/7-8").single()), ("tcp/7".parse().ok(), None));
        assert_eq!((ports("tcp/7").numbers(':'), ports("tcp/7-8").numbers(':')), ("7".into(), "7:8".into()));
    }
}
