//! Values of options of fwknop's client, on its command line and in `.fwknoprc`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::config::values as server_values;
use crate::packet::Port;

/// Maximum length of an HMAC key in bytes (fwknop's client, which cuts off the rest).
pub const CLIENT_HMAC_KEY_MAX: usize = 128;
/// The longest timeout that a server accepts, in seconds.
const TIMEOUT_MAX: u32 = 65_536;
/// Maximum length of a NAT host (fwknop's server).
const HOST_MAX: usize = 70;

/// Why a value is refused. Does not contain the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(super) String);

fn invalid<T>(reason: &str) -> Result<T, InvalidValue> {
    Err(InvalidValue(reason.to_owned()))
}

/// The address that gets access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedAddress {
    /// This address.
    Address(Ipv4Addr),
    /// The address that the packet comes from.
    Source,
    /// The client's public address, which a web site reports.
    Resolve,
}

impl AllowedAddress {
    /// Parses an address that is not the word `source` or `resolve`.
    ///
    /// # Errors
    /// When it is not an IPv4 address.
    pub fn address(text: &str) -> Result<Self, InvalidValue> {
        match text.parse() {
            Ok(IpAddr::V4(address)) if address.is_unspecified() => Ok(Self::Source),
            Ok(IpAddr::V4(address)) => Ok(Self::Address(address)),
            Ok(IpAddr::V6(_)) => {
                invalid("is an IPv6 address, and fwknop's packets contain IPv4 addresses only")
            }
            Err(_) => invalid("is not an IPv4 address"),
        }
    }
}

/// The value of `ALLOW_IP`.
impl FromStr for AllowedAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            _ if text.eq_ignore_ascii_case("source") => Ok(Self::Source),
            _ if text.eq_ignore_ascii_case("resolve") => Ok(Self::Resolve),
            _ => Self::address(text),
        }
    }
}

/// A comma-separated list of ports, such as `tcp/22,udp/53`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortList(pub Vec<Port>);

impl FromStr for PortList {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match server_values::ports(text) {
            Ok(ports) => Ok(Self(ports)),
            Err(_) => invalid("expected a list like tcp/22,udp/53"),
        }
    }
}

/// How packets are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketTransport {
    /// In a UDP datagram.
    Udp,
    /// Over a TCP connection.
    Tcp,
    /// In an HTTP request.
    Http,
}

impl PacketTransport {
    /// The name in `.fwknoprc`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Http => "http",
        }
    }
}

impl FromStr for PacketTransport {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let known = [Self::Udp, Self::Tcp, Self::Http];
        if let Some(transport) = known.into_iter().find(|known| known.name().eq_ignore_ascii_case(text)) {
            return Ok(transport);
        }
        match text.to_ascii_lowercase().as_str() {
            "udpraw" | "tcpraw" | "icmp" => invalid("raw packets are not supported; use udp, tcp or http"),
            _ => invalid("expected udp, tcp or http"),
        }
    }
}

/// For how many seconds access is requested, 0 to 65536; 0 is the server's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientTimeout(pub u32);

impl FromStr for ClientTimeout {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match server_values::number(text, 0, TIMEOUT_MAX) {
            Ok(seconds) => Ok(Self(seconds)),
            Err(_) => invalid("expected a number of seconds from 0 to 65536"),
        }
    }
}

/// The host that connections are forwarded to, and its port; without a port, the requested one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatHost {
    /// An address or a host name.
    pub host: String,
    /// 1 to 65535.
    pub port: Option<u16>,
}

impl FromStr for NatHost {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (host, port) = match text.split_once([':', ',']) {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let is_host = (1..=HOST_MAX).contains(&host.len())
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        let port = port.map(|port| port.parse().ok().filter(|&port: &u16| port != 0));
        match (is_host, port) {
            (true, None) => Ok(Self { host: host.to_owned(), port: None }),
            (true, Some(Some(port))) => Ok(Self { host: host.to_owned(), port: Some(port) }),
            _ => invalid("expected an IPv4 address or a host name, and a port: 192.168.10.2,22"),
        }
    }
}

impl fmt::Display for NatHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.iter().try_for_each(|port| write!(f, ",{port}"))
    }
}

/// The port that replaces the requested one in a NAT request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatPort {
    /// This one.
    Number(u16),
    /// A random one, which the client prints.
    Random,
}

/// What is added to the client's time, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOffset(pub i64);

impl TimeOffset {
    /// The same offset in the other direction.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

/// A number with a unit that begins with `s`, `m`, `h` or `d`; without a unit, seconds. `TIME_OFFSET` can have a sign.
impl FromStr for TimeOffset {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (text, is_negative) = match text.strip_prefix('-') {
            Some(rest) => (rest, true),
            None => (text.strip_prefix('+').unwrap_or(text), false),
        };
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let seconds = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3_600,
            "d" | "day" | "days" => 86_400,
            _ => 0,
        };
        // More digits are no offset of a clock.
        let number = if number.len() <= 8 { number.parse::<i64>().ok() } else { None };
        match number.and_then(|number| number.checked_mul(seconds)) {
            Some(offset) if seconds > 0 => {
                Ok(if is_negative { Self(offset).negated() } else { Self(offset) })
            }
            _ => invalid("expected a time like 60sec, 60min, 2hours or 2days"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_has_a_unit_or_is_in_seconds() {
        for (text, seconds) in [
            ("60", 60),
            ("60sec", 60),
            ("60min", 3_600),
            ("60MIN", 3_600),
            ("3h", 10_800),
            ("2days", 172_800),
            ("-2hours", -7_200),
            ("+5", 5),
        ] {
            assert_eq!(text.parse(), Ok(TimeOffset(seconds)), "{text}");
        }
        for invalid in ["", "x", "3x", "3 weeks", "--3", "999999999999", "1.5h"] {
            assert!(invalid.parse::<TimeOffset>().is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_nat_host_has_an_optional_port_after_a_colon_or_a_comma() {
        for (text, port) in [("10.0.0.1", None), ("10.0.0.1:22", Some(22)), ("web.example.org,80", Some(80))]
        {
            assert_eq!(text.parse::<NatHost>().map(|host| host.port), Ok(port), "{text}");
        }
        assert_eq!(
            "10.0.0.1:22".parse::<NatHost>().map(|host| host.to_string()),
            Ok("10.0.0.1,22".to_owned())
        );
        let long = "h".repeat(71);
        for invalid in ["", ":22", "h,0", "h,65536", "h,1,2", "a b,22", "a/b,22", "h,", long.as_str()] {
            assert!(invalid.parse::<NatHost>().is_err(), "{invalid}");
        }
    }

    #[test]
    fn an_allowed_address_is_ipv4_or_a_word() {
        for (text, address) in [
            ("source", AllowedAddress::Source),
            ("Resolve", AllowedAddress::Resolve),
            ("0.0.0.0", AllowedAddress::Source),
            ("192.0.2.7", AllowedAddress::Address(Ipv4Addr::new(192, 0, 2, 7))),
        ] {
            assert_eq!(text.parse(), Ok(address), "{text}");
        }
        assert!("2001:db8::1".parse::<AllowedAddress>().unwrap_err().to_string().contains("IPv6"));
        for invalid in ["", "1.2.3", "010.1.1.1", "host.example.org"] {
            assert!(invalid.parse::<AllowedAddress>().is_err(), "{invalid}");
        }
    }

    #[test]
    fn raw_transports_are_refused_by_name() {
        assert_eq!("HTTP".parse(), Ok(PacketTransport::Http));
        for raw in ["udpraw", "tcpraw", "icmp"] {
            let error = raw.parse::<PacketTransport>().unwrap_err().to_string();
            assert!(error.contains("raw packets are not supported"), "{error}");
        }
        assert!("sctp".parse::<PacketTransport>().is_err());
        for (text, timeout) in
            [("0", Some(0)), ("65536", Some(65_536)), ("65537", None), ("-1", None), ("x", None)]
        {
            assert_eq!(text.parse().ok(), timeout.map(ClientTimeout), "{text}");
        }
    }
}
