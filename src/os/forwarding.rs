//! Whether this host passes packets on between networks.

use std::path::Path;

use super::files;

/// Whether forwarding is on for IPv4 or IPv6. What cannot be read is off.
#[must_use]
pub fn is_on() -> bool {
    ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
        .iter()
        .any(|path| files::read_text(Path::new(path)).is_ok_and(|text| text.trim() != "0"))
}
