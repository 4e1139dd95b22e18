//! `[ports]` and `[legacy]`: port sequences and knockd's knock sequences, and the log that both can be read from.

use super::absolute_path;
use crate::capture::{CaptureKind, LogSource, PacketLog};
use crate::config::LegacyConfig;
use crate::config::document::TomlValue;
use spa_knock_core::knock::KnockRange;

/// `[ports]`: there is a band where it stands, even empty.
pub(super) fn read_band(
    value: &TomlValue<'_>,
    capture: CaptureKind,
    legacy: Option<&LegacyConfig>,
) -> Option<KnockRange> {
    let mut table = value.table()?;
    let low = table.take("low");
    let knock_range = match &low {
        None => Some(KnockRange::USUAL),
        Some(low) => low.integer(1..=KnockRange::LOW_MAX).and_then(|low| KnockRange::try_from(low).ok()),
    };
    table.finish();
    let logged = legacy.is_some_and(|legacy| legacy.log.is_some());
    if capture == CaptureKind::Udp && !logged {
        value.problem(
            "capture = \"udp\" sees no packets but those to its own port",
            Some("capture = \"pcap\", or legacy.log = the firewall's log, or no [ports]"),
        );
        return None;
    }
    knock_range
}

/// `[legacy]`: there are plain sequences where it stands, or a log that port sequences are read from.
pub(super) fn read_legacy(
    value: &TomlValue<'_>,
    capture: CaptureKind,
    with_ports: bool,
) -> Option<LegacyConfig> {
    const DOORS: &str = "knockd = \"/etc/knockd.conf\": whose doors plain sequences open";
    let mut table = value.table()?;
    let log = table.take("log");
    let prefix = table.take("log-prefix");
    // Captured packets are not read from a log as well.
    let only_ports = log.is_some() && with_ports && capture == CaptureKind::Udp;
    let knockd = if only_ports { table.take("knockd") } else { table.require("knockd", DOORS) };
    table.finish();
    let knockd = match &knockd {
        Some(knockd) => Some(absolute_path(knockd)?),
        None if only_ports => None,
        None => return None,
    };
    let log = match (&log, &prefix) {
        (Some(log), prefix) => Some(PacketLog {
            source: read_log(log)?,
            prefix: prefix.as_ref().map_or(Some(String::new()), read_log_prefix)?,
        }),
        (None, Some(prefix)) => {
            prefix.problem("there is no log that it could stand in", Some("log = \"/var/log/kern.log\""));
            return None;
        }
        (None, None) => None,
    };
    if capture == CaptureKind::Udp && log.is_none() {
        value.problem(
            "capture = \"udp\" sees no packets but those to its own port",
            Some("capture = \"pcap\", or log = the firewall's log, or no [legacy]"),
        );
        return None;
    }
    Some(LegacyConfig { knockd, log })
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
