//! `SOURCE` and `DESTINATION`: lists of IPv4 addresses and networks, or any address.

use std::net::{IpAddr, Ipv4Addr};

/// Addresses from or to which packets are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks(Option<Vec<MaskedAddress>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MaskedAddress {
    address: u32,
    mask: u32,
}

impl Networks {
    /// Any address, IPv6 included.
    pub const ANY: Self = Self(None);

    /// Parses a comma-separated list; `ANY` in any case of letters. A mask is a prefix length or four numbers.
    ///
    /// # Errors
    /// The entry that is not understood.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut networks = Some(Vec::new());
        for entry in text.split(',').map(str::trim) {
            if entry.eq_ignore_ascii_case("ANY") {
                networks = None;
            } else {
                let network = MaskedAddress::parse(entry).ok_or_else(|| entry.to_owned())?;
                if let Some(networks) = &mut networks {
                    networks.push(network);
                }
            }
        }
        Ok(Self(networks))
    }

    /// Whether an address belongs to them. An IPv6 address belongs to [`Networks::ANY`] only.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        match (&self.0, address) {
            (None, _) => true,
            (Some(networks), IpAddr::V4(address)) => {
                networks.iter().any(|network| address.to_bits() & network.mask == network.address)
            }
            (Some(_), IpAddr::V6(_)) => false,
        }
    }

    /// Whether every address belongs to them.
    #[must_use]
    pub const fn are_any(&self) -> bool {
        self.0.is_none()
    }

    /// The networks as `ADDRESS/MASK`; none for any address.
    pub fn list(&self) -> Option<impl Iterator<Item = (Ipv4Addr, Ipv4Addr)>> {
        let networks = self.0.as_ref()?;
        Some(networks.iter().map(|network| (network.address.into(), network.mask.into())))
    }
}

impl MaskedAddress {
    fn parse(entry: &str) -> Option<Self> {
        let (address, mask) = match entry.split_once('/') {
            None => (entry, u32::MAX),
            Some((address, mask)) if mask.contains('.') => {
                (address, mask.parse::<Ipv4Addr>().ok()?.to_bits())
            }
            Some((address, length)) => {
                let length = length.parse::<u32>().ok().filter(|length| (1..=32).contains(length))?;
                (address, u32::MAX.checked_shl(32_u32.checked_sub(length)?)?)
            }
        };
        let address = address.parse::<Ipv4Addr>().ok()?.to_bits();
        Some(Self { address: address & mask, mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_the_networks_that_contain_it() {
        for (list, address, contained) in [
            ("ANY", "1.2.3.4", true),
            ("any", "2001:db8::1", true),
            ("10.0.0.1, ANY", "9.9.9.9", true),
            ("10.0.0.0/24", "10.0.0.255", true),
            ("10.0.0.7/24", "10.0.0.255", true),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("10.0.0.0/255.255.255.0", "10.0.0.9", true),
            ("10.0.0.1,192.0.2.0/32", "192.0.2.0", true),
            ("0.0.0.0/1", "127.0.0.1", true),
            ("0.0.0.0/1", "128.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", false),
        ] {
            let networks = Networks::parse(list).unwrap();
            assert_eq!(networks.contain(address.parse().unwrap()), contained, "{list} {address}");
        }
    }

    #[test]
    fn an_entry_that_is_no_network_is_named() {
        for entry in [
            "foo",
            "",
            "::1",
            "10.0.0.1/33",
            "10.0.0.0/0",
            "10.0.0.0/",
            "10.0.0",
            "010.0.0.1",
            "1.1.1.1 2.2.2.2",
        ] {
            assert_eq!(Networks::parse(&format!("10.0.0.1,{entry}")), Err(entry.to_owned()));
        }
    }
}
