//! Counts the packets that reach a namespace, with nftables.

use serde_json::Value;

use super::Namespace;

/// Counts every packet that reaches a namespace over a cable. Neighbor discovery and multicast membership are left out,
/// because the kernel sends them by itself. ARP is not IP, so it is never counted.
pub(crate) struct Counter<'a>(&'a Namespace);

impl<'a> Counter<'a> {
    /// Adds a counter, which starts at zero.
    pub(crate) fn new(namespace: &'a Namespace) -> Self {
        namespace.nft("add table inet count");
        namespace.nft("add counter inet count arrived");
        namespace.nft("add chain inet count in { type filter hook prerouting priority -400 ; }");
        namespace.nft("add rule inet count in iifname lo accept");
        // 130 to 132 and 143: multicast membership; 133 to 136: router and neighbor discovery.
        namespace.nft("add rule inet count in icmpv6 type { 130-136, 143 } accept");
        namespace.nft("add rule inet count in counter name arrived");
        Self(namespace)
    }

    /// Number of packets so far.
    pub(crate) fn packets(&self) -> u64 {
        let json: Value = serde_json::from_str(&self.0.nft("-j list counter inet count arrived")).unwrap();
        let objects = json["nftables"].as_array().unwrap();
        objects.iter().find_map(|object| object["counter"]["packets"].as_u64()).expect("a counter")
    }
}
