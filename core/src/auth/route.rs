//! What a grant does with packets that this host routes: which may pass, and which source address they get. IPv4 only.

use std::fmt;
use std::net::Ipv4Addr;

use crate::knock::PortSpec;

/// Packets of an address that this host routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransitRoute {
    /// The only destination; `None` for all destinations and protocols.
    pub to: Option<TransitPort>,
    /// Their source address when they leave this host.
    pub source: SourceTranslation,
}

/// A port of another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransitPort {
    /// The host.
    pub host: Ipv4Addr,
    /// Its port.
    pub port: PortSpec,
}

/// The source address of routed packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceTranslation {
    /// Unchanged.
    Kept,
    /// That of the interface on which they leave.
    Masquerade,
    /// This one.
    Address(Ipv4Addr),
}

impl fmt::Display for TransitRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            Some(TransitPort { host, port }) => write!(f, "{port} of {host}")?,
            None => f.write_str("all routed packets")?,
        }
        match self.source {
            SourceTranslation::Kept => Ok(()),
            SourceTranslation::Masquerade => f.write_str(", masqueraded"),
            SourceTranslation::Address(address) => write!(f, ", as {address}"),
        }
    }
}
