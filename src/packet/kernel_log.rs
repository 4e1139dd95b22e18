//! Parses the line that the kernel logs for a packet if a firewall rule has `log` or `-j LOG`. Never fails: any other
//! line is `None`.
//!
//! Other programs write to the same logs, and unknown senders choose parts of what they write. Therefore a line is used
//! only if it matches the kernel's format completely, field by field and in order: an address or port in another place
//! is not used. Source: net/netfilter/nf_log_syslog.c of Linux 6.18.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{Packet, TcpFlags, Transport};
use spa_knock_core::knock::canonical;

/// A logged packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelLogLine<'a> {
    /// The packet. The log has only the length of a UDP payload, so a payload that is not empty is `None`.
    pub packet: Packet<'static>,
    /// The interface that it arrived on.
    pub interface: &'a str,
}

/// A line of a syslog daemon's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogLine<'a> {
    /// A message of the kernel, without the kernel's time stamp.
    Kernel(&'a str),
    /// A message of another program.
    Other,
    /// The program cannot be determined.
    Unclear,
}

/// Length of a UDP header in bytes. A datagram of this length has no payload.
const UDP_HEADER: u16 = 8;

impl<'a> KernelLogLine<'a> {
    /// Parses a message of the kernel that begins with the rule's prefix. `None` for outgoing packets, packets without
    /// ports, and fragments except the first one of IPv4.
    #[must_use]
    pub fn read(message: &'a str, prefix: &str) -> Option<Self> {
        let message = message.strip_prefix(prefix)?;
        // The prefix in the rule may end with a space that is missing in our config.
        let mut fields = LogFields(message.strip_prefix(' ').unwrap_or(message));
        let interface = fields.value("IN=").filter(|name| !name.is_empty())?;
        fields.value("OUT=")?;
        fields.skip(&[
            "PHYSIN=",
            "PHYSOUT=",
            "MAC=",
            "MACSRC=",
            "MACDST=",
            "MACPROTO=",
            "VPROTO=",
            "VID=",
            "TUNNEL=",
        ]);
        let source: IpAddr = fields.parsed("SRC=")?;
        let destination: IpAddr = fields.parsed("DST=")?;
        fields.parsed::<u32>("LEN=")?;
        let whole = match (source, destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => fields.rest_of_ipv4()?,
            (IpAddr::V6(_), IpAddr::V6(_)) => fields.rest_of_ipv6()?,
            _ => return None,
        };
        let protocol = fields.value("PROTO=")?;
        let (from, to) = (fields.parsed("SPT=")?, fields.parsed("DPT=")?);
        let transport = match protocol {
            "TCP" => Transport::Tcp { flags: fields.rest_of_tcp()? },
            "UDP" => {
                let empty = fields.parsed::<u16>("LEN=")? == UDP_HEADER;
                Transport::Udp { payload: (whole && empty).then_some(&[]) }
            }
            _ => return None,
        };
        let packet = Packet {
            source: SocketAddr::new(canonical(source), from),
            destination: SocketAddr::new(canonical(destination), to),
            interface: None,
            transport,
        };
        Some(Self { packet, interface })
    }
}

/// The rest of a message. Words are separated by single spaces.
struct LogFields<'a>(&'a str);

impl<'a> LogFields<'a> {
    fn peek(&self) -> &'a str {
        self.0.split(' ').next().unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let (word, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest;
        word
    }

    /// The value of the next word, if the word has this name.
    fn value(&mut self, name: &str) -> Option<&'a str> {
        let value = self.peek().strip_prefix(name)?;
        self.next();
        Some(value)
    }

    fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T> {
        self.value(name)?.parse().ok()
    }

    /// Skips optional words with these names, in this order.
    fn skip(&mut self, names: &[&str]) {
        for name in names {
            self.value(name);
        }
    }

    /// Whether the next word is `word`. If so, consumes it.
    fn accept(&mut self, word: &str) -> bool {
        let matches = self.peek() == word;
        if matches {
            self.next();
        }
        matches
    }

    /// Whether the packet is complete, not a first fragment.
    fn rest_of_ipv4(&mut self) -> Option<bool> {
        for name in ["TOS=", "PREC=", "TTL=", "ID="] {
            self.value(name)?;
        }
        self.accept("CE");
        self.accept("DF");
        let whole = !self.accept("MF");
        // After "FRAG:" there are no ports, and the caller does not find "PROTO=".
        if self.accept("OPT") {
            self.value("(").filter(|hex| hex.ends_with(')'))?;
        }
        Some(whole)
    }

    /// Whether the packet is complete. Always true, because the caller rejects all fragments.
    fn rest_of_ipv6(&mut self) -> Option<bool> {
        for name in ["TC=", "HOPLIMIT=", "FLOWLBL="] {
            self.value(name)?;
        }
        while self.accept("OPT") {
            self.accept("(").then_some(())?;
            if self.accept("AH") {
                self.value("SPI=")?;
            }
            self.accept(")").then_some(())?;
        }
        Some(true)
    }

    fn rest_of_tcp(&mut self) -> Option<TcpFlags> {
        self.skip(&["SEQ=", "ACK="]);
        self.parsed::<u16>("WINDOW=")?;
        self.value("RES=0x")?;
        // Flags that are not used here. The kernel logs AE since 6.15.
        for word in ["AE", "CWR", "ECE"] {
            self.accept(word);
        }
        let mut flags = 0;
        for (word, flag) in [
            ("URG", TcpFlags::URG),
            ("ACK", TcpFlags::ACK),
            ("PSH", TcpFlags::PSH),
            ("RST", TcpFlags::RST),
            ("SYN", TcpFlags::SYN),
            ("FIN", TcpFlags::FIN),
        ] {
            if self.accept(word) {
                flags |= flag.byte();
            }
        }
        self.parsed::<u16>("URGP=")?;
        Some(TcpFlags::of(flags))
    }
}

impl<'a> SyslogLine<'a> {
    /// Parses a line with time, host, program and message. The time is in the format of RFC 3164, section 4.1.2, or of
    /// RFC 3339. Facility and level may precede the program, as in BusyBox.
    #[must_use]
    pub fn read(line: &'a str) -> Self {
        Self::read_known(line).unwrap_or(Self::Unclear)
    }

    fn read_known(line: &'a str) -> Option<Self> {
        let mut fields = LogFields(skip_time(line)?);
        let host = fields.next();
        // In a log without hosts, the program's tag would be in this position, and its message in that of the tag.
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%@/".contains(&byte);
        if host.is_empty() || host.ends_with(':') || !host.bytes().all(is_host) {
            return None;
        }
        let facility =
            fields.peek().split_once('.').filter(|(_, level)| is_word(level)).map(|(name, _)| name);
        match facility {
            Some("kern") => _ = fields.next(),
            Some(name) if is_word(name) => return Some(Self::Other),
            _ => {}
        }
        match fields.next() {
            "kernel:" => Some(Self::Kernel(skip_printk(fields.0))),
            tag if tag.ends_with(':') => Some(Self::Other),
            _ => None,
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The line after its time and a space.
fn skip_time(line: &str) -> Option<&str> {
    const SHORT: &str = "aaa _9 99:99:99";
    const LONG: &str = "9999-99-99T99:99:99";
    if line.get(..SHORT.len()).is_some_and(|time| fits(time, SHORT)) {
        return line.get(SHORT.len()..)?.strip_prefix(' ');
    }
    let (time, rest) = line.split_once(' ')?;
    let (seconds, after) = time.split_at_checked(LONG.len())?;
    (fits(seconds, LONG) && is_fraction_and_zone(after)).then_some(rest)
}

/// Whether a text has this form: `9` stands for a digit, `a` for a letter, `_` for a digit or a space.
fn fits(text: &str, form: &str) -> bool {
    text.len() == form.len()
        && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
            b'9' => byte.is_ascii_digit(),
            b'a' => byte.is_ascii_alphabetic(),
            b'_' => byte == b' ' || byte.is_ascii_digit(),
            other => byte == other,
        })
}

/// What can follow the seconds of RFC 3339: digits after a point, and `Z` or an offset, also without its colon (ISO 8601).
/// Anything else would be text of another program.
fn is_fraction_and_zone(text: &str) -> bool {
    let zone = match text.strip_prefix(['.', ',']) {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => {
            rest.trim_start_matches(|c: char| c.is_ascii_digit())
        }
        Some(_) => return false,
        None => text,
    };
    ["", "Z", "z"].contains(&zone)
        || ["+99:99", "-99:99", "+9999", "-9999"].iter().any(|form| fits(zone, form))
}

/// The message after the time since boot and the thread, which a kernel may add in brackets.
fn skip_printk(message: &str) -> &str {
    let inside = message.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match inside {
        Some((inside, rest)) if inside.chars().all(|c| c.is_ascii_digit() || " .][TC".contains(c)) => rest,
        _ => message,
    }
}

#[cfg(test)]
mod tests;
