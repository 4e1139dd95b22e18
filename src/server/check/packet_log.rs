//! Whether the firewall's log is there, is the kernel's alone, and tells of packets.

use super::report::Report;
use crate::config::{LogSource, PacketLog, ServerConfig};
use crate::os::{files, host};
use crate::packet::{Logged, SyslogLine};

/// Bytes at its end that are looked at.
const LOOKED_AT: u64 = 256 << 10;

impl Report {
    pub(super) fn packet_log(&mut self, config: &ServerConfig, log: &PacketLog) {
        let LogSource::File(path) = &log.source else { return };
        let place = ["legacy", "log"];
        let text = match files::read_end(path, LOOKED_AT) {
            Ok(text) => text,
            Err(error) if error.missing => {
                let message = format!("{error}; it is waited for");
                let hint = "a file that rsyslog or another syslog daemon writes kern.* to, or \"journal\"";
                return self.warning(config, &place, message, hint);
            }
            Err(error) => return self.file(Err(error)),
        };
        let found = Found::in_lines(&text, &log.prefix);
        if found.others {
            self.warning(
                config,
                &place,
                format!(
                    "{}: other programs than the kernel write there; who can write as it opens doors",
                    path.display()
                ),
                "a file that only kern.* goes to, or \"journal\"",
            );
        }
        if host::program("journalctl").is_some() {
            let message = format!(
                "{}: whoever has an account on this host can write there as the kernel",
                path.display()
            );
            self.warning(config, &place, message, "log = \"journal\": there nobody can");
        }
        match found.other_prefix {
            Some(other) if found.packets == 0 => self.warning(
                config,
                &place,
                format!(
                    "{}: no packets logged as {:?} of late, but some as {other:?}",
                    path.display(),
                    log.prefix
                ),
                "log-prefix = what the rule for the knocks' ports puts in front",
            ),
            _ => self.ok(format!("the firewall's log {}: {} packets of late", path.display(), found.packets)),
        }
    }
}

/// What stands in a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Packets that count.
    packets: usize,
    /// What stands in front of the last one that does not.
    other_prefix: Option<String>,
    /// Whether another program than the kernel writes there.
    others: bool,
}

impl Found {
    fn in_lines(text: &str, prefix: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            match SyslogLine::read(line) {
                SyslogLine::Kernel(said) if Logged::read(said, prefix).is_some() => {
                    found.packets = found.packets.saturating_add(1);
                }
                SyslogLine::Kernel(said) => {
                    let other = said.find("IN=").and_then(|at| said.split_at_checked(at));
                    if let Some((other, packet)) = other
                        && Logged::read(packet, "").is_some()
                    {
                        found.other_prefix = Some(other.to_owned());
                    }
                }
                SyslogLine::Other => found.others = true,
                SyslogLine::Unclear => {}
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
    fn packets_other_prefixes_and_other_programs_are_told() {
        let line = |said: &str| format!("Nov 24 14:20:24 bastion kernel: [1.5] {said}\n");
        let ours = line(&format!("knock: {PACKET}"));
        let blocked = line(&format!("[UFW BLOCK] {PACKET}"));
        let ufw = Some("[UFW BLOCK] ".to_owned());
        for (text, found) in [
            (String::new(), Found::default()),
            (ours.repeat(2) + &line("usb 1-1: IN="), Found { packets: 2, ..Found::default() }),
            (format!("{ours}{blocked}"), Found { packets: 1, other_prefix: ufw, others: false }),
            ("Nov 24 14:20:24 bastion sshd[7]: x\n".to_owned(), Found { others: true, ..Found::default() }),
        ] {
            assert_eq!(Found::in_lines(&text, "knock: "), found, "{text}");
        }
    }
}
