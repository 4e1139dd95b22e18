//! Whether the firewall's log is there, is the kernel's alone, and tells of packets.

use std::path::Path;
use std::time::Duration;

use super::report::CheckReport;
use crate::capture::{CaptureKind, LogSource, PacketLog, kernel_said};
use crate::config::ServerConfig;
use crate::os::process::spawn;
use crate::os::{files, host};
use crate::packet::{KernelLogLine, SyslogLine};
use crate::watcher::log_follower::{JOURNAL, JOURNALCTL};

/// Bytes at its end that are looked at; of the journal, entries.
const LOOKED_AT: u64 = 256 << 10;
const ENTRIES: &str = "--lines=1000";
/// How long reading the journal may take.
const JOURNAL_MAX: Duration = Duration::from_secs(10);

/// The key of the config that names it.
const PLACE: [&str; 2] = ["server", "packet-log"];

impl CheckReport {
    pub(super) fn packet_log(&mut self, config: &ServerConfig) {
        let Some(log) = &config.packet_log else { return };
        if config.legacy.is_none() && (config.ports.is_none() || config.capture == CaptureKind::Pcap) {
            let message = "server.packet-log: nothing is read from it".to_owned();
            let hint =
                "it is for [legacy], and with capture = \"udp\" for [ports]; remove it, or add one of them";
            return self.warning(config, &PLACE, message, hint);
        }
        if host::sysctl("net.netfilter.nf_log_all_netns").is_some_and(|value| value == "1") {
            let message = "net.netfilter.nf_log_all_netns: who is root in a container can have the kernel log any packet";
            let hint = "sysctl net.netfilter.nf_log_all_netns=0";
            self.warning(config, &PLACE, message.to_owned(), hint);
        }
        if log.prefix.is_empty() {
            let message = "server.packet-log-prefix: without one, what any rule logs without a prefix counts";
            let hint = "packet-log-prefix = \"knock: \", and the same in the rule";
            self.warning(config, &PLACE, message.to_owned(), hint);
        }
        match &log.source {
            LogSource::File(path) => self.log_file(config, log, path),
            LogSource::Journal => self.journal(config, log),
        }
    }

    fn log_file(&mut self, config: &ServerConfig, log: &PacketLog, path: &Path) {
        let text = match files::read_end(path, LOOKED_AT) {
            Ok(text) => text,
            Err(error) if error.missing => {
                let message = format!("{error}; it is waited for");
                let hint = "a file that rsyslog or another syslog daemon writes kern.* to, or \"journal\"";
                return self.warning(config, &PLACE, message, hint);
            }
            Err(error) => return self.file(Err(error)),
        };
        let lines: Vec<SyslogLine<'_>> = text.lines().map(SyslogLine::read).collect();
        if lines.contains(&SyslogLine::Other) {
            let message = format!(
                "{}: other programs than the kernel write there; who can write as it opens doors",
                path.display()
            );
            self.warning(config, &PLACE, message, "a file that only kern.* goes to, or \"journal\"");
        }
        if host::program(JOURNALCTL).is_some() {
            let message = format!(
                "{}: whoever has an account on this host can write there as the kernel",
                path.display()
            );
            self.warning(config, &PLACE, message, "packet-log = \"journal\": there nobody can");
        }
        if !lines.is_empty() && lines.iter().all(|line| *line == SyslogLine::Unclear) {
            let message =
                format!("{}: none of its last lines is in a form that is understood", path.display());
            let hint =
                "time as in RFC 3164 or RFC 3339, host, and who says it, as rsyslog writes them by itself";
            self.warning(config, &PLACE, message, hint);
        }
        let said = lines.iter().filter_map(|line| match line {
            SyslogLine::Kernel(said) => Some(*said),
            _ => None,
        });
        self.packets(config, &path.display().to_string(), &LogProbe::among(said, &log.prefix), &log.prefix);
    }

    fn journal(&mut self, config: &ServerConfig, log: &PacketLog) {
        let words: Vec<&str> = JOURNAL.iter().copied().chain([ENTRIES]).collect();
        match spawn::run_to_end(JOURNALCTL, &words, "", JOURNAL_MAX) {
            Ok(entries) => {
                let said: Vec<String> = entries.lines().filter_map(kernel_said).collect();
                let found = LogProbe::among(said.iter().map(String::as_str), &log.prefix);
                self.packets(config, "the journal", &found, &log.prefix);
            }
            Err(error) => {
                let hint = "packet-log = a file that the kernel's log goes to, or mend the journal";
                self.problem(config, &PLACE, format!("server.packet-log: {error}"), hint);
            }
        }
    }

    fn packets(&mut self, config: &ServerConfig, log: &str, found: &LogProbe, prefix: &str) {
        match &found.other_prefix {
            Some(other) if found.packets == 0 => self.warning(
                config,
                &PLACE,
                format!("{log}: no packets logged as {prefix:?} of late, but some as {other:?}"),
                "packet-log-prefix = what the rule for the knocks' ports puts in front",
            ),
            _ => self.ok(format!("the firewall's log, {log}: {} packets of late", found.packets)),
        }
    }
}

/// What of packets stands in a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct LogProbe {
    /// Packets that count.
    packets: usize,
    /// What stands in front of the last one that does not.
    other_prefix: Option<String>,
}

impl LogProbe {
    fn among<'a>(said: impl Iterator<Item = &'a str>, prefix: &str) -> Self {
        let mut found = Self::default();
        for said in said {
            if KernelLogLine::read(said, prefix).is_some() {
                found.packets = found.packets.saturating_add(1);
            } else if let Some((other, packet)) = said.find("IN=").and_then(|at| said.split_at_checked(at))
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
        for (said, packets, other_prefix) in [
            (&[][..], 0, None),
            (&[&ours, &ours, "usb 1-1: IN="], 2, None),
            (&[&ours, &blocked, "x"], 1, Some("[UFW BLOCK] ")),
            (&[PACKET], 0, Some("")),
        ] {
            let found = LogProbe { packets, other_prefix: other_prefix.map(str::to_owned) };
            assert_eq!(LogProbe::among(said.iter().copied(), "knock: "), found, "{said:?}");
        }
    }
}
