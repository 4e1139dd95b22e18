//! The ports to which packets are sent.

use std::ops::RangeInclusive;

use super::values::{Invalid, port_number};

/// The ports to which packets are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketPorts {
    /// Ports of UDP.
    pub udp: Option<RangeInclusive<u16>>,
    /// Ports of TCP.
    pub tcp: Option<RangeInclusive<u16>>,
}

impl PacketPorts {
    pub(super) const fn udp(port: u16) -> Self {
        Self { udp: Some(port..=port), tcp: None }
    }

    /// Parses the filters that fwknop's documentation shows: `[udp|tcp] [dst] port N` or `portrange N-M`, joined by
    /// `or`.
    pub(super) fn parse(filter: &str) -> Result<Self, Invalid> {
        let invalid = || {
            Invalid::new("not a filter that is understood")
                .hint("write it like `udp port 62201` or `udp dst portrange 10000-65535`, joined by `or`")
        };
        let mut ports = Self { udp: None, tcp: None };
        for part in filter.split(" or ") {
            let mut words =
                part.split_ascii_whitespace().filter(|word| !matches!(*word, "dst" | "inbound" | "and"));
            let protocol = words.next().ok_or_else(invalid)?;
            let range = match (words.next(), words.next(), words.next()) {
                (Some("port"), Some(number), None) => {
                    let number = port_number(number).map_err(|_| invalid())?;
                    number..=number
                }
                (Some("portrange"), Some(range), None) => {
                    let (from, to) = range.split_once('-').ok_or_else(invalid)?;
                    port_number(from).map_err(|_| invalid())?..=port_number(to).map_err(|_| invalid())?
                }
                _ => return Err(invalid()),
            };
            let place = match protocol {
                "udp" => &mut ports.udp,
                "tcp" => &mut ports.tcp,
                _ => return Err(invalid()),
            };
            if range.is_empty() || place.replace(range).is_some() {
                return Err(invalid());
            }
        }
        Ok(ports)
    }
}
