//! The capabilities that a config requires of the daemon that runs with it.

use super::{BackendKind, ServerConfig};
use crate::capture::CaptureKind;
use crate::os::host;
use crate::os::process::capabilities::{Capability, Need};
use crate::os::process::privileges;

impl ServerConfig {
    /// What the daemon does with this config, and the capabilities that it needs for that.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        let need = |key, purpose, capabilities: &[Capability]| Need {
            key,
            purpose,
            capabilities: capabilities.to_vec(),
        };
        let mut needs = Vec::new();
        match self.backend {
            BackendKind::Nftables => {
                needs.push(need("firewall.backend", "changing the firewall", &[Capability::NET_ADMIN]));
            }
            // iptables asks for the names of ipsets through a raw socket, and iptables-legacy has no other.
            BackendKind::Iptables => {
                let both = [Capability::NET_ADMIN, Capability::NET_RAW];
                needs.push(need("firewall.backend", "changing the firewall", &both));
            }
            BackendKind::None => {}
        }
        if self.capture == CaptureKind::Pcap {
            needs.push(need("server.capture", "capturing packets", &[Capability::NET_RAW]));
        } else if self.legacy.as_ref().is_some_and(|legacy| legacy.knockd.is_some()) {
            needs.push(need("legacy.knockd", "capturing packets", &[Capability::NET_RAW]));
        }
        // Without any unprivileged user, starting the watcher reports that.
        needs.extend(privileges::need_of(privileges::unprivileged(&self.user).ok().flatten()));
        // With a capture, knocks are received without the port; only their replies need it, and the daemon retries.
        if self.capture == CaptureKind::Udp && self.port < host::first_unprivileged_port() {
            let purpose = "binding a port of privileged programs";
            needs.push(need("server.port", purpose, &[Capability::NET_BIND_SERVICE]));
        }
        if self.health.as_ref().is_some_and(|health| health.address.port() < host::first_unprivileged_port())
        {
            let purpose = "binding a port of privileged programs";
            needs.push(need("server.health", purpose, &[Capability::NET_BIND_SERVICE]));
        }
        needs
    }
}
