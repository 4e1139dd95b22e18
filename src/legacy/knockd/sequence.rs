//! Knock sequences: the ordered list of ports that opens a door.

use std::fmt;

use super::number::{atoi, trim};
use spa_knock_core::knock::Protocol;

/// knockd's limit.
const KNOCKS_MAX: usize = 32;

/// One port of a sequence. May be port 0, because knockd reads a text without a number as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequencePort {
    /// The protocol.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
}

/// A knock sequence: 1 to 32 ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnockSequence(Vec<SequencePort>);

/// Why a text is not a valid sequence. The caller adds the name of the section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// Over 32 ports.
    #[error("too many ports in knock sequence")]
    TooMany,
    /// A number over 65535, as written in the config.
    #[error("port {0} is invalid")]
    Port(String),
    /// Neither tcp nor udp.
    #[error("unknown protocol in knock sequence")]
    Protocol,
}

impl KnockSequence {
    /// Parses `7000,8000:udp, …` as leniently as knockd, so almost any text is valid.
    ///
    /// # Errors
    /// For a port over 65535, an unknown protocol or a 33rd port; the first of these from the left.
    pub fn read(text: &[u8]) -> Result<Self, SequenceError> {
        let mut knocks = Vec::new();
        for item in text.split(|&byte| byte == b',') {
            if knocks.len() >= KNOCKS_MAX {
                return Err(SequenceError::TooMany);
            }
            knocks.push(SequencePort::read(item)?);
        }
        Ok(Self(knocks))
    }

    /// The ports, in order.
    #[must_use]
    pub fn knocks(&self) -> &[SequencePort] {
        &self.0
    }
}

impl fmt::Display for KnockSequence {
    /// Writes the sequence in the form that `read` accepts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, SequencePort { protocol, port }) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{port}:{}", protocol.as_str())?;
        }
        Ok(())
    }
}

impl SequencePort {
    fn read(item: &[u8]) -> Result<Self, SequenceError> {
        let mut parts = item.split(|&byte| byte == b':');
        let port = parts.next().unwrap_or_default();
        let number = atoi(port);
        if number > i32::from(u16::MAX) {
            return Err(SequenceError::Port(String::from_utf8_lossy(port).into_owned()));
        }
        let [low, high, ..] = number.to_le_bytes();
        let protocol = match parts.next().map(trim) {
            None => Protocol::Tcp,
            Some(name) if name.eq_ignore_ascii_case(b"tcp") => Protocol::Tcp,
            Some(name) if name.eq_ignore_ascii_case(b"udp") => Protocol::Udp,
            Some(_) => return Err(SequenceError::Protocol),
        };
        Ok(Self { protocol, port: u16::from_le_bytes([low, high]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let name = |knock: &SequencePort| format!("{}/{}", knock.protocol.as_str(), knock.port);
        let sequence = KnockSequence::read(text.as_bytes()).map_err(|error| error.to_string())?;
        assert_eq!(KnockSequence::read(sequence.to_string().as_bytes()).as_ref(), Ok(&sequence));
        Ok(sequence.knocks().iter().map(name).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn almost_any_text_is_a_valid_sequence() {
        for (text, sequence) in [
            ("7000,8000,9000", "tcp/7000 tcp/8000 tcp/9000"),
            ("2222:udp,3333:tcp,4444:udp", "udp/2222 tcp/3333 udp/4444"),
            (" 7000 : UDP , +08000:Tcp", "udp/7000 tcp/8000"),
            ("7000:udp:x", "udp/7000"),
            ("7000 8000 9000", "tcp/7000"),
            ("ssh", "tcp/0"),
            ("", "tcp/0"),
            ("7000,", "tcp/7000 tcp/0"),
            ("-1,65535,-65536", "tcp/65535 tcp/65535 tcp/0"),
            ("0x10", "tcp/0"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(sequence), "{text}");
        }
        assert_eq!(read(&["1"; 32].join(",")).map(|read| read.split(' ').count()), Ok(32));
    }

    #[test]
    fn errors_are_worded_as_in_knockd() {
        for (text, error) in [
            ("65536", "port 65536 is invalid"),
            ("1, 70000x:udp", "port  70000x is invalid"),
            ("1:icmp", "unknown protocol in knock sequence"),
            ("1:", "unknown protocol in knock sequence"),
            ("1:udp x", "unknown protocol in knock sequence"),
        ] {
            assert_eq!(read(text), Err(error.to_owned()), "{text}");
        }
        assert_eq!(read(&["1"; 33].join(",")), Err("too many ports in knock sequence".to_owned()));
    }
}
