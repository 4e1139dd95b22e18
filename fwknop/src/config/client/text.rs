//! Writes options as a stanza, in the form that fwknop's client reads, too.

use zeroize::Zeroizing;

use super::options::{ClientOptions, KeyBytes};
use super::values::{AllowedAddress, NatPort, PacketTransport, PortList};

/// Enough for all variables: a growing string would leave copies of keys in memory.
const CAPACITY: usize = 4096;

impl ClientOptions {
    /// The text of a stanza with the options that are set. Keys are written in base64.
    #[must_use]
    pub fn to_stanza(&self, name: &str) -> Zeroizing<String> {
        let allow = self.allow.filter(|allow| *allow != AllowedAddress::Resolve).map(|allow| match allow {
            AllowedAddress::Address(address) => address.to_string(),
            AllowedAddress::Source | AllowedAddress::Resolve => "source".to_owned(),
        });
        let resolves = (self.allow == Some(AllowedAddress::Resolve)).then_some(true);
        let (nat_port, nat_rand_port) = match self.nat_port {
            Some(NatPort::Number(port)) => (Some(port.to_string()), None),
            Some(NatPort::Random) => (None, Some(true)),
            None => (None, None),
        };
        let key = |key: &Option<KeyBytes>| key.as_ref().map(KeyBytes::to_base64);
        let (encryption_key, hmac_key) = (key(&self.key), key(&self.hmac_key));
        let plain = [
            ("SPA_SERVER", self.server.clone()),
            ("SPA_SERVER_PORT", self.server_port.map(|port| port.to_string())),
            ("SPA_SERVER_PROTO", self.transport.map(PacketTransport::name).map(str::to_owned)),
            ("RAND_PORT", yes(self.random_port)),
            ("SERVER_RESOLVE_IPV4", yes(self.ipv4_only)),
            ("ACCESS", self.access.as_ref().map(list)),
            ("ALLOW_IP", allow),
            ("RESOLVE_IP_HTTPS", yes(resolves)),
            ("RESOLVE_URL", self.resolve_url.clone()),
            ("RESOLVE_HTTP_ONLY", yes(self.resolve_http_only)),
            ("WGET_CMD", self.wget.clone()),
            ("HTTP_USER_AGENT", self.user_agent.clone()),
            ("USE_WGET_USER_AGENT", yes(self.wget_user_agent)),
            ("FW_TIMEOUT", self.timeout.map(|timeout| timeout.0.to_string())),
            ("SPOOF_USER", self.user.clone()),
            ("TIME_OFFSET", self.time_offset.map(|offset| offset.0.to_string())),
            ("NAT_ACCESS", self.nat.as_ref().map(ToString::to_string)),
            ("NAT_LOCAL", yes(self.nat_local)),
            ("NAT_PORT", nat_port),
            ("NAT_RAND_PORT", yes(nat_rand_port)),
            ("DIGEST_TYPE", self.digest.map(|digest| digest.to_string())),
            ("HMAC_DIGEST_TYPE", self.hmac_digest.map(|digest| digest.to_string())),
            ("USE_HMAC", yes(self.use_hmac.or_else(|| hmac_key.as_ref().map(|_| true)))),
            ("KEY_FILE", self.key_file.clone()),
            ("HMAC_KEY_FILE", self.hmac_key_file.clone()),
        ];
        let mut text = Zeroizing::new(String::with_capacity(CAPACITY));
        text.push_str(&format!("[{name}]\n"));
        let mut line = |variable: &str, value: &str| {
            text.push_str(&format!("{variable:<20} "));
            text.push_str(value);
            text.push('\n');
        };
        for (variable, value) in &plain {
            value.iter().for_each(|value| line(variable, value));
        }
        for (variable, value) in [("KEY_BASE64", encryption_key), ("HMAC_KEY_BASE64", hmac_key)] {
            value.iter().for_each(|value| line(variable, value));
        }
        text
    }
}

fn yes(value: Option<bool>) -> Option<String> {
    value.map(|value| if value { "Y" } else { "N" }.to_owned())
}

fn list(ports: &PortList) -> String {
    ports.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::client::parse_client;

    #[test]
    fn a_stanza_that_is_written_is_read_again() {
        for text in [
            "[a]\nSPA_SERVER           h\nSPA_SERVER_PORT      4000\nSPA_SERVER_PROTO     tcp\nACCESS               tcp/22,udp/53\n\
             ALLOW_IP             192.0.2.1\nFW_TIMEOUT           30\nTIME_OFFSET          -60\nNAT_ACCESS           10.0.0.1,22\n\
             NAT_PORT             4444\nDIGEST_TYPE          MD5\nUSE_HMAC             Y\nKEY_BASE64           dGVzdA==\n\
             HMAC_KEY_BASE64      dGVzdDI=\n",
            "[b]\nRAND_PORT            Y\nALLOW_IP             source\nNAT_RAND_PORT        Y\nKEY_FILE             f\n",
            "[c d]\nRESOLVE_IP_HTTPS     Y\nRESOLVE_URL          http://h/ip\n",
        ] {
            let file = parse_client(Path::new("rc"), text);
            let stanza = file.stanzas.first().unwrap();
            assert_eq!((stanza.problems.len(), stanza.notices.len()), (0, 0), "{text}");
            assert_eq!(*stanza.options.to_stanza(&stanza.name), text);
        }
    }
}
