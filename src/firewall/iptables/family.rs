//! The two IP versions, each with its own programs, tables and sets.

use crate::os::host;
use spa_knock_core::knock::Prefix;

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IpVersion {
    V4,
    V6,
}

impl IpVersion {
    /// The IP versions of this host.
    pub(super) fn here() -> Vec<Self> {
        if host::has_ipv6() { vec![Self::V4, Self::V6] } else { vec![Self::V4] }
    }

    /// The IP version of a prefix.
    pub(super) fn of(prefix: Prefix) -> Self {
        if prefix.first().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The program that changes one rule.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    /// The program that changes a table in one transaction.
    pub(super) const fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    /// The program that prints all tables.
    pub(super) const fn save(self) -> &'static str {
        match self {
            Self::V4 => "iptables-save",
            Self::V6 => "ip6tables-save",
        }
    }

    /// Its name in ipset.
    pub(super) const fn inet(self) -> &'static str {
        match self {
            Self::V4 => "inet",
            Self::V6 => "inet6",
        }
    }

    /// The last character of the names of its sets.
    pub(super) const fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// Two ranges that together contain all addresses: a set does not accept a prefix of length 0.
    pub(super) const fn all_addresses(self) -> [&'static str; 2] {
        match self {
            Self::V4 => ["0.0.0.0/1", "128.0.0.0/1"],
            Self::V6 => ["::/1", "8000::/1"],
        }
    }
}
