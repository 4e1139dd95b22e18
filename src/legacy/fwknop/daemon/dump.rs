//! `-D`: the settings and the stanzas, without keys.

use std::fmt::Write as _;

use crate::legacy::fwknop::settings::{FwknopConfig, LoadedStanza};
use crate::os::clock;
use spa_knock_fwknop::{CommandUser, Networks, Port, ServerSettings, Stanza};

/// What the daemon does with these files.
pub(super) fn dump(config: &FwknopConfig) -> String {
    let mut text = String::new();
    for notice in config.all_notices() {
        let _ = writeln!(text, "{notice}");
    }
    settings(&mut text, &config.server);
    for loaded in &config.stanzas {
        stanza(&mut text, loaded);
    }
    text
}

fn put(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "  {name:<24} {value}");
}

fn yes(value: bool) -> char {
    if value { 'Y' } else { 'N' }
}

fn settings(text: &mut String, server: &ServerSettings) {
    text.push_str("Settings of fwknopd.conf:\n");
    put(text, "PCAP_INTF", server.interface.as_deref().unwrap_or("any"));
    for (name, ports) in [("UDP ports", &server.ports.udp), ("TCP ports", &server.ports.tcp)] {
        if let Some(ports) = ports {
            put(text, name, format_args!("{}-{}", ports.start(), ports.end()));
        }
    }
    put(text, "ENABLE_UDP_SERVER", yes(server.udp_server));
    if let Some(port) = server.tcp_server {
        put(text, "TCPSERV_PORT", port);
    }
    put(text, "ENABLE_SPA_OVER_HTTP", yes(server.http));
    put(text, "ALLOW_ANY_USER_AGENT", yes(server.any_user_agent));
    put(text, "ENABLE_X_FORWARDED_FOR", yes(server.forwarded_for));
    match server.age_max {
        Some(age) => put(text, "MAX_SPA_PACKET_AGE", age),
        None => put(text, "ENABLE_SPA_PACKET_AGING", 'N'),
    }
    put(text, "ENABLE_IPT_FORWARDING", yes(server.forwarding));
    put(text, "ENABLE_IPT_LOCAL_NAT", yes(server.local_nat));
    if let Some(source) = server.snat {
        put(text, "ENABLE_IPT_SNAT", 'Y');
        put(
            text,
            "SNAT_TRANSLATE_IP",
            source.map_or("that of the interface".to_owned(), |ip| ip.to_string()),
        );
    }
    put(text, "ACCESS_FILE", server.access.display());
    if let Some(folder) = &server.access_folder {
        put(text, "ACCESS_FOLDER", folder.display());
    }
    put(text, "FWKNOP_RUN_DIR", server.run_directory.display());
    put(text, "SUDO_EXE", server.sudo.display());
    put(text, "SYSLOG_IDENTITY", &server.identity);
}

fn stanza(text: &mut String, loaded: &LoadedStanza) {
    let Stanza { place, hmac_key, .. } = &loaded.stanza;
    let stanza = &loaded.stanza;
    let _ = writeln!(text, "\n{} ({place}):", loaded.name);
    put(text, "SOURCE", networks(&stanza.sources));
    put(text, "DESTINATION", networks(&stanza.destinations));
    put(text, "KEY", "<in the file>");
    put(text, "HMAC_KEY", "<in the file>");
    put(text, "HMAC_DIGEST_TYPE", hmac_key.digest());
    if let Some(ports) = &stanza.open_ports {
        put(text, "OPEN_PORTS", listed(ports));
    }
    if !stanza.restrict_ports.is_empty() {
        put(text, "RESTRICT_PORTS", listed(&stanza.restrict_ports));
    }
    if let Some(user) = &stanza.user {
        put(text, "REQUIRE_USERNAME", user);
    }
    put(text, "REQUIRE_SOURCE_ADDRESS", yes(stanza.require_address));
    put(text, "FW_ACCESS_TIMEOUT", stanza.timeout);
    put(text, "MAX_FW_TIMEOUT", stanza.timeout_max);
    if let Some(end) = loaded.expires {
        put(text, "ACCESS_EXPIRE", clock::rfc3339(end));
    }
    if let Some(rules) = &stanza.commands {
        put(text, "ENABLE_CMD_EXEC", 'Y');
        account(text, ["CMD_EXEC_USER", "CMD_EXEC_GROUP"], &rules.run_as);
        if let Some(sudo) = &rules.sudo {
            put(text, "ENABLE_CMD_SUDO_EXEC", 'Y');
            account(text, ["CMD_SUDO_EXEC_USER", "CMD_SUDO_EXEC_GROUP"], sudo);
        }
    }
    if let Some(cycle) = &stanza.cycle {
        put(text, "CMD_CYCLE_OPEN", &cycle.open);
        put(text, "CMD_CYCLE_CLOSE", cycle.close.as_deref().unwrap_or("NONE"));
        if cycle.close.is_some() {
            put(text, "CMD_CYCLE_TIMER", cycle.timer);
        }
    }
    if let Some((host, port)) = stanza.nat.to {
        put(text, "FORCE_NAT", format_args!("{host} {port}"));
    }
    if let Some(source) = stanza.nat.source {
        put(text, "FORCE_SNAT", source);
    }
    for (name, is_set) in [
        ("FORCE_MASQUERADE", stanza.nat.masquerade),
        ("FORWARD_ALL", stanza.nat.forward_all),
        ("DISABLE_DNAT", stanza.nat.no_destination),
    ] {
        if is_set {
            put(text, name, 'Y');
        }
    }
}

fn account(text: &mut String, names: [&str; 2], account: &CommandUser) {
    for (name, value) in names.into_iter().zip([&account.user, &account.group]) {
        if let Some(value) = value {
            put(text, name, value);
        }
    }
}

fn networks(networks: &Networks) -> String {
    match networks.list() {
        None => "ANY".to_owned(),
        Some(list) => list.map(|(address, mask)| format!("{address}/{mask}")).collect::<Vec<_>>().join(","),
    }
}

fn listed(ports: &[Port]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
