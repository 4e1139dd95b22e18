//! What packets are read from, as the config says it.

use std::path::PathBuf;

/// How knocks are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureKind {
    /// With libpcap, in front of the firewall.
    Pcap,
    /// With an ordinary UDP socket.
    Udp,
}

/// A log that the kernel writes of packets, as firewall rules tell it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketLog {
    /// Where it is.
    pub source: LogSource,
    /// What the rule puts in front, at most 127 printable ASCII characters.
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
