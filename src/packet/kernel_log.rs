//! The line that the kernel logs of a packet where a firewall rule says `log` or `-j LOG` → the packet. Total: any line
//! is one or none.
//!
//! Others write into the same logs, and some of what they write strangers choose. So a line counts only if all of it is
//! as the kernel writes it, word by word in its order: an address or a port that stands elsewhere is none. Source:
//! net/netfilter/nf_log_syslog.c of Linux 6.18.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{Packet, TcpFlags, Transport};
use spa_knock_core::knock::canonical;

/// A packet that was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelLogLine<'a> {
    /// The packet. Of a UDP payload it is known only whether there is one; one that is not empty is not there.
    pub packet: Packet<'static>,
    /// The interface that it came in by.
    pub interface: &'a str,
}

/// A line of a file that a syslog daemon writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogLine<'a> {
    /// The kernel said this, without the time that it may put in front.
    Kernel(&'a str),
    /// Another program said something.
    Other,
    /// Not to be told.
    Unclear,
}

/// Bytes of a UDP header: of a packet with no more there is no payload.
const UDP_HEADER: u16 = 8;

impl<'a> KernelLogLine<'a> {
    /// Reads what the kernel said, if it begins with the rule's prefix. What is sent from here, a fragment but the first
    /// of IPv4, and what has no ports is none.
    #[must_use]
    pub fn read(message: &'a str, prefix: &str) -> Option<Self> {
        let message = message.strip_prefix(prefix)?;
        // The prefix ends in a space, whether or not whoever wrote it down here has seen that.
        let mut words = LogFields(message.strip_prefix(' ').unwrap_or(message));
        let interface = words.value("IN=").filter(|name| !name.is_empty())?;
        words.value("OUT=")?;
        words.skip(&[
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
        let source: IpAddr = words.parsed("SRC=")?;
        let destination: IpAddr = words.parsed("DST=")?;
        words.parsed::<u32>("LEN=")?;
        let whole = match (source, destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => words.rest_of_ipv4()?,
            (IpAddr::V6(_), IpAddr::V6(_)) => words.rest_of_ipv6()?,
            _ => return None,
        };
        let protocol = words.value("PROTO=")?;
        let (from, to) = (words.parsed("SPT=")?, words.parsed("DPT=")?);
        let transport = match protocol {
            "TCP" => Transport::Tcp { flags: words.rest_of_tcp()? },
            "UDP" => {
                let empty = words.parsed::<u16>("LEN=")? == UDP_HEADER;
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

/// What follows of a message; words are parted by single spaces.
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

    /// The next word without this name; none if it has another one.
    fn value(&mut self, name: &str) -> Option<&'a str> {
        let value = self.peek().strip_prefix(name)?;
        self.next();
        Some(value)
    }

    fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T> {
        self.value(name)?.parse().ok()
    }

    /// Words with these names may be there or not, in this order.
    fn skip(&mut self, names: &[&str]) {
        for name in names {
            self.value(name);
        }
    }

    /// Whether the next word is this one; it is taken then.
    fn is(&mut self, word: &str) -> bool {
        let is = self.peek() == word;
        if is {
            self.next();
        }
        is
    }

    /// Returns whether all of the packet is here.
    fn rest_of_ipv4(&mut self) -> Option<bool> {
        for name in ["TOS=", "PREC=", "TTL=", "ID="] {
            self.value(name)?;
        }
        self.is("CE");
        self.is("DF");
        let whole = !self.is("MF");
        // Behind "FRAG:" there are no ports; "PROTO=" is looked for in vain then.
        if self.is("OPT") {
            self.value("(").filter(|hex| hex.ends_with(')'))?;
        }
        Some(whole)
    }

    /// Returns whether all of the packet is here: of fragments none is one.
    fn rest_of_ipv6(&mut self) -> Option<bool> {
        for name in ["TC=", "HOPLIMIT=", "FLOWLBL="] {
            self.value(name)?;
        }
        while self.is("OPT") {
            self.is("(").then_some(())?;
            if self.is("AH") {
                self.value("SPI=")?;
            }
            self.is(")").then_some(())?;
        }
        Some(true)
    }

    fn rest_of_tcp(&mut self) -> Option<TcpFlags> {
        self.skip(&["SEQ=", "ACK="]);
        self.parsed::<u16>("WINDOW=")?;
        self.value("RES=0x")?;
        // A bit that the kernel names since 6.15, and two that count for nobody here.
        for word in ["AE", "CWR", "ECE"] {
            self.is(word);
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
            if self.is(word) {
                flags |= flag.byte();
            }
        }
        self.parsed::<u16>("URGP=")?;
        Some(TcpFlags::of(flags))
    }
}

impl<'a> SyslogLine<'a> {
    /// Reads a line: time, host, and who says what. The time is that of RFC 3164, section 4.1.2, or of RFC 3339; before
    /// the tag there may be facility and level, as BusyBox has them.
    #[must_use]
    pub fn read(line: &'a str) -> Self {
        Self::read_known(line).unwrap_or(Self::Unclear)
    }

    fn read_known(line: &'a str) -> Option<Self> {
        let mut words = LogFields(skip_time(line)?);
        let host = words.next();
        // Where a log leaves the host out, a program's tag stands in its place, and what it says in the tag's.
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%@/".contains(&byte);
        if host.is_empty() || host.ends_with(':') || !host.bytes().all(is_host) {
            return None;
        }
        let facility = words.peek().split_once('.').filter(|(_, level)| is_word(level)).map(|(name, _)| name);
        match facility {
            Some("kern") => _ = words.next(),
            Some(name) if is_word(name) => return Some(Self::Other),
            _ => {}
        }
        match words.next() {
            "kernel:" => Some(Self::Kernel(skip_printk(words.0))),
            tag if tag.ends_with(':') => Some(Self::Other),
            _ => None,
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// What follows the time that a line begins with, and a space.
fn skip_time(line: &str) -> Option<&str> {
    /// `9` stands for a digit, `a` for a letter, `_` for a digit or a space.
    fn fits(text: &str, form: &str) -> bool {
        text.len() == form.len()
            && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
                b'9' => byte.is_ascii_digit(),
                b'a' => byte.is_ascii_alphabetic(),
                b'_' => byte == b' ' || byte.is_ascii_digit(),
                other => byte == other,
            })
    }
    const SHORT: &str = "aaa _9 99:99:99";
    const LONG: &str = "9999-99-99T99:99:99";
    if line.get(..SHORT.len()).is_some_and(|time| fits(time, SHORT)) {
        return line.get(SHORT.len()..)?.strip_prefix(' ');
    }
    let (time, rest) = line.split_once(' ')?;
    time.get(..LONG.len()).filter(|time| fits(time, LONG))?;
    Some(rest)
}

/// What follows the time since the boot, and the thread, that a kernel may put in brackets in front.
fn skip_printk(message: &str) -> &str {
    let inside = message.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match inside {
        Some((inside, rest)) if inside.chars().all(|c| c.is_ascii_digit() || " .][TC".contains(c)) => rest,
        _ => message,
    }
}

#[cfg(test)]
mod tests;
