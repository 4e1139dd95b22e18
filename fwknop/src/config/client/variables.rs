//! The variables of a stanza.

use super::options::{ClientOptions, KeyBytes};
use super::values::{AllowedAddress, InvalidValue, NatPort};
use crate::config::values as server_values;

/// What is printed about a variable that has no effect.
pub(super) type Notice = &'static str;

/// The variables of a stanza so far. Two variables can set the same option: then one of them has precedence, whatever
/// their order is.
#[derive(Default)]
pub(super) struct ClientDraft {
    options: ClientOptions,
    has_passphrase: bool,
    has_hmac_passphrase: bool,
    resolves: bool,
}

impl ClientDraft {
    /// Sets a variable.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<Option<Notice>, InvalidValue> {
        let options = &mut self.options;
        match name {
            "SPA_SERVER" => options.server = Some(value.to_owned()),
            "SPA_SERVER_PORT" => options.server_port = Some(port(value)?),
            "SPA_SERVER_PROTO" => options.transport = Some(value.parse()?),
            "RAND_PORT" => options.random_port = Some(yes(value)?),
            "SERVER_RESOLVE_IPV4" => options.ipv4_only = Some(yes(value)?),
            "ACCESS" => options.access = Some(value.parse()?),
            "ALLOW_IP" => options.allow = Some(value.parse()?),
            "RESOLVE_IP_HTTPS" | "RESOLVE_IP_HTTP" => self.resolves |= yes(value)?,
            "RESOLVE_URL" => options.resolve_url = Some(value.to_owned()),
            "RESOLVE_HTTP_ONLY" => options.resolve_http_only = Some(yes(value)?),
            "WGET_CMD" => options.wget = Some(value.to_owned()),
            "HTTP_USER_AGENT" => options.user_agent = Some(value.to_owned()),
            "USE_WGET_USER_AGENT" => options.wget_user_agent = Some(yes(value)?),
            "FW_TIMEOUT" => options.timeout = Some(value.parse()?),
            "SPOOF_USER" => options.user = Some(value.to_owned()),
            "TIME_OFFSET" => options.time_offset = Some(value.parse()?),
            "NAT_ACCESS" => options.nat = Some(value.parse()?),
            "NAT_LOCAL" => options.nat_local = Some(yes(value)?),
            "NAT_PORT" => options.nat_port = Some(NatPort::Number(port(value)?)),
            "NAT_RAND_PORT" if yes(value)? => options.nat_port = Some(NatPort::Random),
            "NAT_RAND_PORT" => {}
            "DIGEST_TYPE" => options.digest = Some(digest(value)?),
            "HMAC_DIGEST_TYPE" => options.hmac_digest = Some(digest(value)?),
            "USE_HMAC" => options.use_hmac = Some(yes(value)?),
            "KEY" => {
                check_placeholder(value)?;
                self.has_passphrase = true;
                options.key = Some(KeyBytes::from_passphrase(value));
            }
            "KEY_BASE64" => {
                check_placeholder(value)?;
                let key = KeyBytes::from_base64(value)?;
                if !self.has_passphrase {
                    options.key = Some(key);
                }
            }
            "HMAC_KEY" => {
                check_placeholder(value)?;
                self.has_hmac_passphrase = true;
                options.hmac_key = Some(KeyBytes::from_passphrase(value));
            }
            "HMAC_KEY_BASE64" => {
                check_placeholder(value)?;
                let key = KeyBytes::from_base64(value)?;
                if !self.has_hmac_passphrase {
                    options.hmac_key = Some(key);
                }
            }
            "KEY_FILE" => options.key_file = Some(value.to_owned()),
            "HMAC_KEY_FILE" => options.hmac_key_file = Some(value.to_owned()),
            "VERBOSE" => options.verbose = Some(is_on(value)?),
            "ENCRYPTION_MODE" if value.eq_ignore_ascii_case("CBC") => {}
            "ENCRYPTION_MODE" => {
                return refused(
                    "only CBC is supported; remove the line here, and in the stanza of the server's access.conf",
                );
            }
            // Nothing is saved in any case.
            "NO_SAVE_ARGS" => {}
            "USE_GPG" if yes(value)? => {
                return refused("GnuPG is not supported; use KEY_BASE64 and HMAC_KEY_BASE64");
            }
            "USE_GPG" => {}
            "SPOOF_SOURCE_IP" => return refused("packets with another source address are not supported"),
            "SPA_SOURCE_PORT" => return Ok(Some("ignored: fwknop uses it for raw packets only")),
            "CLIENT_TIMEOUT" => return Ok(Some("ignored, also by fwknop; write FW_TIMEOUT")),
            _ if name.starts_with("GPG_") || name == "USE_GPG_AGENT" => {
                return Ok(Some("ignored: GnuPG is not supported"));
            }
            _ => return Ok(Some("ignored: fwknop's client has no such variable")),
        }
        Ok(None)
    }

    pub(super) fn finish(self) -> ClientOptions {
        let mut options = self.options;
        if self.resolves {
            options.allow = Some(AllowedAddress::Resolve);
        }
        options
    }
}

fn refused<T>(reason: &str) -> Result<T, InvalidValue> {
    Err(InvalidValue(reason.to_owned()))
}

fn yes(value: &str) -> Result<bool, InvalidValue> {
    server_values::yes(value).or_else(|_| refused("expected Y or N"))
}

/// `Y`, `N`, or a level of 0 or more.
fn is_on(value: &str) -> Result<bool, InvalidValue> {
    match value.parse::<u32>() {
        Ok(level) => Ok(level > 0),
        Err(_) => yes(value),
    }
}

fn port(value: &str) -> Result<u16, InvalidValue> {
    let port = value.parse().ok().filter(|&port| port != 0);
    port.ok_or_else(|| InvalidValue("expected a port from 1 to 65535".to_owned()))
}

fn digest(value: &str) -> Result<crate::packet::Digest, InvalidValue> {
    value.parse().map_err(|error: crate::packet::UnknownDigest| InvalidValue(error.to_string()))
}

/// fwknop's sample of the server's file has it in place of keys.
fn check_placeholder(value: &str) -> Result<(), InvalidValue> {
    if value == "__CHANGEME__" { refused("is still __CHANGEME__") } else { Ok(()) }
}
