//! `[ports]`, `[legacy]` and `server.packet-log`: port sequences, knockd's knock sequences, and the log that both can be
//! read from.

use super::absolute_path;
use crate::capture::{CaptureKind, LogSource, PacketLog};
use crate::config::LegacyConfig;
use crate::config::document::{TomlTable, TomlValue};
use spa_knock_core::knock::KnockRange;

const UDP: &str = "capture = \"udp\" sees no packets but those to its own port";

/// `packet-log` and `packet-log-prefix` of `[server]`.
pub(super) fn read_packet_log(server: &mut TomlTable<'_>) -> Option<PacketLog> {
    let log = server.take("packet-log");
    let prefix = server.take("packet-log-prefix");
    match (&log, &prefix) {
        (Some(log), prefix) => Some(PacketLog {
            source: read_log(log)?,
            prefix: prefix.as_ref().map_or(Some(String::new()), read_log_prefix)?,
        }),
        (None, Some(prefix)) => {
            prefix.problem("there is no log with such a prefix", Some("packet-log = \"/var/log/kern.log\""));
            None
        }
        (None, None) => None,
    }
}

/// `[ports]`: there is a knock range where it stands, even empty.
pub(super) fn read_ports_section(
    value: &TomlValue<'_>,
    capture: CaptureKind,
    log: Option<&PacketLog>,
) -> Option<KnockRange> {
    let mut table = value.table()?;
    let low = table.take("low");
    let knock_range = match &low {
        None => Some(KnockRange::USUAL),
        Some(low) => low.integer(1..=KnockRange::LOW_MAX).and_then(|low| KnockRange::try_from(low).ok()),
    };
    table.finish();
    if capture == CaptureKind::Udp && log.is_none() {
        let hint = "capture = \"pcap\", or packet-log = the firewall's log, or no [ports]";
        value.problem(UDP, Some(hint));
        return None;
    }
    knock_range
}

/// `[legacy]`: knock sequences open doors where it stands.
pub(super) fn read_legacy(
    value: &TomlValue<'_>,
    capture: CaptureKind,
    log: Option<&PacketLog>,
) -> Option<LegacyConfig> {
    if cfg!(not(feature = "legacy")) {
        let hint = "remove [legacy], or take a build with the feature `legacy`";
        value.problem("built without legacy support", Some(hint));
        return None;
    }
    const DOORS: &str = "knockd = \"/etc/knockd.conf\": whose doors plain sequences open";
    let mut table = value.table()?;
    let moved = [("log", "packet-log"), ("log-prefix", "packet-log-prefix")]
        .into_iter()
        .filter_map(|(old, new)| Some((table.take(old)?, new)))
        .inspect(|(value, new)| {
            let hint = format!("{new} in [server], with the same value; [legacy] is for knockd alone");
            value.problem("has moved to [server]", Some(&hint));
        })
        .count();
    // Once it is moved, the section may be empty.
    let knockd = if moved > 0 { table.take("knockd") } else { table.require("knockd", DOORS) };
    table.finish();
    let knockd = absolute_path(&knockd?)?;
    if moved > 0 {
        return None;
    }
    if capture == CaptureKind::Udp && log.is_none() {
        let hint = "capture = \"pcap\", or packet-log = the firewall's log, or no [legacy]";
        value.problem(UDP, Some(hint));
        return None;
    }
    Some(LegacyConfig { knockd })
}

fn read_log(value: &TomlValue<'_>) -> Option<LogSource> {
    const PATH_MAX: usize = 300;
    if value.text()? == "journal" {
        return Some(LogSource::Journal);
    }
    let path = absolute_path(value)?;
    if path.as_os_str().len() > PATH_MAX {
        value.problem("a log's path has at most 300 bytes", None);
        return None;
    }
    Some(LogSource::File(path))
}

fn read_log_prefix(value: &TomlValue<'_>) -> Option<String> {
    /// NF_LOG_PREFIXLEN of the kernel's, without the NUL.
    const PREFIX_MAX: usize = 127;
    let text = value.text()?;
    if text.len() > PREFIX_MAX || !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        value.problem("a rule's log prefix has at most 127 printable ASCII characters", None);
        return None;
    }
    Some(text.to_owned())
}
