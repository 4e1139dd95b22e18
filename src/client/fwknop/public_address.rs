//! The address that gets access: given, that of the packet, or the public address, which a web site reports.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use spa_knock_fwknop::{AllowedAddress, ClientOptions};

use super::transport::user_agent;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::keys::sources::VARIABLE;
use crate::client::knock::route::{FamilyFilter, resolve};
use crate::client::report::Reporter;
use crate::os::files::io_error_text;
use crate::os::process::program_output::{OutputError, output_of};

/// The site that fwknop's client asks, without the scheme.
const DEFAULT_SITE: &str = "www.cipherdyne.org/cgi-bin/myip";
/// How long to wait for the site.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is read of its reply, in bytes.
const REPLY_MAX: u64 = 16 << 10;
const NO_ADDRESS: &str =
    "request access for a known address with -a ADDRESS, or name another web site with --resolve-url";

/// Refuses options that do not determine the address.
pub(super) fn check(options: &ClientOptions) -> Result<(), ClientError> {
    match options.allow {
        Some(_) => Ok(()),
        None => Err(ClientError::new(ExitCause::Usage, "no address is given that gets access")
            .hint("add -a ADDRESS, -R to find your public address, or -s; or ALLOW_IP to the stanza")),
    }
}

/// The address in the packet: `0.0.0.0` is the one that the packet comes from.
pub(super) fn allowed(options: &ClientOptions, report: &Reporter) -> Result<Ipv4Addr, ClientError> {
    match options.allow {
        Some(AllowedAddress::Address(address)) => Ok(address),
        Some(AllowedAddress::Source) | None => Ok(Ipv4Addr::UNSPECIFIED),
        Some(AllowedAddress::Resolve) => public(options, report),
    }
}

fn public(options: &ClientOptions, report: &Reporter) -> Result<Ipv4Addr, ClientError> {
    let is_plain = options.resolve_http_only == Some(true);
    let scheme = if is_plain { "http" } else { "https" };
    let url = options.resolve_url.clone().unwrap_or_else(|| format!("{scheme}://{DEFAULT_SITE}"));
    // Anything else could be an option of wget.
    let is_url = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    if !is_url || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(ClientError::new(ExitCause::Usage, "--resolve-url: not a URL")
            .hint("write one that begins with https:// or http://"));
    }
    report.note(&format!("asking {url} for your public address"));
    let reply = match is_plain {
        true => over_http(&url, user_agent(options))?,
        false => with_wget(&url, options)?,
    };
    let address = address_in(&reply).ok_or_else(|| {
        ClientError::new(ExitCause::Network, format!("{url}: the reply does not begin with an IPv4 address"))
            .hint(NO_ADDRESS)
    })?;
    report.detail(|| format!("your public address is {address}"));
    Ok(address)
}

/// The address that a text begins with.
fn address_in(reply: &str) -> Option<Ipv4Addr> {
    let reply = reply.trim_start();
    let end = reply.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(reply.len());
    reply.get(..end)?.parse().ok()
}

fn with_wget(url: &str, options: &ClientOptions) -> Result<String, ClientError> {
    let wget = options.wget.as_deref().unwrap_or("wget");
    // Options that busybox has, too.
    let seconds = PATIENCE.as_secs().to_string();
    let mut arguments = vec!["-q", "-O", "-", "-T", &seconds];
    if options.wget_user_agent != Some(true) {
        arguments.extend(["-U", user_agent(options)]);
    }
    arguments.push(url);
    output_of(wget, &arguments, VARIABLE).map_err(|error| match error {
        OutputError::NotFound => ClientError::new(ExitCause::Network, format!("{wget}: not found"))
            .hint("install wget, or request access for a known address with -a ADDRESS"),
        OutputError::Failed(reason) => {
            ClientError::new(ExitCause::Network, format!("{url}: {wget} failed: {reason}")).hint(NO_ADDRESS)
        }
    })
}

/// A request of HTTP/1.0, to which the reply ends with the connection.
fn over_http(url: &str, user_agent: &str) -> Result<String, ClientError> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(ClientError::new(ExitCause::Usage, "--resolve-http-only: the URL begins with https://")
            .hint("omit --resolve-http-only, or write a URL that begins with http://"));
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, port.parse().ok().filter(|&port: &u16| port != 0)),
        None => (authority, Some(80)),
    };
    let (Some(port), false) = (port, host.is_empty()) else {
        return Err(ClientError::new(ExitCause::Usage, "--resolve-url: not a URL")
            .hint("write it as http://HOST[:PORT]/PATH"));
    };
    // The reply is the address that the request comes from, and packets contain IPv4 addresses.
    let addresses = resolve(host, port, FamilyFilter::V4, None)?;
    let failed = |error: std::io::Error| {
        ClientError::new(ExitCause::Network, format!("{url}: {}", io_error_text(&error))).hint(NO_ADDRESS)
    };
    let first = addresses.first().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    let mut stream = TcpStream::connect_timeout(first, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let request = format!(
        "GET /{path} HTTP/1.0\r\nHost: {authority}\r\nUser-Agent: {user_agent}\r\nAccept: */*\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut reply = Vec::new();
    stream.take(REPLY_MAX).read_to_end(&mut reply).map_err(failed)?;
    let reply = String::from_utf8_lossy(&reply);
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.lines().next().unwrap_or_default().to_owned();
    if status.split(' ').nth(1) != Some("200") {
        // An unknown server has sent it.
        let status: String = status.chars().filter(|c| !c.is_control()).take(60).collect();
        return Err(
            ClientError::new(ExitCause::Network, format!("{url}: replied '{status}'")).hint(NO_ADDRESS)
        );
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_begins_with_an_address() {
        let address = Some(Ipv4Addr::new(192, 0, 2, 7));
        for (reply, expected) in [
            ("192.0.2.7", address),
            ("192.0.2.7\n", address),
            ("  192.0.2.7 your address\n", address),
            ("192.0.2.7,10.0.0.1", address),
            ("Your address: 192.0.2.7", None),
            ("192.0.2.777", None),
            ("2001:db8::1", None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(address_in(reply), expected, "{reply}");
        }
    }

    #[test]
    fn a_text_that_is_not_a_url_is_not_passed_to_wget() {
        for (url, is_plain) in [
            ("-i/etc/passwd", false),
            ("file:///etc/passwd", false),
            ("http://h/ -O/tmp/x", false),
            ("https://192.0.2.1/ip", true),
            ("http://:80/", true),
            ("http://h:0/", true),
        ] {
            let options = ClientOptions {
                allow: Some(AllowedAddress::Resolve),
                resolve_url: Some(url.to_owned()),
                resolve_http_only: Some(is_plain),
                wget: Some("/no/such/wget".to_owned()),
                ..ClientOptions::default()
            };
            let failure = allowed(&options, &Reporter::SILENT).unwrap_err();
            assert_eq!(failure.cause(), ExitCause::Usage, "{url}: {}", failure.reason());
        }
    }
}
