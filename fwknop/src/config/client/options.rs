//! The options of fwknop's client. Each can be unset: the command line has precedence over a named stanza, and that one
//! over the stanza `default`.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::values::{
    AllowedAddress, ClientTimeout, InvalidValue, NatHost, NatPort, PacketTransport, PortList, TimeOffset,
};
use crate::packet::Digest;

/// fwknop's client reads base64 with and without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a key. They are wiped on drop and have no `Debug`.
#[derive(Clone)]
pub struct KeyBytes(Zeroizing<Vec<u8>>);

impl KeyBytes {
    /// A passphrase.
    #[must_use]
    pub fn from_passphrase(text: &str) -> Self {
        Self::from_bytes(text.as_bytes())
    }

    /// A key in base64.
    ///
    /// # Errors
    /// When it is not base64.
    pub fn from_base64(text: &str) -> Result<Self, InvalidValue> {
        LENIENT
            .decode(text)
            .map(|bytes| Self(Zeroizing::new(bytes)))
            .map_err(|_| InvalidValue("is not base64".to_owned()))
    }

    /// Bytes, which the caller wipes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key in base64, with padding.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(LENIENT.encode(self.bytes()))
    }
}

/// The options of a packet, and of what happens before it is sent. Has no `Debug`, because it can contain keys.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// Where the packet is sent: an address or a host name.
    pub server: Option<String>,
    /// The port that it is sent to.
    pub server_port: Option<u16>,
    /// How it is sent.
    pub transport: Option<PacketTransport>,
    /// Whether it is sent to a random port.
    pub random_port: Option<bool>,
    /// Whether only IPv4 addresses of the server are used.
    pub ipv4_only: Option<bool>,
    /// The requested ports.
    pub access: Option<PortList>,
    /// The address that gets access.
    pub allow: Option<AllowedAddress>,
    /// For how long.
    pub timeout: Option<ClientTimeout>,
    /// The web site that reports the public address.
    pub resolve_url: Option<String>,
    /// Whether it is asked over HTTP, without wget.
    pub resolve_http_only: Option<bool>,
    /// The wget program.
    pub wget: Option<String>,
    /// The `User-Agent` of HTTP requests.
    pub user_agent: Option<String>,
    /// Whether wget has its own `User-Agent`.
    pub wget_user_agent: Option<bool>,
    /// The user name in the packet.
    pub user: Option<String>,
    /// What is added to the time in the packet.
    pub time_offset: Option<TimeOffset>,
    /// The host that connections are forwarded to.
    pub nat: Option<NatHost>,
    /// Whether they are forwarded to a port of the server itself.
    pub nat_local: Option<bool>,
    /// The port that replaces the requested one.
    pub nat_port: Option<NatPort>,
    /// The digest in the packet.
    pub digest: Option<Digest>,
    /// What the packet is encrypted with.
    pub key: Option<KeyBytes>,
    /// A file with this key.
    pub key_file: Option<String>,
    /// Whether an HMAC key is asked for if there is none.
    pub use_hmac: Option<bool>,
    /// What the packet is authenticated with.
    pub hmac_key: Option<KeyBytes>,
    /// A file with this key.
    pub hmac_key_file: Option<String>,
    /// The digest of the HMAC.
    pub hmac_digest: Option<Digest>,
    /// Whether details are printed.
    pub verbose: Option<bool>,
}

impl ClientOptions {
    /// These options, and those of `lower` where these are unset.
    #[must_use]
    pub fn or(self, lower: &Self) -> Self {
        let lower = lower.clone();
        // A key on a higher level also replaces a file with a key on a lower one, and the other way around.
        let has_key = self.key.is_some() || self.key_file.is_some();
        let has_hmac_key = self.hmac_key.is_some() || self.hmac_key_file.is_some();
        Self {
            server: self.server.or(lower.server),
            server_port: self.server_port.or(lower.server_port),
            transport: self.transport.or(lower.transport),
            random_port: self.random_port.or(lower.random_port),
            ipv4_only: self.ipv4_only.or(lower.ipv4_only),
            access: self.access.or(lower.access),
            allow: self.allow.or(lower.allow),
            timeout: self.timeout.or(lower.timeout),
            resolve_url: self.resolve_url.or(lower.resolve_url),
            resolve_http_only: self.resolve_http_only.or(lower.resolve_http_only),
            wget: self.wget.or(lower.wget),
            user_agent: self.user_agent.or(lower.user_agent),
            wget_user_agent: self.wget_user_agent.or(lower.wget_user_agent),
            user: self.user.or(lower.user),
            time_offset: self.time_offset.or(lower.time_offset),
            nat: self.nat.or(lower.nat),
            nat_local: self.nat_local.or(lower.nat_local),
            nat_port: self.nat_port.or(lower.nat_port),
            digest: self.digest.or(lower.digest),
            key: if has_key { self.key } else { lower.key },
            key_file: if has_key { self.key_file } else { lower.key_file },
            use_hmac: self.use_hmac.or(lower.use_hmac),
            hmac_key: if has_hmac_key { self.hmac_key } else { lower.hmac_key },
            hmac_key_file: if has_hmac_key { self.hmac_key_file } else { lower.hmac_key_file },
            hmac_digest: self.hmac_digest.or(lower.hmac_digest),
            verbose: self.verbose.or(lower.verbose),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_with_and_without_padding() {
        for text in ["dGVzdDI=", "dGVzdDI"] {
            assert_eq!(KeyBytes::from_base64(text).ok().unwrap().bytes(), b"test2", "{text}");
        }
        assert!(KeyBytes::from_base64("!").is_err());
    }

    #[test]
    fn a_key_replaces_a_key_file_of_a_lower_level() {
        let higher = ClientOptions { key: Some(KeyBytes::from_passphrase("a")), ..ClientOptions::default() };
        let lower = ClientOptions {
            key_file: Some("f".to_owned()),
            hmac_key_file: Some("g".to_owned()),
            ..ClientOptions::default()
        };
        let both = higher.or(&lower);
        assert_eq!(
            (both.key.is_some(), both.key_file, both.hmac_key_file.as_deref()),
            (true, None, Some("g"))
        );
    }
}
