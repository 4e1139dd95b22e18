//! Reads `[ports]`, `[legacy]` and `server.packet-log`: port sequences, knockd's knock sequences, and the log from
//! which both can be read.

use super::absolute_path;
use crate::capture::{CaptureKind, LogSource, PacketLog};
use crate::config::LegacyConfig;
use crate::config::document::{TomlTable, TomlValue};
use spa_knock_core::knock::KnockRange;

const UDP: &str = "capture = \"udp\" receives only packets to the knock port";

/// Reads `packet-log` and `packet-log-prefix` in `[server]`.
pub(super) fn read_packet_log(server: &mut TomlTable<'_>) -> Option<PacketLog> {
    let log = server.take("packet-log");
    let prefix = server.take("packet-log-prefix");
    match (&log, &prefix) {
        (Some(log), prefix) => Some(PacketLog {
            source: read_log(log)?,
            prefix: prefix.as_ref().map_or(Some(String::new()), read_log_prefix)?,
        }),
        (None, Some(prefix)) => {
            prefix
                .problem("has no effect without packet-log", Some("add packet-log = \"/var/log/kern.log\""));
            None
        }
        (None, None) => None,
    }
}

/// Reads `[ports]`. The section enables the knock range even if it is empty.
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
        let hint = "use capture = \"pcap\", set packet-log to the firewall's log, or remove [ports]";
        value.problem(UDP, Some(hint));
        return None;
    }
    knock_range
}

/// Reads `[legacy]`, which enables knockd's knock sequences and fwknop's packets.
pub(super) fn read_legacy(
    value: &TomlValue<'_>,
    capture: CaptureKind,
    log: Option<&PacketLog>,
) -> Option<LegacyConfig> {
    if cfg!(not(feature = "legacy")) {
        let hint = "remove [legacy], or use a build with the feature `legacy`";
        value.problem("built without legacy support", Some(hint));
        return None;
    }
    const DOORS: &str = "add knockd = \"/etc/knockd.conf\" (the file that defines the doors), or fwknop = \"/etc/fwknop/access.conf\"";
    let mut table = value.table()?;
    let moved = [("log", "packet-log"), ("log-prefix", "packet-log-prefix")]
        .into_iter()
        .filter_map(|(old, new)| Some((table.take(old)?, new)))
        .inspect(|(value, new)| {
            let hint =
                format!("set {new} in [server] to the same value; [legacy] only configures knockd's doors");
            value.problem("has moved to [server]", Some(&hint));
        })
        .count();
    let fwknop = table.take("fwknop");
    if cfg!(not(feature = "fwknop"))
        && let Some(fwknop) = &fwknop
    {
        let hint = "remove the line, or use a build with the feature `fwknop`";
        fwknop.problem("built without support for fwknop", Some(hint));
        return None;
    }
    // A section that has `fwknop`, or only had the moved keys, does not need `knockd`.
    let is_needed = moved == 0 && fwknop.is_none();
    let knockd = if is_needed { table.require("knockd", DOORS) } else { table.take("knockd") };
    table.finish();
    let paths = [knockd, fwknop].map(|value| value.map(|value| absolute_path(&value)));
    if moved > 0 || paths.iter().any(|path| matches!(path, Some(None))) {
        return None;
    }
    let [knockd, fwknop] = paths.map(Option::flatten);
    if knockd.is_some() && capture == CaptureKind::Udp && log.is_none() {
        let hint = "use capture = \"pcap\", set packet-log to the firewall's log, or remove [legacy]";
        value.problem(UDP, Some(hint));
        return None;
    }
    (knockd.is_some() || fwknop.is_some()).then_some(LegacyConfig { knockd, fwknop })
}

fn read_log(value: &TomlValue<'_>) -> Option<LogSource> {
    const PATH_MAX: usize = 300;
    if value.text()? == "journal" {
        return Some(LogSource::Journal);
    }
    let path = absolute_path(value)?;
    if path.as_os_str().len() > PATH_MAX {
        value.problem("log path is longer than 300 bytes", None);
        return None;
    }
    Some(LogSource::File(path))
}

fn read_log_prefix(value: &TomlValue<'_>) -> Option<String> {
    /// The kernel's NF_LOG_PREFIXLEN without the final NUL.
    const PREFIX_MAX: usize = 127;
    let text = value.text()?;
    if text.len() > PREFIX_MAX || !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        value.problem("a rule's log prefix has at most 127 printable ASCII characters", None);
        return None;
    }
    Some(text.to_owned())
}
