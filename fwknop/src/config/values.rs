//! Values of variables, checked one by one.

use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::problem::{ConfigProblem, Place};
use super::stanza::Expiry;
use crate::packet::{Port, Transport};

/// What fwknop's sample files have in place of keys.
const PLACEHOLDER: &str = "__CHANGEME__";

/// The reason why a value is refused, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invalid {
    reason: String,
    hint: Option<String>,
}

impl Invalid {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(super) fn at(self, place: &Place, name: &str) -> ConfigProblem {
        let problem = ConfigProblem::new(place, format!("{name}: {}", self.reason));
        match self.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

/// `Y` or `N`. fwknop takes every value that does not begin with `Y` for no; what is neither is an error here.
pub(super) fn yes(value: &str) -> Result<bool, Invalid> {
    match value.trim().chars().next() {
        Some('y' | 'Y') => Ok(true),
        Some('n' | 'N') => Ok(false),
        _ => Err(Invalid::new("expected Y or N")),
    }
}

pub(super) fn number(value: &str, min: u32, max: u32) -> Result<u32, Invalid> {
    let number = value.trim().parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| Invalid::new(format!("expected a number from {min} to {max}")))
}

/// A passphrase as written.
pub(super) fn key(value: &str) -> Result<Zeroizing<Vec<u8>>, Invalid> {
    if value.trim_end() == PLACEHOLDER {
        return Err(
            Invalid::new(format!("is still {PLACEHOLDER}")).hint("put the key there that the client has")
        );
    }
    Ok(Zeroizing::new(value.as_bytes().to_vec()))
}

/// A key in base64.
pub(super) fn key_base64(value: &str) -> Result<Zeroizing<Vec<u8>>, Invalid> {
    key(value)?;
    let bytes = STANDARD.decode(value.trim_end()).map_err(|_| Invalid::new("is not base64"))?;
    Ok(Zeroizing::new(bytes))
}

/// A port of its own.
pub(super) fn port_number(value: &str) -> Result<u16, Invalid> {
    let port = value.trim().parse().ok().filter(|&port| port != 0);
    port.ok_or_else(|| Invalid::new("expected a port from 1 to 65535"))
}

/// A comma-separated list of ports.
pub(super) fn ports(value: &str) -> Result<Vec<Port>, Invalid> {
    value.split(',').map(|entry| port(entry.trim())).collect()
}

fn port(entry: &str) -> Result<Port, Invalid> {
    let parse = || {
        let (transport, number) = entry.split_once('/')?;
        let transport = match () {
            () if transport.eq_ignore_ascii_case("tcp") => Transport::Tcp,
            () if transport.eq_ignore_ascii_case("udp") => Transport::Udp,
            () => return None,
        };
        let number = number.parse().ok().filter(|&number| number != 0)?;
        Some(Port { transport, number })
    };
    parse().ok_or_else(|| {
        Invalid::new(format!("{entry}: not a port")).hint("write a list like tcp/22,udp/53, with commas")
    })
}

/// A file name or a command; space around it does not belong to it.
pub(super) fn text(value: &str) -> Result<String, Invalid> {
    Ok(value.trim().to_owned())
}

pub(super) fn network_problem(entry: &str) -> Invalid {
    Invalid::new(format!("{entry:?} is no IPv4 address, network or ANY"))
        .hint("write a list like 192.0.2.0/24,198.51.100.7, or ANY")
}

/// fwknop ignores what follows a number, as in `60 # a comment` or `30s`; only a comment and this unit may follow one
/// here.
pub(super) fn leading_number(value: &str) -> &str {
    let number = value.split('#').next().unwrap_or_default().trim();
    number.strip_suffix('s').filter(|number| number.ends_with(|c: char| c.is_ascii_digit())).unwrap_or(number)
}

pub(super) fn address(text: &str) -> Result<Ipv4Addr, Invalid> {
    text.parse().map_err(|_| Invalid::new("expected an IPv4 address"))
}

pub(super) fn nat_target(value: &str) -> Result<(Ipv4Addr, u16), Invalid> {
    let expected = || Invalid::new("expected an IPv4 address and a port, like 192.168.1.10 22");
    let mut words = value.split_ascii_whitespace();
    let (Some(host), Some(port), None) = (words.next(), words.next(), words.next()) else {
        return Err(expected());
    };
    let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(expected)?;
    let is_name = host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':');
    if is_name {
        return Err(Invalid::new(format!("{host}: host names are not supported"))
            .hint(format!("write its IPv4 address, like 192.168.1.10 {port}")));
    }
    Ok((host.parse().map_err(|_| expected())?, port))
}

pub(super) fn date(text: &str) -> Result<Expiry, Invalid> {
    let parse = || {
        let mut parts = text.split('/');
        let (month, day, year) = (parts.next()?, parts.next()?, parts.next()?);
        let (month, day, year) = (month.parse().ok()?, day.parse().ok()?, year.parse().ok()?);
        let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && (1970..=9999).contains(&year);
        (valid && parts.next().is_none()).then_some(Expiry::Date(year, month, day))
    };
    parse().ok_or_else(|| Invalid::new("expected MM/DD/YYYY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_separated_by_commas() {
        assert_eq!(ports("tcp/22, UDP/53").map(|ports| ports.len()), Ok(2));
        for invalid in ["", "tcp/22 udp/53", "tcp/0", "tcp/65536", "icmp/1", "any/1", "22"] {
            assert!(ports(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_placeholder_is_no_key() {
        assert!(key("__CHANGEME__ ").is_err());
        assert!(key_base64("__CHANGEME__").is_err());
        assert_eq!(**key("a b ").as_ref().unwrap(), b"a b "[..]);
        assert_eq!(**key_base64("YmFy ").as_ref().unwrap(), b"bar"[..]);
        assert!(key_base64("!!!").is_err());
    }
}
