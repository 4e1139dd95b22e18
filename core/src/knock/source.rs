//! The `--source` option, which selects the address to grant: `auto`, `observed`, addresses or `listed:` addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::canonical;

/// One address of at least one family, and at most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Addresses {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

/// The address that the user wants to be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceOption {
    /// The client chooses *exact* or *observed*.
    Auto,
    /// The source address of the datagram.
    Observed,
    /// One of these addresses, but only if the datagram comes from it.
    Exact(Addresses),
    /// All of these addresses, regardless of the datagram's source.
    Listed(Addresses),
}

/// Why a text is not a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidSource(&'static str);

impl Addresses {
    /// One address of each family.
    #[must_use]
    pub const fn both(ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Self {
        Self { ipv4: Some(ipv4), ipv6: Some(ipv6) }
    }

    /// The IPv4 address, if there is one.
    #[must_use]
    pub const fn ipv4(self) -> Option<Ipv4Addr> {
        self.ipv4
    }

    /// The IPv6 address, if there is one.
    #[must_use]
    pub const fn ipv6(self) -> Option<Ipv6Addr> {
        self.ipv6
    }
}

impl From<IpAddr> for Addresses {
    fn from(address: IpAddr) -> Self {
        match canonical(address) {
            IpAddr::V4(v4) => Self { ipv4: Some(v4), ipv6: None },
            IpAddr::V6(v6) => Self { ipv4: None, ipv6: Some(v6) },
        }
    }
}

impl FromStr for Addresses {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let mut addresses = Self::default();
        for part in text.split(',') {
            let bare = part.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let address: IpAddr = match bare {
                Some(ipv6) => ipv6.parse().map(IpAddr::V6),
                None => part.parse(),
            }
            .map_err(|_| {
                InvalidSource(
                    "expected auto, observed, an address (192.0.2.1 or 2001:db8::1), one of each family separated \
                     by a comma, or listed: and addresses",
                )
            })?;
            if address.is_unspecified() {
                return Err(InvalidSource(
                    "no host has this address; use observed to grant the address that the server sees",
                ));
            }
            if address.is_multicast() {
                return Err(InvalidSource("no host has this address"));
            }
            let is_repeated = match canonical(address) {
                IpAddr::V4(v4) => addresses.ipv4.replace(v4).is_some(),
                IpAddr::V6(v6) => addresses.ipv6.replace(v6).is_some(),
            };
            if is_repeated {
                return Err(InvalidSource("a knock holds at most one IPv4 and one IPv6 address"));
            }
        }
        Ok(addresses)
    }
}

impl FromStr for SourceOption {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        match text {
            "auto" => Ok(Self::Auto),
            "observed" => Ok(Self::Observed),
            _ => match text.strip_prefix("listed:") {
                Some(list) => list.parse().map(Self::Listed),
                None => text.parse().map(Self::Exact),
            },
        }
    }
}

impl fmt::Display for InvalidSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidSource {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_keyword_or_one_address_per_family() {
        let both =
            Addresses { ipv4: Some([192, 0, 2, 1].into()), ipv6: Some("2001:db8::1".parse().unwrap()) };
        let four = Addresses { ipv6: None, ..both };
        for (text, source) in [
            ("auto", SourceOption::Auto),
            ("observed", SourceOption::Observed),
            ("192.0.2.1", SourceOption::Exact(four)),
            ("::ffff:192.0.2.1", SourceOption::Exact(four)),
            ("2001:db8::1,192.0.2.1", SourceOption::Exact(both)),
            ("[2001:db8::1],192.0.2.1", SourceOption::Exact(both)),
            ("listed:192.0.2.1", SourceOption::Listed(four)),
        ] {
            assert_eq!(text.parse(), Ok(source), "{text}");
        }
    }

    #[test]
    fn a_source_that_no_knock_can_carry_is_refused() {
        for text in [
            "",
            "listed:",
            "listed",
            "Auto",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "192.0.2.1,",
            "192.0.2.1,192.0.2.2",
            "192.0.2.1,::ffff:192.0.2.1",
            "192.0.2.0/24",
            "fe80::1%eth0",
            "[192.0.2.1]",
            "[2001:db8::1",
        ] {
            assert!(text.parse::<SourceOption>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_addresses_of_each_family_are_read_as_they_were_given() {
        let (four, six): (Ipv4Addr, Ipv6Addr) =
            ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let both = Addresses::both(four, six);
        assert_eq!((both.ipv4(), both.ipv6()), (Some(four), Some(six)));
        for (address, expected) in [
            (IpAddr::V4(four), (Some(four), None)),
            (IpAddr::V6(six), (None, Some(six))),
            (IpAddr::V6(four.to_ipv6_mapped()), (Some(four), None)),
        ] {
            let of = Addresses::from(address);
            assert_eq!((of.ipv4(), of.ipv6()), expected, "{address}");
        }
    }

    #[test]
    fn an_invalid_source_is_refused_with_the_reason() {
        for (text, reason) in [
            ("224.0.0.1", "no host has this address"),
            ("192.0.2.1,192.0.2.2", "a knock holds at most one IPv4 and one IPv6 address"),
        ] {
            assert_eq!(
                text.parse::<SourceOption>().map_err(|error| error.to_string()),
                Err(reason.to_owned())
            );
        }
    }
}
