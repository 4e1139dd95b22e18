//! The firewall's log as a source of packets, for hosts where capturing is not allowed. The log follower copies the
//! lines to this process. Only lines that the kernel wrote are used; nothing of other lines is kept.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::Deserialize;

use super::{
    Capture, CaptureError, CaptureEvent, CaptureStats, PacketEvent, PacketSource, PollSource, PortHit,
};
use crate::os::{clock, files};
use crate::packet::{KernelLogLine, SyslogLine};
use spa_knock_core::knock::KnockRange;

/// Buffer size in bytes, for several lines. A line of the kernel has at most 1 KiB, and somewhat more as JSON.
const BUFFER: usize = 32 << 10;

/// The format of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogForm {
    /// As a syslog daemon writes them to a file.
    Syslog,
    /// As `journalctl -o json` prints them.
    Journal,
}

/// A stream of log lines, and the settings that select the relevant ones.
pub struct Log {
    lines: LineBuffer,
    form: LogForm,
    prefix: String,
    /// Empty for all interfaces.
    interfaces: Vec<String>,
    /// The name in error messages.
    place: String,
    /// Whether a line of another program was seen.
    shared: bool,
}

/// A log from which only port hits in the knock range are used.
pub struct KnockRangeLog(pub Log, pub KnockRange);

impl Log {
    /// Reads lines from `lines`. Uses a packet if its message begins with the firewall rule's `prefix` and it arrived
    /// on one of `interfaces`, or on any if the list is empty. `place` names the log in error messages.
    ///
    /// # Errors
    /// If the stream cannot be made non-blocking.
    pub fn new(
        lines: UnixStream,
        form: LogForm,
        prefix: String,
        interfaces: Vec<String>,
        place: String,
    ) -> std::io::Result<Self> {
        Ok(Self { lines: LineBuffer::new(lines)?, form, prefix, interfaces, place, shared: false })
    }
}

/// One entry of systemd's journal.
#[derive(Deserialize)]
struct JournalEntry {
    /// How journald received the entry. Programs cannot set fields that begin with an underscore.
    #[serde(rename = "_TRANSPORT")]
    transport: String,
    /// 0 for the kernel. Messages that programs write to /dev/kmsg have other facilities.
    #[serde(rename = "SYSLOG_FACILITY")]
    facility: String,
    /// Must be text; in other entries it is an array or null.
    #[serde(rename = "MESSAGE")]
    message: String,
}

/// The message of an entry that `journalctl -o json` printed. `None` if it is not from the kernel.
#[must_use]
pub fn kernel_message(line: &str) -> Option<String> {
    let entry: JournalEntry = serde_json::from_str(line).ok()?;
    (entry.transport == "kernel" && entry.facility == "0").then_some(entry.message)
}

impl AsFd for Log {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lines.stream.as_fd()
    }
}

impl PollSource for Log {
    fn has_more(&self) -> bool {
        self.lines.has_whole()
    }
}

impl PacketSource for Log {
    fn take(&mut self) -> Result<PacketEvent<'_>, CaptureError> {
        let Self { lines, form, prefix, interfaces, place, shared } = self;
        let lost = |reason: String| CaptureError {
            place: place.clone(),
            reason,
            hint: Some("see the preceding log lines for the cause"),
        };
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(PacketEvent::Empty),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(lost("the log follower has exited".to_owned()));
            }
            Err(error) => return Err(lost(files::io_error_text(&error))),
        };
        let Ok(line) = std::str::from_utf8(line) else { return Ok(PacketEvent::Other) };
        let relevant = |message: &str| {
            let KernelLogLine { packet, interface } = KernelLogLine::read(message, prefix)?;
            (interfaces.is_empty() || interfaces.iter().any(|name| name == interface)).then_some(packet)
        };
        let packet = match form {
            LogForm::Journal => kernel_message(line).and_then(|message| relevant(&message)),
            LogForm::Syslog => match SyslogLine::read(line) {
                SyslogLine::Kernel(message) => relevant(message),
                SyslogLine::Unclear => None,
                SyslogLine::Other => {
                    if !std::mem::replace(shared, true) {
                        log::warn!(
                            "{place}: programs other than the kernel write to it; anyone who can write to it can \
                             fake port hits\nhint: name a file that receives only kern.*, or \"journal\""
                        );
                    }
                    None
                }
            },
        };
        // Lines have the time in seconds or not at all, so use the current time.
        Ok(packet.map_or(PacketEvent::Other, |packet| PacketEvent::Packet(packet, clock::wall())))
    }
}

impl AsFd for KnockRangeLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PollSource for KnockRangeLog {
    fn has_more(&self) -> bool {
        self.0.has_more()
    }
}

impl Capture for KnockRangeLog {
    fn read(&mut self, most: usize, handle: &mut dyn FnMut(CaptureEvent<'_>)) -> Result<usize, CaptureError> {
        let Self(log, knock_range) = self;
        for taken in 0..most {
            handle(match log.take()? {
                PacketEvent::Packet(packet, _) => {
                    PortHit::of(&packet, *knock_range).map_or(CaptureEvent::Other, CaptureEvent::PortHit)
                }
                PacketEvent::Other => CaptureEvent::Other,
                PacketEvent::Empty => return Ok(taken),
            });
        }
        Ok(most)
    }

    fn has_room(&self) -> bool {
        // Lines that have not been read stay in the log.
        true
    }

    fn intake(&mut self) -> Option<CaptureStats> {
        None
    }
}

/// Splits a stream of bytes into lines.
struct LineBuffer {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// The range of the buffer that has not been returned yet.
    from: usize,
    to: usize,
    /// Whether the rest of the current line is skipped because it is too long.
    skipping: bool,
}

impl LineBuffer {
    fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER], from: 0, to: 0, skipping: false })
    }

    /// The next complete line without its line end. `None` if there is none yet.
    fn next(&mut self) -> std::io::Result<Option<&[u8]>> {
        loop {
            if let Some(length) = self.unread().iter().position(|&byte| byte == b'\n') {
                let line = self.from..self.from.saturating_add(length);
                self.from = line.end.saturating_add(1);
                if std::mem::take(&mut self.skipping) {
                    continue;
                }
                return Ok(self.buffer.get(line));
            }
            self.make_room();
            let Some(room) = self.buffer.get_mut(self.to..) else { return Ok(None) };
            match self.stream.read(room) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.to = self.to.saturating_add(read),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the next line has been received completely.
    fn has_whole(&self) -> bool {
        self.unread().contains(&b'\n')
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.from..self.to).unwrap_or_default()
    }

    /// Moves an incomplete line to the front of the buffer. Discards a line that fills the buffer.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.from..self.to, 0);
        self.to = self.to.saturating_sub(self.from);
        self.from = 0;
        if self.to == self.buffer.len() {
            self.to = 0;
            self.skipping = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MESSAGE: &str = "IN=eth0 OUT= SRC=10.77.0.2 DST=10.77.0.1 LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=UDP SPT=40000 DPT=20480 LEN=8 ";

    fn log(form: LogForm, interfaces: &[&str]) -> (UnixStream, Log) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
        (ours, Log::new(theirs, form, "knock: ".to_owned(), interfaces, "the log".to_owned()).unwrap())
    }

    /// One letter for each line: `p` for a packet, `o` for anything else.
    fn kinds(log: &mut Log) -> String {
        let mut kinds = String::new();
        loop {
            match log.take().unwrap() {
                PacketEvent::Packet(..) => kinds.push('p'),
                PacketEvent::Other => kinds.push('o'),
                PacketEvent::Empty => return kinds,
            }
        }
    }

    #[test]
    fn lines_are_read_in_any_pieces_and_too_long_lines_are_skipped() {
        let (mut writer, mut log) = log(LogForm::Syslog, &[]);
        let line = format!("Nov 24 14:20:24 bastion kernel: [1.5] knock: {MESSAGE}");
        for (written, seen) in [
            (line.clone() + "\n", "p"),
            (line[..50].to_owned(), ""),
            (line[50..].to_owned(), ""),
            (format!("\n{line}\n{line}\nNov"), "ppp"),
            ("x".repeat(3 * BUFFER / 2), ""),
            (format!("{line}\n{line}\n"), "p"),
            ("\n\u{0}\n".to_owned(), "oo"),
        ] {
            writer.write_all(written.as_bytes()).unwrap();
            assert_eq!(kinds(&mut log), seen, "{written:.60}");
        }
        writer.write_all(b"\xff\n").unwrap();
        assert_eq!(kinds(&mut log), "o");
        drop(writer);
        let error = log.take().err().unwrap().to_string();
        assert_eq!(
            error,
            "the log: the log follower has exited\nhint: see the preceding log lines for the cause"
        );
    }

    #[test]
    fn only_packets_from_watched_interfaces_are_used() {
        for (interfaces, seen) in [(&["eth1", "eth0"][..], "p"), (&["eth1"], "o"), (&[], "p")] {
            let (mut writer, mut log) = log(LogForm::Syslog, interfaces);
            writeln!(writer, "Nov 24 14:20:24 bastion kernel: knock: {MESSAGE}").unwrap();
            assert_eq!(kinds(&mut log), seen, "{interfaces:?}");
        }
    }

    #[test]
    fn only_kernel_messages_of_systemds_journal_are_used() {
        let (mut writer, mut log) = log(LogForm::Journal, &[]);
        let entry = |transport: &str, facility: &str, message: String| {
            format!(
                r#"{{"__CURSOR":"s=1","_TRANSPORT":"{transport}","SYSLOG_FACILITY":"{facility}","MESSAGE":{message},"_BOOT_ID":"b"}}"#
            )
        };
        let text = format!("\"knock: {MESSAGE}\"");
        for (written, seen) in [
            (entry("kernel", "0", text.clone()), "p"),
            (entry("syslog", "0", text.clone()), "o"),
            (entry("stdout", "0", text.clone()), "o"),
            // From a program that can write to /dev/kmsg.
            (entry("kernel", "3", text.clone()), "o"),
            // A message that is not text, and one that occurs twice.
            (entry("kernel", "0", "[107,110]".to_owned()), "o"),
            (entry("kernel", "0", format!("[{text},{text}]")), "o"),
            (entry("kernel", "0", "null".to_owned()), "o"),
            (entry("kernel", "0", format!("\"x\\nknock: {MESSAGE}\"")), "o"),
            (format!("Nov 24 14:20:24 bastion kernel: knock: {MESSAGE}"), "o"),
            (String::new(), "o"),
        ] {
            writeln!(writer, "{written}").unwrap();
            assert_eq!(kinds(&mut log), seen, "{written}");
        }
    }

    #[test]
    fn a_packet_without_a_payload_to_the_knock_range_is_a_port_hit() {
        let (mut writer, log) = log(LogForm::Syslog, &[]);
        let mut log = KnockRangeLog(log, KnockRange::USUAL);
        let others = [("DPT=20480", "DPT=20479"), ("LEN=8", "LEN=9"), ("knock: ", "")];
        let line = format!("Nov 24 14:20:24 bastion kernel: knock: {MESSAGE}");
        writeln!(writer, "{line}").unwrap();
        for (from, to) in others {
            writeln!(writer, "{}", line.replace(from, to)).unwrap();
        }
        let mut hits = Vec::new();
        let mut read = |most| {
            let handle = &mut |event: CaptureEvent<'_>| match event {
                CaptureEvent::PortHit(hit) => hits.push(Some((hit.source, hit.port))),
                CaptureEvent::Other => hits.push(None),
                CaptureEvent::Datagram(_) => panic!("a log has no datagrams"),
            };
            log.read(most, handle).unwrap()
        };
        assert_eq!([read(3), read(3), read(3)], [3, 1, 0]);
        assert_eq!(hits, [Some((([10, 77, 0, 2], 40_000).into(), 20_480)), None, None, None]);
    }
}
