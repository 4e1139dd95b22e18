//! The log that a firewall rule with `log` and a syslog daemon would write. The kernel logs only packets of its first
//! network namespace. So this module captures packets with libpcap and writes them to a file in the kernel's format.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::Namespace;

/// A log to which each packet adds a line. The writer stops when this is dropped.
pub(crate) struct KernelLog {
    path: PathBuf,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    file: Mutex<File>,
    stopped: AtomicBool,
}

impl KernelLog {
    /// Logs the packets that arrive at `interface`; `prefix` is the prefix of the rule.
    pub(crate) fn start(namespace: &Namespace, interface: &str, path: &Path, prefix: &str) -> Self {
        let mut capture = namespace.enter(|| {
            let inactive = pcap::Capture::from_device(interface).unwrap().immediate_mode(true).timeout(20);
            inactive.open().unwrap()
        });
        capture.direction(pcap::Direction::In).unwrap();
        let file = Mutex::new(append(path));
        let shared = Arc::new(Shared { file, stopped: AtomicBool::new(false) });
        let copy = Arc::clone(&shared);
        let begin = format!("Nov 24 14:20:24 bastion kernel: [12345.678901] {prefix}IN={interface} OUT= ");
        let writer = thread::spawn(move || {
            while !copy.stopped.load(Ordering::Relaxed) {
                if let Ok(frame) = capture.next_packet()
                    && let Some(packet) = describe(frame.data)
                {
                    copy.file.lock().unwrap().write_all(format!("{begin}{packet}\n").as_bytes()).unwrap();
                }
            }
        });
        Self { path: path.to_owned(), shared, writer: Some(writer) }
    }

    /// Appends a line of another program.
    pub(crate) fn write(&self, line: &str) {
        self.shared.file.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Renames the file as logrotate(8) does. The writer continues in the renamed file.
    pub(crate) fn rename(&self, number: u32) {
        fs::rename(&self.path, self.path.with_extension(format!("log.{number}"))).unwrap();
    }

    /// Opens the path again, as a syslog daemon does when it is notified of a rotation.
    pub(crate) fn reopen(&self) {
        *self.shared.file.lock().unwrap() = append(&self.path);
    }

    /// Truncates the file to length 0, as logrotate(8) does with `copytruncate`.
    pub(crate) fn truncate(&self) {
        self.shared.file.lock().unwrap().set_len(0).unwrap();
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let joined = self.writer.take().map(JoinHandle::join);
        assert!(
            thread::panicking() || joined.is_some_and(|result| result.is_ok()),
            "the writer of the log has not failed"
        );
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// Describes a packet in the format of the kernel's nf_log_syslog.c.
fn describe(frame: &[u8]) -> Option<String> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let network = match packet.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            format!(
                "SRC={} DST={} LEN={} TOS=0x00 PREC=0x00 TTL={} ID={} {}",
                header.source_addr(),
                header.destination_addr(),
                header.total_len(),
                header.ttl(),
                header.identification(),
                if header.dont_fragment() { "DF " } else { "" }
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let long = |address: Ipv6Addr| address.segments().map(|part| format!("{part:04x}")).join(":");
            format!(
                "SRC={} DST={} LEN={} TC=0 HOPLIMIT={} FLOWLBL={} ",
                long(header.source_addr()),
                long(header.destination_addr()),
                header.payload_length() + 40,
                header.hop_limit(),
                header.flow_label().value()
            )
        }
        NetSlice::Arp(_) => return None,
    };
    let transport = match packet.transport? {
        TransportSlice::Udp(udp) => {
            format!(
                "PROTO=UDP SPT={} DPT={} LEN={} ",
                udp.source_port(),
                udp.destination_port(),
                udp.length()
            )
        }
        TransportSlice::Tcp(tcp) => {
            let flags = [
                ("CWR ", tcp.cwr()),
                ("ECE ", tcp.ece()),
                ("URG ", tcp.urg()),
                ("ACK ", tcp.ack()),
                ("PSH ", tcp.psh()),
                ("RST ", tcp.rst()),
                ("SYN ", tcp.syn()),
                ("FIN ", tcp.fin()),
            ];
            let flags: String = flags.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
            format!(
                "PROTO=TCP SPT={} DPT={} WINDOW={} RES=0x00 {flags}URGP=0 ",
                tcp.source_port(),
                tcp.destination_port(),
                tcp.window_size()
            )
        }
        _ => return None,
    };
    Some(format!("MAC=52:54:00:12:34:56:52:54:00:65:43:21:08:00 {network}{transport}"))
}
