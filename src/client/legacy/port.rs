//! Parses `PORT[:PROTOCOL]` as knock(1) does, except that invalid ports are errors.

use crate::client::failure::{ClientError, ExitCause};
use crate::legacy::knockd::SequencePort;
use spa_knock_core::knock::Protocol;

/// Parses one argument. The protocol is TCP unless the suffix is udp.
///
/// `services` is the text of services(5), in which names are looked up.
///
/// # Errors
/// If the port is over 65535, or is neither a number nor the name of a service.
pub(super) fn read(argument: &str, udp: Udp, services: &str) -> Result<SequencePort, ClientError> {
    let (port, suffix) = argument.split_once(':').unwrap_or((argument, ""));
    let asks_for_udp = suffix.split(':').next().is_some_and(|suffix| suffix.eq_ignore_ascii_case("udp"));
    let protocol = if udp == Udp::Always || asks_for_udp { Protocol::Udp } else { Protocol::Tcp };
    let number = if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that does not fit this type is over 65535, too.
        port.parse::<u64>()
            .unwrap_or(u64::MAX)
            .try_into()
            .map_err(|_| ClientError::new(ExitCause::Usage, format!("port {port}: must be at most 65535")))?
    } else {
        service(port, protocol, services).ok_or_else(|| {
            ClientError::new(
                ExitCause::Usage,
                format!("port '{port}': neither a number nor a {} service", protocol.as_str()),
            )
            .hint("write a port as 7000, 7000:udp or ssh")
        })?
    };
    Ok(SequencePort { protocol, port: number })
}

/// Whether `-u` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Udp {
    /// Every knock is UDP.
    Always,
    /// Only those with the suffix `:udp`.
    AsGiven,
}

/// Looks up the port of a service. Lines are `NAME PORT/PROTOCOL [ALIAS...] [# comment]`.
fn service(name: &str, protocol: Protocol, services: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let first = words.next()?;
        let (port, of) = words.next()?.split_once('/')?;
        let named = first == name || words.any(|alias| alias == name);
        if named && of == protocol.as_str() { port.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = "# services\nssh\t22/tcp\t# Secure Shell\ndomain 53/tcp\ndomain 53/udp\n\
                            http 80/tcp www # World Wide Web\nbroken\nx 99999/tcp\n";

    fn read_as(argument: &str, udp: Udp) -> Result<String, String> {
        let knock = read(argument, udp, SERVICES).map_err(|failure| failure.reason().to_owned())?;
        Ok(format!("{}/{}", knock.protocol.as_str(), knock.port))
    }

    #[test]
    fn a_knock_is_tcp_unless_its_suffix_is_udp_in_any_case() {
        for (word, knock, always) in [
            ("7000", "tcp/7000", "udp/7000"),
            ("7000:udp", "udp/7000", "udp/7000"),
            ("7000:UDP", "udp/7000", "udp/7000"),
            ("7000:Udp:x", "udp/7000", "udp/7000"),
            ("7000:tcp", "tcp/7000", "udp/7000"),
            ("7000:foo", "tcp/7000", "udp/7000"),
            ("7000:", "tcp/7000", "udp/7000"),
            ("0", "tcp/0", "udp/0"),
            ("00065535", "tcp/65535", "udp/65535"),
            ("domain:udp", "udp/53", "udp/53"),
        ] {
            assert_eq!(read_as(word, Udp::AsGiven).as_deref(), Ok(knock), "{word}");
            assert_eq!(read_as(word, Udp::Always).as_deref(), Ok(always), "{word}");
        }
        assert_eq!(read_as("ssh", Udp::AsGiven).as_deref(), Ok("tcp/22"));
        assert_eq!(read_as("www:tcp", Udp::AsGiven).as_deref(), Ok("tcp/80"));
    }

    #[test]
    fn an_invalid_port_is_an_error() {
        for (word, reason) in [
            ("65536", "port 65536: must be at most 65535"),
            ("99999:udp", "port 99999: must be at most 65535"),
            ("99999999999999999999999", "port 99999999999999999999999: must be at most 65535"),
            ("", "port '': neither a number nor a tcp service"),
            ("-1", "port '-1': neither a number nor a tcp service"),
            ("ssh:udp", "port 'ssh': neither a number nor a udp service"),
            ("broken", "port 'broken': neither a number nor a tcp service"),
            ("x", "port 'x': neither a number nor a tcp service"),
        ] {
            assert_eq!(read_as(word, Udp::AsGiven), Err(reason.to_owned()), "{word}");
        }
    }
}
