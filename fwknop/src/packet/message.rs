//! The content of a packet: who asks for what, and when. Fields are separated by `:`; the last one is a digest of all
//! others.
//!
//! `random : user : time : version : type : request [: NAT target] [: server authentication] [: timeout] : digest`

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::Digest;
use super::text::{decimal, decode_printable, encode};

/// How many decimal digits a packet begins with, which make it unique.
pub const RANDOM_LEN: usize = 16;
const USER_MAX: usize = 63;
const VERSION_MAX: usize = 8;
const VERSION: &str = "3.0.0";
const TIME_DIGITS_MAX: usize = 12;
const HOST_MAX: usize = 70;
/// Maximum length of the base64 of a request or a NAT target.
const FIELD_MAX: usize = 256;
/// The longest timeout that a client can ask for, in seconds.
const TIMEOUT_MAX: u32 = 65_536;
/// Characters that no user name contains.
const NOT_IN_USER: &str = "\"/\\[]:;|=,+*?<>";
/// Characters that no NAT host contains.
const NOT_IN_HOST: &str = " /?\"'\\";

/// What a packet contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The name of the sender's account, 1 to 63 printable characters. fwknop sends `NO_USER` if it knows none.
    pub user: String,
    /// The sender's time, in seconds since 1970.
    pub time: u64,
    /// The address that is to get access; `0.0.0.0` means the one that the packet comes from.
    pub allow: Ipv4Addr,
    /// What is requested.
    pub content: Content,
    /// For how many seconds, 0 to 65536; 0 and none mean the server's default.
    pub timeout: Option<u32>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Run a command.
    Command(String),
    /// Open ports; at least one.
    Access(Vec<Port>),
    /// Forward a port to a host behind the server.
    Nat(Vec<Port>, NatTarget),
    /// Forward a port to a port of the server itself.
    LocalNat(Vec<Port>, NatTarget),
}

/// A port of a transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Port {
    /// The protocol.
    pub transport: Transport,
    /// 1 to 65535.
    pub number: u16,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where a NAT request leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatTarget {
    /// An address or a host name of at most 70 characters.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// The field because of which a text is no message. Does not contain its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Too few or too many fields for its type.
    #[error("number of fields")]
    Fields,
    /// The digest of the content is wrong.
    #[error("digest")]
    Digest,
    /// Not 16 digits.
    #[error("random number")]
    Random,
    /// Empty, too long, or with a character that is not allowed.
    #[error("user name")]
    User,
    /// Not a number of at most 12 digits.
    #[error("time")]
    Time,
    /// Longer than 8 characters.
    #[error("version")]
    Version,
    /// Not 0 to 6.
    #[error("message type")]
    Kind,
    /// Not an IPv4 address.
    #[error("address")]
    Address,
    /// Not a list like `tcp/22,udp/53`.
    #[error("ports")]
    Ports,
    /// Empty.
    #[error("command")]
    Command,
    /// Not like `192.0.2.1,22`.
    #[error("NAT target")]
    NatTarget,
    /// Not a number from 0 to 65536.
    #[error("timeout")]
    Timeout,
}

/// The types of messages, by what follows the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Command,
    Access,
    Nat,
    LocalNat,
}

impl Message {
    /// Parses a decrypted text.
    ///
    /// # Errors
    /// When a field is malformed, or the digest does not match.
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        let (signed, digest) = text.rsplit_once(':').ok_or(MessageError::Fields)?;
        if !Digest::ALL
            .iter()
            .any(|candidate| candidate.text_len() == digest.len() && candidate.text_of(signed) == digest)
        {
            return Err(MessageError::Digest);
        }
        let mut fields = signed.split(':');
        let mut next = || fields.next().ok_or(MessageError::Fields);
        let random = next()?;
        if random.len() != RANDOM_LEN || !random.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(MessageError::Random);
        }
        let user = decode_printable(next()?).filter(|user| is_user(user)).ok_or(MessageError::User)?;
        let time = decimal(next()?, TIME_DIGITS_MAX).ok_or(MessageError::Time)?;
        if next()?.len() > VERSION_MAX {
            return Err(MessageError::Version);
        }
        let (kind, has_timeout) = kind_of(next()?).ok_or(MessageError::Kind)?;
        let request = next()?;
        let mut rest: Vec<&str> = fields.collect();
        let timeout = match has_timeout {
            true => Some(parse_timeout(rest.pop().ok_or(MessageError::Fields)?)?),
            false => None,
        };
        let target = match kind {
            Kind::Nat | Kind::LocalNat if rest.is_empty() => return Err(MessageError::Fields),
            Kind::Nat | Kind::LocalNat => Some(parse_target(rest.remove(0))?),
            Kind::Command | Kind::Access => None,
        };
        // One more field can follow: server authentication, which fwknop's server ignores, too.
        if rest.len() > 1 {
            return Err(MessageError::Fields);
        }
        let request = Some(request).filter(|request| request.len() <= FIELD_MAX).and_then(decode_printable);
        let request = request.ok_or(MessageError::Ports)?;
        let (allow, wanted) = request.split_once(',').ok_or(MessageError::Address)?;
        let allow = allow.parse().map_err(|_| MessageError::Address)?;
        let content = match (kind, target) {
            (Kind::Command, _) if wanted.is_empty() => return Err(MessageError::Command),
            (Kind::Command, _) => Content::Command(wanted.to_owned()),
            (Kind::Nat, Some(target)) => Content::Nat(parse_ports(wanted)?, target),
            (Kind::LocalNat, Some(target)) => Content::LocalNat(parse_ports(wanted)?, target),
            (Kind::Access | Kind::Nat | Kind::LocalNat, _) => Content::Access(parse_ports(wanted)?),
        };
        Ok(Self { user, time, allow, content, timeout })
    }

    /// The text to encrypt. `random` must be random, below 10^16.
    #[must_use]
    pub fn to_text(&self, random: u64, digest: Digest) -> String {
        let (request, target, kind) = match &self.content {
            Content::Command(command) => (command.clone(), None, '0'),
            Content::Access(ports) => (list(ports), None, self.kind_char('1', '3')),
            Content::Nat(ports, target) => (list(ports), Some(target), self.kind_char('2', '4')),
            Content::LocalNat(ports, target) => (list(ports), Some(target), self.kind_char('5', '6')),
        };
        let mut text = format!(
            "{random:016}:{}:{}:{VERSION}:{kind}:{}",
            encode(&self.user),
            self.time,
            encode(format!("{},{request}", self.allow))
        );
        if let Some(target) = target {
            let _ = write!(text, ":{}", encode(format!("{},{}", target.host, target.port)));
        }
        if let (Some(timeout), '3' | '4' | '6') = (self.timeout, kind) {
            let _ = write!(text, ":{timeout}");
        }
        let digest = digest.text_of(&text);
        text.push(':');
        text.push_str(&digest);
        text
    }

    /// fwknop has a type with a timeout and one without.
    fn kind_char(&self, without: char, with: char) -> char {
        if self.timeout.is_some_and(|timeout| timeout > 0) { with } else { without }
    }
}

fn kind_of(text: &str) -> Option<(Kind, bool)> {
    Some(match text {
        "0" => (Kind::Command, false),
        "1" => (Kind::Access, false),
        "2" => (Kind::Nat, false),
        "3" => (Kind::Access, true),
        "4" => (Kind::Nat, true),
        "5" => (Kind::LocalNat, false),
        "6" => (Kind::LocalNat, true),
        _ => return None,
    })
}

fn is_user(user: &str) -> bool {
    (1..=USER_MAX).contains(&user.len()) && !user.contains(|c| NOT_IN_USER.contains(c))
}

fn parse_timeout(text: &str) -> Result<u32, MessageError> {
    decimal(text, 5).filter(|&timeout| timeout <= TIMEOUT_MAX).ok_or(MessageError::Timeout)
}

fn parse_ports(text: &str) -> Result<Vec<Port>, MessageError> {
    text.split(',').map(|port| parse_port(port).ok_or(MessageError::Ports)).collect()
}

fn parse_port(text: &str) -> Option<Port> {
    let (transport, number) = text.split_once('/')?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    Some(Port { transport, number: parse_number(number)? })
}

fn parse_number(text: &str) -> Option<u16> {
    decimal(text, 5).filter(|&number| number != 0)
}

fn parse_target(field: &str) -> Result<NatTarget, MessageError> {
    let parse = || {
        let text = Some(field).filter(|field| field.len() <= FIELD_MAX).and_then(decode_printable)?;
        let (host, port) = text.split_once(',')?;
        let is_host = (1..=HOST_MAX).contains(&host.len()) && !host.contains(|c| NOT_IN_HOST.contains(c));
        let port = parse_number(port)?;
        is_host.then(|| NatTarget { host: host.to_owned(), port })
    };
    parse().ok_or(MessageError::NatTarget)
}

fn list(ports: &[Port]) -> String {
    let words: Vec<_> = ports.iter().map(Port::to_string).collect();
    words.join(",")
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{transport}/{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A text with a matching digest.
    fn signed(fields: &[&str]) -> String {
        let text = fields.join(":");
        format!("{text}:{}", Digest::Sha256.text_of(&text))
    }

    /// A message with one field replaced by its text.
    fn parse_with(kind: &str, request: &str, rest: &[&str]) -> Result<Message, MessageError> {
        let request = encode(request);
        let fields = ["1234567890123456", "YWxpY2U", "1700000000", "3.0.0", kind, &request];
        Message::parse(&signed(&[&fields, rest].concat()))
    }

    #[test]
    fn a_request_that_fwknop_refuses_is_refused_by_its_field() {
        for (request, error) in [
            ("999.1.1.1,tcp/22", MessageError::Address),
            ("010.1.1.1,tcp/22", MessageError::Address),
            ("1.1.1,tcp/22", MessageError::Address),
            ("a.b.c.d,tcp/22", MessageError::Address),
            (",tcp/22", MessageError::Address),
            ("1.1.1.1tcp/22", MessageError::Address),
            ("1.1.1.1,", MessageError::Ports),
            ("1.1.1.1,tcp/0", MessageError::Ports),
            ("1.1.1.1,tcp/65536", MessageError::Ports),
            ("1.1.1.1,tcp/-1", MessageError::Ports),
            ("1.1.1.1,tcp/", MessageError::Ports),
            ("1.1.1.1,tcp/+22", MessageError::Ports),
            ("1.1.1.1,none/0", MessageError::Ports),
            ("1.1.1.1,icmp/1", MessageError::Ports),
            ("1.1.1.1,tcpx/22", MessageError::Ports),
            ("1.1.1.1,/22", MessageError::Ports),
            ("1.1.1.1,tcp/22,", MessageError::Ports),
            ("1.1.1.1,tcp/1234567890123456789012345678901234567890", MessageError::Ports),
        ] {
            assert_eq!(parse_with("1", request, &[]), Err(error), "{request}");
        }
        assert!(parse_with("1", "1.1.1.1,tcp/22,udp/53", &[]).is_ok());
        assert_eq!(parse_with("0", "1.1.1.1,", &[]), Err(MessageError::Command));
    }

    #[test]
    fn each_type_has_its_number_of_fields() {
        let target = encode("192.0.2.1,22");
        let target = target.as_str();
        for (kind, rest, ok) in [
            ("1", &[][..], true),
            ("1", &["auth"], true),
            ("1", &["auth", "more"], false),
            ("2", &[target], true),
            ("2", &[target, "auth"], true),
            ("2", &[], false),
            ("3", &["30"], true),
            ("3", &["auth", "30"], true),
            ("3", &[], false),
            ("4", &[target, "30"], true),
            ("4", &[target, "auth", "30"], true),
            ("4", &[target, "auth", "more", "30"], false),
            ("5", &[target], true),
            ("6", &[target, "65536"], true),
            ("6", &[target, "65537"], false),
            ("6", &[target, "x"], false),
            ("7", &[], false),
            ("-1", &[], false),
        ] {
            assert_eq!(parse_with(kind, "1.1.1.1,tcp/22", rest).is_ok(), ok, "{kind} {rest:?}");
        }
    }

    #[test]
    fn a_nat_target_is_one_host_and_one_port() {
        for target in ["192.0.2.1", "192.0.2.1,22,23", ",22", "a b,22", "a/b,22", "h,0", "h,99999"] {
            let result = parse_with("2", "1.1.1.1,tcp/22", &[&encode(target)]);
            assert_eq!(result, Err(MessageError::NatTarget), "{target}");
        }
        let long = format!("{},22", "h".repeat(71));
        assert!(parse_with("2", "1.1.1.1,tcp/22", &[&encode(long)]).is_err());
    }

    #[test]
    fn the_fields_before_the_request_are_checked() {
        let request = encode("1.1.1.1,tcp/22");
        let long = encode("u".repeat(64));
        for (random, user, time, version, error) in [
            ("123456789012345", "YWxpY2U", "1", "3.0.0", MessageError::Random),
            ("12345678901234567", "YWxpY2U", "1", "3.0.0", MessageError::Random),
            ("123456789012345x", "YWxpY2U", "1", "3.0.0", MessageError::Random),
            ("1234567890123456", "", "1", "3.0.0", MessageError::User),
            ("1234567890123456", &long, "1", "3.0.0", MessageError::User),
            ("1234567890123456", &encode("a/b"), "1", "3.0.0", MessageError::User),
            ("1234567890123456", &encode("a\n"), "1", "3.0.0", MessageError::User),
            ("1234567890123456", "YWxpY2U=", "1", "3.0.0", MessageError::User),
            ("1234567890123456", "YWxpY2U", "1234567890123", "3.0.0", MessageError::Time),
            ("1234567890123456", "YWxpY2U", "-1", "3.0.0", MessageError::Time),
            ("1234567890123456", "YWxpY2U", "1", "3.0.0.0.0", MessageError::Version),
        ] {
            let text = signed(&[random, user, time, version, "1", &request]);
            assert_eq!(Message::parse(&text), Err(error), "{text}");
        }
    }

    #[test]
    fn the_digest_covers_every_field() {
        let text = signed(&["1234567890123456", "YWxpY2U", "1", "3.0.0", "1", &encode("1.1.1.1,tcp/22")]);
        assert!(Message::parse(&text).is_ok());
        assert_eq!(Message::parse(&text.replace(":1:3.0.0", ":2:3.0.0")), Err(MessageError::Digest));
        assert_eq!(Message::parse(""), Err(MessageError::Fields));
    }

    fn port() -> impl Strategy<Value = Port> {
        (any::<bool>(), 1_u16..).prop_map(|(tcp, number)| Port {
            transport: if tcp { Transport::Tcp } else { Transport::Udp },
            number,
        })
    }

    fn content() -> impl Strategy<Value = Content> {
        let ports = || prop::collection::vec(port(), 1..8);
        let target = || ("[a-z0-9.-]{1,70}", 1_u16..).prop_map(|(host, port)| NatTarget { host, port });
        prop_oneof![
            "[ -~]{1,100}".prop_map(Content::Command),
            ports().prop_map(Content::Access),
            (ports(), target()).prop_map(|(ports, target)| Content::Nat(ports, target)),
            (ports(), target()).prop_map(|(ports, target)| Content::LocalNat(ports, target)),
        ]
    }

    proptest! {
        #[test]
        fn a_message_that_is_written_is_read_again(
            user in "[a-zA-Z0-9._-]{1,63}", time in 0_u64..1_000_000_000_000, allow: u32, content in content(),
            timeout in prop::option::of(1_u32..=65_536), random in 0_u64..10_000_000_000_000_000, digest in 0_usize..7
        ) {
            let timeout = timeout.filter(|_| !matches!(content, Content::Command(_)));
            let message = Message { user, time, allow: allow.into(), content, timeout };
            let text = message.to_text(random, Digest::ALL[digest]);
            prop_assert_eq!(Message::parse(&text), Ok(message));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9A-Za-z+/:,.]{0,300}") {
            let _ = Message::parse(&text);
        }
    }
}
