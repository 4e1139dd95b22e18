//! Address prefixes, for carriers that change a customer's address within a pool.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// All addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    first: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of `address` with `length` bits. Lengths beyond the size of the address are reduced to it.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits(address));
        let first = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Self { first, length }
    }

    /// The address, if the prefix contains exactly one.
    #[must_use]
    pub fn single(self) -> Option<IpAddr> {
        (self.length == bits(self.first)).then_some(self.first)
    }

    /// The lowest address.
    #[must_use]
    pub const fn first(self) -> IpAddr {
        self.first
    }

    /// The highest address.
    #[must_use]
    pub fn last(self) -> IpAddr {
        match self.first {
            IpAddr::V4(v4) => {
                let rest = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V4((u32::from(v4) | rest).into())
            }
            IpAddr::V6(v6) => {
                let rest = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V6((u128::from(v6) | rest).into())
            }
        }
    }

    /// Whether the prefix contains the address.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        Self::of(address, self.length) == self
    }

    /// Whether the prefix contains every address of its family.
    #[must_use]
    pub const fn is_everything(self) -> bool {
        self.length == 0
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self { first: address, length: bits(address) }
    }
}

/// Error: the text is not a prefix or a prefix length. Its `Display` shows the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidPrefix(&'static str);

impl fmt::Display for InvalidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidPrefix {}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        const FORM: InvalidPrefix =
            InvalidPrefix("expected addresses such as 203.0.113.9, 203.0.113.0/24 or 2001:db8::/32");
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(|address: IpAddr| Self::from(address)).map_err(|_| FORM);
        };
        let address: IpAddr = address.parse().map_err(|_| FORM)?;
        let length = number(length).filter(|&length| length <= bits(address)).ok_or(FORM)?;
        let prefix = Self::of(address, length);
        if prefix.first != address {
            return Err(InvalidPrefix(
                "address has bits set beyond its prefix length: use the first address of the range",
            ));
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}/{}", self.first, self.length),
        }
    }
}

/// The prefix lengths, in bits, that grants use for each address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixLengths {
    v4: u8,
    v6: u8,
}

impl PrefixLengths {
    /// Full lengths: each grant covers a single address.
    pub const SINGLE: Self = Self { v4: 32, v6: 128 };

    /// The prefix that contains `address`.
    #[must_use]
    pub fn around(self, address: IpAddr) -> Prefix {
        Prefix::of(address, if address.is_ipv4() { self.v4 } else { self.v6 })
    }

    /// Replaces one length, written `/16` to `/32` for IPv4 or `/33` to `/128` for IPv6.
    ///
    /// # Errors
    /// If the text is not such a length.
    pub fn with(self, text: &str) -> Result<Self, InvalidPrefix> {
        match text.strip_prefix('/').and_then(number) {
            Some(length @ 16..=32) => Ok(Self { v4: length, ..self }),
            Some(length @ 33..=128) => Ok(Self { v6: length, ..self }),
            _ => Err(InvalidPrefix("expected a prefix length from /16 to /32 (IPv4) or /33 to /128 (IPv6)")),
        }
    }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(text: &str) -> Option<u8> {
    // `parse` would accept a leading plus sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_is_a_range_from_its_first_to_its_last_address() {
        for (address, length, text, first, last) in [
            ("203.0.113.9", 32, "203.0.113.9", "203.0.113.9", "203.0.113.9"),
            ("203.0.113.9", 24, "203.0.113.0/24", "203.0.113.0", "203.0.113.255"),
            ("203.0.113.9", 0, "0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("203.0.113.9", 99, "203.0.113.9", "203.0.113.9", "203.0.113.9"),
            ("2001:db8::1", 64, "2001:db8::/64", "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"),
            ("2001:db8::1", 128, "2001:db8::1", "2001:db8::1", "2001:db8::1"),
            ("2001:db8::1", 0, "::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let prefix = Prefix::of(ip(address), length);
            assert_eq!(prefix.to_string(), text);
            assert_eq!((prefix.first(), prefix.last()), (ip(first), ip(last)), "{text}");
            assert_eq!(text.parse(), Ok(prefix));
            assert!(prefix.contains(ip(address)) && prefix.contains(prefix.last()));
            assert_eq!(prefix.contains(ip("198.51.100.1")), length == 0 && address.contains('.'), "{text}");
            assert_eq!(prefix.is_everything(), length == 0, "{text}");
        }
    }

    #[test]
    fn an_invalid_prefix_is_refused() {
        for text in
            ["", "/24", "203.0.113.9/24", "203.0.113.0/33", "::/129", "203.0.113.0/+24", "x/1", "::1/"]
        {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_size_of_a_length_selects_its_address_family() {
        let lengths = PrefixLengths::SINGLE.with("/24").and_then(|lengths| lengths.with("/64")).unwrap();
        assert_eq!(lengths.around(ip("203.0.113.9")).to_string(), "203.0.113.0/24");
        assert_eq!(lengths.around(ip("2001:db8::1")).to_string(), "2001:db8::/64");
        assert_eq!(PrefixLengths::SINGLE.around(ip("2001:db8::1")).to_string(), "2001:db8::1");
        for text in ["24", "/15", "/129", "/", "/+24", "/256"] {
            assert!(PrefixLengths::SINGLE.with(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_invalid_prefix_names_the_expected_form() {
        let error = |text: &str| text.parse::<Prefix>().unwrap_err().to_string();
        let form = "expected addresses such as 203.0.113.9, 203.0.113.0/24 or 2001:db8::/32";
        assert_eq!(error("x"), form);
        let bits = "address has bits set beyond its prefix length: use the first address of the range";
        assert_eq!(error("203.0.113.9/24"), bits);
    }
}
