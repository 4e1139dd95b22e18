//! The checks of fwknop's stanzas.

use super::report::CheckReport;
use super::ruleset::survey::{NeededRule, needed_rules_without_mark};
use crate::config::ServerConfig;
use crate::console::counted;
use crate::firewall::{FirewallMode, PacketMark};
use crate::legacy::fwknop::daemon::has_only_accept_rule;
use crate::legacy::fwknop::{FwknopConfig, LoadedStanza};
use crate::os::host;
use spa_knock_core::knock::{PortRange, PortSpec, Protocol};
use spa_knock_fwknop::{Port, Transport};

impl CheckReport {
    pub(super) fn fwknop(&mut self, config: &ServerConfig, fwknop: &FwknopConfig) {
        self.has_legacy_users |= !fwknop.stanzas.is_empty();
        let stanzas = counted(fwknop.stanzas.len(), "stanza");
        self.ok(format!("packets of fwknop: {stanzas} in {}", fwknop.path.display()));
        let place = ["legacy", "fwknop"];
        for notice in &fwknop.notices {
            let hint = notice.hint.as_deref().unwrap_or("remove the line if this is what you want");
            self.warning(config, &place, format!("{}: {}", notice.place, notice.reason), hint);
        }
        if let FirewallMode::Mark(mark) = config.mode
            && has_only_accept_rule(mark)
        {
            self.warning(
                config,
                &["firewall", "mode"],
                "firewall.mode: a rule that spa-knockd fwknopd has added accepts the mark; it is gone after a reboot".to_owned(),
                &format!("add one of your own, and save it: iptables -I INPUT -m mark --mark {mark}/{mark} -j ACCEPT"),
            );
        }
        let own = host::own_addresses();
        for loaded in &fwknop.stanzas {
            let parts = loaded.forwards(|ip| own.contains(&ip));
            if !parts.is_empty() {
                self.legacy_forwards.push((format!("legacy.fwknop: {}: FORCE_NAT", loaded.name), parts));
            }
            self.ports_of_stanza(config, loaded);
        }
    }

    /// Warns of ports that a grant does not open, because the gate does not know them.
    fn ports_of_stanza(&mut self, config: &ServerConfig, loaded: &LoadedStanza) {
        let place = ["legacy", "fwknop"];
        let stanza = &loaded.stanza;
        let needs_mark = matches!(config.mode, FirewallMode::Mark(_));
        let hint = match loaded.is_forwarded() {
            true if needs_mark && !stanza.nat.forward_all && !stanza.nat.no_destination => {
                "add it to protect in [firewall]; otherwise forwarded packets do not get the mark"
            }
            // The gate forwards them in any case.
            true => return,
            false => {
                "add it to protect in [firewall]; otherwise it is open to everyone, or another firewall closes it, and a grant changes neither"
            }
        };
        let ports = stanza.open_ports.iter().flatten().filter_map(|port| range(*port));
        for port in ports.filter(|port| !config.guarded().any(|guarded| guarded.overlap(*port))) {
            let message =
                format!("legacy.fwknop: {}: OPEN_PORTS: {port} is not in firewall.protect", loaded.name);
            self.warning(config, &place, message, hint);
        }
        if stanza.open_ports.is_none() && stanza.cycle.is_none() && stanza.commands.is_none() {
            self.warning(
                config,
                &place,
                format!(
                    "legacy.fwknop: {}: has no OPEN_PORTS; a grant opens only ports in firewall.protect",
                    loaded.name
                ),
                "list the ports that its packets may open in OPEN_PORTS, and in protect in [firewall]",
            );
        }
    }
}

/// The mark that only a rule of `spa-knockd fwknopd`, which has stopped, accepts, and the rules that are needed once that
/// one is gone. `None` if there is no such rule.
pub(crate) fn rules_after_reboot(config: &ServerConfig) -> Option<(PacketMark, Vec<NeededRule>)> {
    match config.mode {
        FirewallMode::Mark(mark) if has_only_accept_rule(mark) => {
            Some((mark, needed_rules_without_mark(config)))
        }
        FirewallMode::Mark(_) | FirewallMode::Guard | FirewallMode::Set => None,
    }
}

fn range(port: Port) -> Option<PortRange> {
    let protocol = match port.transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    PortSpec::new(protocol, port.number).map(PortRange::from)
}
