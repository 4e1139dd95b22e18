//! The packet: its content according to the options, encrypted and authenticated.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use spa_knock_core::crypto::random;
use spa_knock_core::knock::Timestamp;
use spa_knock_fwknop::{
    ClientOptions, Content, Digest, Message, NatPort, NatTarget, Port, SALT_LEN, TimeOffset,
};
use zeroize::Zeroizing;

use super::key_sources::PacketKeys;
use crate::client::failure::{ClientError, ExitCause};
use crate::os::{clock, env};

/// fwknopd takes a longer text for one that GnuPG has encrypted.
const LENGTH_MAX: usize = 399;
/// The constant beginning of an encrypted text, which is not sent. fwknopd adds it before it measures a command.
const PREFIX_LEN: usize = 10;
/// Random ports are in this range, as in fwknop's client.
const RANDOM_PORTS: std::ops::Range<u16> = 10_000..65_535;
/// The number of values of the random number in a packet.
const RANDOM_MAX: u64 = 10_000_000_000_000_000;

/// A packet, and what it contains.
pub(super) struct FwknopPacket {
    message: Message,
    digest: Digest,
    hmac_digest: Digest,
    wire: String,
}

/// What is requested, and a line about the random port.
pub(super) type RequestedContent = (Content, Option<String>);

/// The request according to the options.
pub(super) fn requested(
    options: &ClientOptions,
    command: Option<&str>,
) -> Result<RequestedContent, ClientError> {
    if let Some(command) = command {
        return Ok((Content::Command(command.to_owned()), None));
    }
    let Some(ports) = options.access.as_ref().map(|ports| ports.0.clone()).filter(|ports| !ports.is_empty())
    else {
        return Err(ClientError::new(ExitCause::Usage, "no port is requested")
            .hint("add -A tcp/22, or ACCESS to the stanza"));
    };
    let inner = ports.first().map_or(0, |port| port.number);
    let is_local = options.nat_local == Some(true);
    let target = match &options.nat {
        Some(nat) => Some(NatTarget { host: nat.host.clone(), port: nat.port.unwrap_or(inner) }),
        None if is_local => {
            let host = options.server.clone().filter(|host| !host.contains(':')).ok_or_else(|| {
                ClientError::new(ExitCause::Usage, "--nat-local: needs the server's name or IPv4 address")
                    .hint("add -N ADDRESS:PORT, an address of the server")
            })?;
            Some(NatTarget { host, port: inner })
        }
        None => None,
    };
    let ports = with_nat_port(ports, options.nat_port)?;
    let notice = match (options.nat_port, ports.first(), &target) {
        (Some(NatPort::Random), Some(port), Some(target)) => {
            Some(format!("nat port: {port} of the server will lead to {},{}\n", target.host, target.port))
        }
        (Some(NatPort::Random), Some(port), None) => Some(format!("nat port: {port}\n")),
        _ => None,
    };
    let content = match target {
        None => Content::Access(ports),
        Some(target) if is_local => Content::LocalNat(ports, target),
        Some(target) => Content::Nat(ports, target),
    };
    Ok((content, notice))
}

/// The ports with the NAT port in place of the requested one.
fn with_nat_port(ports: Vec<Port>, nat_port: Option<NatPort>) -> Result<Vec<Port>, ClientError> {
    let number = match nat_port {
        None => return Ok(ports),
        Some(NatPort::Number(number)) => number,
        Some(NatPort::Random) => random_port()?,
    };
    match ports.as_slice() {
        [port] => Ok(vec![Port { transport: port.transport, number }]),
        _ => Err(ClientError::new(ExitCause::Usage, "--nat-port: works with one requested port only")
            .hint("request the ports one after the other")),
    }
}

/// A random port from 10000 to 65534.
pub(super) fn random_port() -> Result<u16, ClientError> {
    let random = u32::from_le_bytes(random_bytes()?);
    let count = u32::from(RANDOM_PORTS.end.saturating_sub(RANDOM_PORTS.start));
    let offset = u16::try_from(random.checked_rem(count).unwrap_or_default()).unwrap_or_default();
    Ok(RANDOM_PORTS.start.saturating_add(offset))
}

fn random_bytes<const N: usize>() -> Result<[u8; N], ClientError> {
    random().map_err(|error| ClientError::new(ExitCause::Files, error.to_string()))
}

impl FwknopPacket {
    /// Creates a packet with the current time.
    pub(super) fn new(
        options: &ClientOptions,
        content: Content,
        allow: Ipv4Addr,
        keys: &PacketKeys,
    ) -> Result<Self, ClientError> {
        let user = options.user.clone().or_else(|| env::text("SPOOF_USER")).or_else(env::user_name);
        let is_command = matches!(content, Content::Command(_));
        let message = Message {
            user: user.unwrap_or_else(|| "NO_USER".to_owned()),
            time: shifted(clock::wall(), options.time_offset),
            allow,
            content,
            // A request for a command has none.
            timeout: options.timeout.map(|timeout| timeout.0).filter(|&seconds| seconds > 0 && !is_command),
        };
        let digest = options.digest.unwrap_or(Digest::Sha256);
        let random = u64::from_le_bytes(random_bytes()?).checked_rem(RANDOM_MAX).unwrap_or_default();
        let text = Zeroizing::new(message.to_text(random, digest));
        // What a server would refuse is refused here.
        if let Err(error) = Message::parse(&text) {
            return Err(ClientError::new(ExitCause::Usage, format!("{error}: the packet cannot contain it"))
                .hint("use printable ASCII; a request has at most 190 characters, a user name 63"));
        }
        let wire = keys.key.seal(&text, &random_bytes::<SALT_LEN>()?, &keys.hmac_key);
        let hmac_digest = keys.hmac_key.digest();
        let measured = match is_command {
            true => wire.len().saturating_sub(hmac_digest.text_len()).saturating_add(PREFIX_LEN),
            false => wire.len(),
        };
        if measured > LENGTH_MAX {
            return Err(ClientError::new(
                ExitCause::Usage,
                format!("packet: {measured} characters, of which fwknopd reads at most {LENGTH_MAX}"),
            )
            .hint(if is_command {
                "shorten the command"
            } else {
                "request fewer ports in one packet"
            }));
        }
        Ok(Self { message, digest, hmac_digest, wire })
    }

    /// The text that is sent.
    pub(super) fn wire(&self) -> &str {
        &self.wire
    }

    /// The fields, one on each line, and the packet itself if `complete`.
    pub(super) fn text(&self, to: Option<&str>, complete: bool) -> String {
        let Message { user, time, allow, content, timeout } = &self.message;
        let list = |ports: &[Port]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let (kind, request, target) = match content {
            Content::Command(command) => ("command", command.clone(), None),
            Content::Access(ports) => ("access", list(ports), None),
            Content::Nat(ports, target) => ("NAT access", list(ports), Some(target)),
            Content::LocalNat(ports, target) => ("local NAT access", list(ports), Some(target)),
        };
        let allow = match allow.is_unspecified() {
            true => "the address that the packet comes from".to_owned(),
            false => allow.to_string(),
        };
        let mut text = String::new();
        for (name, value) in [
            ("to", to.map(str::to_owned)),
            ("type", Some(kind.to_owned())),
            ("request", Some(request)),
            ("nat", target.map(|target| format!("{},{}", target.host, target.port))),
            ("allow", Some(allow)),
            ("timeout", timeout.map(|seconds| format!("{seconds}s"))),
            ("user", Some(user.clone())),
            ("time", Some(time.to_string())),
            ("digest", Some(self.digest.to_string())),
            ("hmac", Some(self.hmac_digest.to_string())),
            ("length", Some(self.wire.len().to_string())),
            ("packet", complete.then(|| self.wire.clone())),
        ] {
            if let Some(value) = value {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{name:<12} {value}");
            }
        }
        text
    }
}

/// Seconds since 1970, shifted.
fn shifted(time: Timestamp, offset: Option<TimeOffset>) -> u64 {
    let seconds = time.as_millis().checked_div(1_000).unwrap_or_default();
    seconds.saturating_add_signed(offset.map_or(0, |offset| offset.0))
}

#[cfg(test)]
mod tests {
    use spa_knock_fwknop::{CipherKey, HmacKey, PortList, WireText};

    use super::*;

    fn options(access: &str) -> ClientOptions {
        ClientOptions {
            server: Some("server".to_owned()),
            access: access.parse::<PortList>().ok(),
            user: Some("alice".to_owned()),
            ..ClientOptions::default()
        }
    }

    fn keys(digest: Digest) -> PacketKeys {
        PacketKeys { key: CipherKey::new(b"k").unwrap(), hmac_key: HmacKey::new(digest, b"h") }
    }

    fn packet(options: &ClientOptions, command: Option<&str>) -> Result<FwknopPacket, ClientError> {
        let (content, _) = requested(options, command)?;
        FwknopPacket::new(options, content, Ipv4Addr::new(192, 0, 2, 7), &keys(Digest::Sha256))
    }

    #[test]
    fn a_server_reads_what_was_requested() {
        for digest in Digest::ALL {
            let keys = keys(digest);
            let options = ClientOptions {
                timeout: "30".parse().ok(),
                time_offset: "-1h".parse().ok(),
                digest: Some(digest),
                ..options("tcp/22,udp/53")
            };
            let (content, _) = requested(&options, None).ok().unwrap();
            let packet = FwknopPacket::new(&options, content, Ipv4Addr::UNSPECIFIED, &keys).ok().unwrap();
            let sealed = keys.hmac_key.verify(WireText::parse(packet.wire().as_bytes()).unwrap()).unwrap();
            let message = Message::parse(&keys.key.open(sealed).unwrap()).unwrap();
            assert_eq!(message, packet.message, "{digest}");
            assert_eq!((message.user.as_str(), message.timeout), ("alice", Some(30)));
            let now = clock::wall().as_millis() / 1_000;
            assert!((3_590..3_610).contains(&(now - message.time)), "{}", message.time);
        }
    }

    #[test]
    fn a_nat_request_has_a_target_and_can_have_another_port() {
        let nat = |access: &str, nat: &str, port: Option<u16>, local: bool| {
            let options = ClientOptions {
                nat: nat.parse().ok(),
                nat_port: port.map(NatPort::Number),
                nat_local: Some(local),
                ..options(access)
            };
            requested(&options, None).map(|(content, _)| content).map_err(|error| error.reason().to_owned())
        };
        let target = |host: &str, port| NatTarget { host: host.to_owned(), port };
        let ports = |text: &str| text.parse::<PortList>().unwrap().0;
        for (content, expected) in [
            (nat("tcp/22", "10.0.0.1", None, false), Content::Nat(ports("tcp/22"), target("10.0.0.1", 22))),
            (
                nat("tcp/80", "10.0.0.1:22", None, false),
                Content::Nat(ports("tcp/80"), target("10.0.0.1", 22)),
            ),
            (
                nat("tcp/22", "10.0.0.1", Some(99), false),
                Content::Nat(ports("tcp/99"), target("10.0.0.1", 22)),
            ),
            (nat("tcp/22", "", Some(99), true), Content::LocalNat(ports("tcp/99"), target("server", 22))),
            (
                nat("tcp/22", "10.0.0.1:5", None, true),
                Content::LocalNat(ports("tcp/22"), target("10.0.0.1", 5)),
            ),
            (nat("tcp/22", "", Some(99), false), Content::Access(ports("tcp/99"))),
        ] {
            assert_eq!(content, Ok(expected));
        }
        assert!(nat("tcp/22,tcp/23", "10.0.0.1", Some(99), false).unwrap_err().starts_with("--nat-port"));
    }

    #[test]
    fn a_random_nat_port_is_printed() {
        let options = ClientOptions {
            nat: "10.0.0.1:22".parse().ok(),
            nat_port: Some(NatPort::Random),
            ..options("tcp/22")
        };
        let (Content::Nat(ports, _), Some(notice)) = requested(&options, None).ok().unwrap() else {
            panic!("a NAT request with a notice")
        };
        assert!(RANDOM_PORTS.contains(&ports[0].number));
        assert_eq!(notice, format!("nat port: {} of the server will lead to 10.0.0.1,22\n", ports[0]));
    }

    #[test]
    fn a_packet_that_fwknopd_would_not_read_is_refused() {
        let many = |count: usize| vec!["tcp/50000"; count].join(",");
        for (access, command, fits) in [
            (many(11), None, true),
            (many(12), None, false),
            (String::new(), Some("x".repeat(120)), true),
            (String::new(), Some("x".repeat(140)), false),
        ] {
            let result = packet(&options(&access), command.as_deref());
            let reason = result.as_ref().err().map(|error| error.reason().to_owned()).unwrap_or_default();
            assert_eq!(result.is_ok(), fits, "{access} {command:?}: {reason}");
            assert!(fits || reason.contains("of which fwknopd reads at most 399"), "{reason}");
        }
        for (user, command) in [(Some("a:b"), None), (None, Some("é")), (None, Some(""))] {
            let options =
                ClientOptions { user: Some(user.unwrap_or("alice").to_owned()), ..options("tcp/22") };
            let reason = packet(&options, command).err().unwrap().reason().to_owned();
            assert!(reason.ends_with("the packet cannot contain it"), "{user:?} {command:?}: {reason}");
        }
    }
}
