//! The configured source of packets.

use std::path::PathBuf;

/// How knocks are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureKind {
    /// With libpcap, before the firewall.
    Pcap,
    /// With an ordinary UDP socket.
    Udp,
}

/// The packet log that the kernel writes for a firewall rule with `log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketLog {
    /// Where the log is read.
    pub source: LogSource,
    /// The rule's log prefix, at most 127 printable ASCII characters.
    pub prefix: String,
}

/// Where the kernel's log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSource {
    /// In a file of a syslog daemon; an absolute path of at most 300 bytes.
    File(PathBuf),
    /// In systemd's journal.
    Journal,
}
