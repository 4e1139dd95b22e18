//! The firewall's log as a source of packets, for hosts where capturing is not allowed. Somebody else follows it and
//! hands its lines over; here each is read, and nothing of those that are not the kernel's own is kept.

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

/// Room for several lines. The kernel's own have at most 1 KiB, and some more as JSON.
const BUFFER: usize = 32 << 10;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogForm {
    /// As syslog daemons write them to a file.
    Syslog,
    /// As `journalctl -o json` writes them.
    Journal,
}

/// Lines that come in, and which of them count.
pub struct Log {
    lines: LineBuffer,
    form: LogForm,
    prefix: String,
    /// None at all = every one.
    interfaces: Vec<String>,
    place: String,
    /// Whether a line of another program was seen.
    shared: bool,
}

/// A log of which only packets to the knock range count.
pub struct KnockRangeLog(pub Log, pub KnockRange);

impl Log {
    /// Reads lines of this form from `lines`; a packet counts if its line begins with the rule's `prefix` and it came in
    /// by one of `interfaces`, or by any if there are none. `place` is what errors call it.
    ///
    /// # Errors
    /// When the system refuses not to wait for lines.
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

/// One entry of the journal.
#[derive(Deserialize)]
struct JournalEntry {
    /// How it came in. Of the fields that begin with an underscore, journald lets nobody write one.
    #[serde(rename = "_TRANSPORT")]
    transport: String,
    /// 0 = the kernel; what programs write to /dev/kmsg has other ones.
    #[serde(rename = "SYSLOG_FACILITY")]
    facility: String,
    /// Missing where it is not text.
    #[serde(rename = "MESSAGE")]
    message: String,
}

/// What the kernel said in an entry of the journal as `journalctl -o json` writes it, if it was the kernel.
#[must_use]
pub fn kernel_said(line: &str) -> Option<String> {
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
        let gone = |reason: String| CaptureError {
            place: place.clone(),
            reason,
            hint: Some("the lines before this one say more"),
        };
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(PacketEvent::Empty),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(gone("nobody follows it any more".to_owned()));
            }
            Err(error) => return Err(gone(files::io_error_text(&error))),
        };
        let Ok(line) = std::str::from_utf8(line) else { return Ok(PacketEvent::Other) };
        let counts = |said: &str| {
            let KernelLogLine { packet, interface } = KernelLogLine::read(said, prefix)?;
            (interfaces.is_empty() || interfaces.iter().any(|name| name == interface)).then_some(packet)
        };
        let packet = match form {
            LogForm::Journal => kernel_said(line).and_then(|said| counts(&said)),
            LogForm::Syslog => match SyslogLine::read(line) {
                SyslogLine::Kernel(said) => counts(said),
                SyslogLine::Unclear => None,
                SyslogLine::Other => {
                    if !std::mem::replace(shared, true) {
                        log::warn!(
                            "{place}: other programs than the kernel write there; who can write as it opens doors\nhint: a file that only kern.* goes to, or \"journal\""
                        );
                    }
                    None
                }
            },
        };
        // Lines tell the time in seconds, or not at all.
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
    fn next(&mut self) -> Result<CaptureEvent<'_>, CaptureError> {
        let Self(log, knock_range) = self;
        Ok(match log.take()? {
            PacketEvent::Packet(packet, _) => {
                PortHit::of(&packet, *knock_range).map_or(CaptureEvent::Other, CaptureEvent::PortHit)
            }
            PacketEvent::Other => CaptureEvent::Other,
            PacketEvent::Empty => CaptureEvent::Empty,
        })
    }
    fn has_room(&self) -> bool {
        // What is not taken yet stays in the log.
        true
    }

    fn intake(&mut self) -> Option<CaptureStats> {
        None
    }
}

/// Bytes that come in, line by line.
struct LineBuffer {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// What of the buffer has not been handed out.
    from: usize,
    to: usize,
    /// Whether the rest of a line is left out, as it is too long.
    skipping: bool,
}

impl LineBuffer {
    fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER], from: 0, to: 0, skipping: false })
    }

    /// The next whole line without its end; none if there is none yet.
    fn next(&mut self) -> std::io::Result<Option<&[u8]>> {
        loop {
            if let Some(length) = self.here().iter().position(|&byte| byte == b'\n') {
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

    /// Whether the next line is here already.
    fn has_whole(&self) -> bool {
        self.here().contains(&b'\n')
    }

    fn here(&self) -> &[u8] {
        self.buffer.get(self.from..self.to).unwrap_or_default()
    }

    /// The beginning of a line moves to the front; one that fills the buffer is given up.
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

    const SAID: &str = "IN=eth0 OUT= SRC=10.77.0.2 DST=10.77.0.1 LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=UDP SPT=40000 DPT=20480 LEN=8 ";

    fn log(form: LogForm, interfaces: &[&str]) -> (UnixStream, Log) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
        (ours, Log::new(theirs, form, "knock: ".to_owned(), interfaces, "the log".to_owned()).unwrap())
    }

    /// One letter for each line: a packet, or something else.
    fn told(log: &mut Log) -> String {
        let mut told = String::new();
        loop {
            match log.take().unwrap() {
                PacketEvent::Packet(..) => told.push('p'),
                PacketEvent::Other => told.push('o'),
                PacketEvent::Empty => return told,
            }
        }
    }

    #[test]
    fn lines_are_read_as_they_come_in_pieces_and_too_long_ones_are_left_out() {
        let (mut writer, mut log) = log(LogForm::Syslog, &[]);
        let line = format!("Nov 24 14:20:24 bastion kernel: [1.5] knock: {SAID}");
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
            assert_eq!(told(&mut log), seen, "{written:.60}");
        }
        writer.write_all(b"\xff\n").unwrap();
        assert_eq!(told(&mut log), "o");
        drop(writer);
        let gone = log.take().err().unwrap().to_string();
        assert_eq!(gone, "the log: nobody follows it any more\nhint: the lines before this one say more");
    }

    #[test]
    fn only_what_came_in_by_a_watched_interface_counts() {
        for (interfaces, seen) in [(&["eth1", "eth0"][..], "p"), (&["eth1"], "o"), (&[], "p")] {
            let (mut writer, mut log) = log(LogForm::Syslog, interfaces);
            writeln!(writer, "Nov 24 14:20:24 bastion kernel: knock: {SAID}").unwrap();
            assert_eq!(told(&mut log), seen, "{interfaces:?}");
        }
    }

    #[test]
    fn of_the_journal_only_what_the_kernel_said_counts() {
        let (mut writer, mut log) = log(LogForm::Journal, &[]);
        let entry = |transport: &str, facility: &str, message: String| {
            format!(
                r#"{{"__CURSOR":"s=1","_TRANSPORT":"{transport}","SYSLOG_FACILITY":"{facility}","MESSAGE":{message},"_BOOT_ID":"b"}}"#
            )
        };
        let said = format!("\"knock: {SAID}\"");
        for (written, seen) in [
            (entry("kernel", "0", said.clone()), "p"),
            (entry("syslog", "0", said.clone()), "o"),
            (entry("stdout", "0", said.clone()), "o"),
            // A program that may write to /dev/kmsg.
            (entry("kernel", "3", said.clone()), "o"),
            // A message that is not text, and one that was given twice.
            (entry("kernel", "0", "[107,110]".to_owned()), "o"),
            (entry("kernel", "0", format!("[{said},{said}]")), "o"),
            (entry("kernel", "0", "null".to_owned()), "o"),
            (entry("kernel", "0", format!("\"x\\nknock: {SAID}\"")), "o"),
            (format!("Nov 24 14:20:24 bastion kernel: knock: {SAID}"), "o"),
            (String::new(), "o"),
        ] {
            writeln!(writer, "{written}").unwrap();
            assert_eq!(told(&mut log), seen, "{written}");
        }
    }

    #[test]
    fn a_packet_without_payload_to_the_band_is_a_touch_of_it() {
        let (mut writer, log) = log(LogForm::Syslog, &[]);
        let mut log = KnockRangeLog(log, KnockRange::USUAL);
        let others = [("DPT=20480", "DPT=20479"), ("LEN=8", "LEN=9"), ("knock: ", "")];
        let line = format!("Nov 24 14:20:24 bastion kernel: knock: {SAID}");
        writeln!(writer, "{line}").unwrap();
        let Ok(CaptureEvent::PortHit(touch)) = log.next() else { panic!("no touch") };
        assert_eq!((touch.source, touch.port), (([10, 77, 0, 2], 40_000).into(), 20_480));
        for (from, to) in others {
            writeln!(writer, "{}", line.replace(from, to)).unwrap();
            assert!(matches!(log.next(), Ok(CaptureEvent::Other)), "{from} {to}");
        }
        assert!(matches!(log.next(), Ok(CaptureEvent::Empty)));
    }
}
