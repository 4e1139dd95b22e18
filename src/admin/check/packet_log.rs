//! The firewall's log: whether it exists, only the kernel writes to it, and it contains packets.

use std::path::Path;
use std::time::Duration;

use super::report::CheckReport;
use crate::capture::{CaptureKind, LogSource, PacketLog, kernel_message};
use crate::config::ServerConfig;
use crate::console::counted;
use crate::os::process::spawn;
use crate::os::{files, host};
use crate::packet::{KernelLogLine, SyslogLine};
use crate::watcher::log_follower::{JOURNAL, JOURNALCTL};

/// The number of bytes at the end of a file that are checked; of the journal, the number of entries.
const CHECKED_BYTES: u64 = 256 << 10;
const ENTRIES: &str = "--lines=1000";
/// How long reading the journal may take.
const JOURNAL_MAX: Duration = Duration::from_secs(10);

/// The config key of the log.
const PLACE: [&str; 2] = ["server", "packet-log"];

impl CheckReport {
    pub(super) fn packet_log(&mut self, config: &ServerConfig) {
        let Some(log) = &config.packet_log else { return };
        if config.legacy.is_none() && (config.ports.is_none() || config.capture == CaptureKind::Pcap) {
            let message = "server.packet-log: this log is not used".to_owned();
            let hint = "remove it, or add [legacy], or [ports] with capture = \"udp\"";
            return self.warning(config, &PLACE, message, hint);
        }
        if host::sysctl("net.netfilter.nf_log_all_netns").is_some_and(|value| value == "1") {
            let message =
                "net.netfilter.nf_log_all_netns: root in a container can make the kernel log any packet";
            let hint = "sysctl net.netfilter.nf_log_all_netns=0";
            self.warning(config, &PLACE, message.to_owned(), hint);
        }
        if log.prefix.is_empty() {
            let message = "server.packet-log-prefix: empty, so packets logged by any rule without a prefix count as port hits";
            let hint = "set packet-log-prefix = \"knock: \", and the same prefix in the rule";
            self.warning(config, &PLACE, message.to_owned(), hint);
        }
        match &log.source {
            LogSource::File(path) => self.log_file(config, log, path),
            LogSource::Journal => self.journal(config, log),
        }
    }

    fn log_file(&mut self, config: &ServerConfig, log: &PacketLog, path: &Path) {
        let text = match files::read_end(path, CHECKED_BYTES) {
            Ok(text) => text,
            Err(error) if error.missing => {
                let message = format!("{error}; the daemon waits for it");
                let hint =
                    "name a file that rsyslog or another syslog daemon writes kern.* to, or \"journal\"";
                return self.warning(config, &PLACE, message, hint);
            }
            Err(error) => return self.file(Err(error)),
        };
        let lines: Vec<SyslogLine<'_>> = text.lines().map(SyslogLine::read).collect();
        if lines.contains(&SyslogLine::Other) {
            let message = format!(
                "{}: programs other than the kernel write to it; anyone who can write to it can fake port hits",
                path.display()
            );
            self.warning(config, &PLACE, message, "name a file that receives only kern.*, or \"journal\"");
        }
        if host::program(JOURNALCTL).is_some() {
            let message = format!(
                "{}: anyone with an account on this host can write to it as the kernel",
                path.display()
            );
            self.warning(config, &PLACE, message, "set packet-log = \"journal\", where no user can");
        }
        if !lines.is_empty() && lines.iter().all(|line| *line == SyslogLine::Unclear) {
            let message = format!("{}: none of its last lines has a known format", path.display());
            let hint = "expected: time as in RFC 3164 or RFC 3339, host and program, as rsyslog writes them by default";
            self.warning(config, &PLACE, message, hint);
        }
        let messages = lines.iter().filter_map(|line| match line {
            SyslogLine::Kernel(message) => Some(*message),
            _ => None,
        });
        self.packets(
            config,
            &path.display().to_string(),
            &LogProbe::among(messages, &log.prefix),
            &log.prefix,
        );
    }

    fn journal(&mut self, config: &ServerConfig, log: &PacketLog) {
        let args: Vec<&str> = JOURNAL.iter().copied().chain([ENTRIES]).collect();
        match spawn::run_to_end(JOURNALCTL, &args, "", JOURNAL_MAX) {
            Ok(entries) => {
                let messages: Vec<String> = entries.lines().filter_map(kernel_message).collect();
                let found = LogProbe::among(messages.iter().map(String::as_str), &log.prefix);
                self.packets(config, "the journal", &found, &log.prefix);
            }
            Err(error) => {
                let hint = "name a file that receives the kernel's log in packet-log, or repair the journal";
                self.problem(config, &PLACE, format!("server.packet-log: {error}"), hint);
            }
        }
    }

    fn packets(&mut self, config: &ServerConfig, log: &str, found: &LogProbe, prefix: &str) {
        match &found.other_prefix {
            Some(other) if found.packets == 0 => self.warning(
                config,
                &PLACE,
                format!("{log}: no recent packets with the prefix {prefix:?}, but some with {other:?}"),
                "set packet-log-prefix to the prefix that the rule for the knock ports uses",
            ),
            _ => self.ok(format!("the firewall's log, {log}: {}", counted(found.packets, "recent packet"))),
        }
    }
}

/// The packets in a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct LogProbe {
    /// The number of packets with the configured prefix.
    packets: usize,
    /// The prefix of the last packet with another prefix.
    other_prefix: Option<String>,
}

impl LogProbe {
    fn among<'a>(messages: impl Iterator<Item = &'a str>, prefix: &str) -> Self {
        let mut found = Self::default();
        for message in messages {
            if KernelLogLine::read(message, prefix).is_some() {
                found.packets = found.packets.saturating_add(1);
            } else if let Some((other, packet)) =
                message.find("IN=").and_then(|at| message.split_at_checked(at))
                && KernelLogLine::read(packet, "").is_some()
            {
                found.other_prefix = Some(other.to_owned());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: &str = "IN=eth0 OUT= SRC=10.77.0.2 DST=10.77.0.1 LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=UDP SPT=40000 DPT=20480 LEN=8 ";

    #[test]
    fn packets_and_other_prefixes_are_found() {
        let (ours, blocked) = (format!("knock: {PACKET}"), format!("[UFW BLOCK] {PACKET}"));
        for (messages, packets, other_prefix) in [
            (&[][..], 0, None),
            (&[&ours, &ours, "usb 1-1: IN="], 2, None),
            (&[&ours, &blocked, "x"], 1, Some("[UFW BLOCK] ")),
            (&[PACKET], 0, Some("")),
        ] {
            let found = LogProbe { packets, other_prefix: other_prefix.map(str::to_owned) };
            assert_eq!(LogProbe::among(messages.iter().copied(), "knock: "), found, "{messages:?}");
        }
    }
}
