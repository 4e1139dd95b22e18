//! A protocol and a port, e.g. `tcp/22`: what a grant opens and the gate protects.

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
    /// Its number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Its name, as nftables and people write it.
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
pub struct Door {
    protocol: Protocol,
    port: NonZeroU16,
}

impl Door {
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

/// A text is no door; says what one looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidDoor;

impl fmt::Display for InvalidDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port is written tcp/22 or udp/51820, from 1 to 65535")
    }
}

impl std::error::Error for InvalidDoor {}

impl FromStr for Door {
    type Err = InvalidDoor;

    fn from_str(text: &str) -> Result<Self, InvalidDoor> {
        let (protocol, port) = text.split_once('/').ok_or(InvalidDoor)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(InvalidDoor),
        };
        // `parse` would take a leading plus.
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidDoor);
        }
        Ok(Self { protocol, port: port.parse().map_err(|_| InvalidDoor)? })
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.as_str(), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_a_protocol_and_a_port() {
        for text in ["tcp/22", "udp/65535", "tcp/1"] {
            assert_eq!(text.parse::<Door>().unwrap().to_string(), text);
        }
        for text in
            ["", "22", "tcp/", "tcp/0", "tcp/65536", "tcp/+22", "sctp/22", "tcp/22/23", "TCP/22", "tcp/2-3"]
        {
            assert_eq!(text.parse::<Door>(), Err(InvalidDoor), "{text}");
        }
    }
}
