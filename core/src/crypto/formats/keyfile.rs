//! Conversion between the text of a key file and its content. Errors never repeat the text, because any of it may be
//! the secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::example::EXAMPLE;
use crate::crypto::ssh::SshFingerprint;
use crate::crypto::{Fingerprint, KeySet, PairSecret, RootSecret, Secret};
use crate::knock::{ClientName, ProtocolVersion, ServerId};

/// The content of a key file.
pub struct KeyFile {
    /// The client that the key was made for.
    pub client: Option<ClientName>,
    /// The secret, and which servers it is for.
    pub holder: KeyOwner,
    /// The address to knock at, if it is not the server named on the command line.
    pub address: Option<String>,
    /// The knock port, if it is not the default.
    pub port: Option<u16>,
    /// The SSH key that signs the knocks. A key file that names one makes knocks of version 2 only.
    pub ssh_key: Option<SshFingerprint>,
}

/// The secret of a key file, and which servers it is for.
pub enum KeyOwner {
    /// One server.
    Pair {
        /// The server.
        server: ServerId,
        /// The secret shared by client and server.
        secret: PairSecret,
    },
    /// Every server: their pair secrets are derived from it.
    Root(RootSecret),
}

/// Why a text is not a valid key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// A line without a colon.
    #[error("line {0}: expected 'name: value'")]
    NoColon(usize),
    /// A name that is unknown in key files.
    #[error(
        "line {0}: unknown name (known: spa-knock-key, kind, client, server, address, port, ssh-key, secret)"
    )]
    UnknownName(usize),
    /// A repeated name.
    #[error("line {0}: duplicate name")]
    Twice(usize),
    /// An invalid value.
    #[error("line {0}: {1}")]
    BadValue(usize, &'static str),
    /// A required name is missing.
    #[error("the line '{0}: …' is missing")]
    Missing(&'static str),
    /// A `server` line in a root key.
    #[error("line {0}: a root key has no server (only kind: pair has one)")]
    ServerInRoot(usize),
    /// The secret of `keys.example`.
    #[error("this is the example key, which is public")]
    Example,
}

/// A value and its line number.
type Field<'a> = Option<(usize, &'a str)>;

impl KeyFile {
    /// Parses the text of a key file.
    ///
    /// # Errors
    /// The error names the line, but never contains its text.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        use KeyFileError::{BadValue, Missing, ServerInRoot};

        let fields = KeyFields::read(text)?;
        let (line, version) = fields.version.ok_or(Missing("spa-knock-key"))?;
        if version.contains(|c: char| c == ':' || c.is_whitespace()) {
            return Err(BadValue(line, "spa-knock-key: more than a number: are the line breaks missing?"));
        }
        let ssh_key = match (version, fields.ssh_key) {
            ("1", None) => None,
            ("1", Some((line, _))) => {
                return Err(BadValue(line, "a key file with an ssh-key starts with 'spa-knock-key: 2'"));
            }
            ("2", Some((line, text))) => Some(
                text.parse()
                    .map_err(|_| BadValue(line, "ssh-key: expected SHA256: and 43 base64 characters"))?,
            ),
            ("2", None) => return Err(Missing("ssh-key")),
            _ => return Err(BadValue(line, "version: later than this program supports (2)")),
        };
        let (line, secret) = fields.secret.ok_or(Missing("secret"))?;
        let secret = parse_secret(secret).ok_or(BadValue(line, "the secret must be 44 base64 characters"))?;
        if secret.expose() == EXAMPLE {
            return Err(KeyFileError::Example);
        }
        let server = fields
            .server
            .map(|(line, id)| id.parse().map(|id| (line, id)).map_err(|_| BadValue(line, "not a server id")))
            .transpose()?;
        let (line, kind) = fields.kind.ok_or(Missing("kind"))?;
        let holder = match (kind, server) {
            ("pair", Some((_, server))) => KeyOwner::Pair { server, secret: PairSecret::new(secret) },
            ("pair", None) => return Err(Missing("server")),
            ("root", None) => KeyOwner::Root(RootSecret::new(secret)),
            ("root", Some((line, _))) => return Err(ServerInRoot(line)),
            _ => return Err(BadValue(line, "kind must be pair or root")),
        };
        let client = fields
            .client
            .map(|(line, name)| name.parse().map_err(|_| BadValue(line, "not a client name")))
            .transpose()?;
        let address = fields
            .address
            .map(|(line, address)| {
                is_host(address)
                    .then(|| address.to_owned())
                    .ok_or(BadValue(line, "not a host name or address"))
            })
            .transpose()?;
        let port = fields
            .port
            .map(|(line, port)| {
                port.parse()
                    .ok()
                    .filter(|&p| p != 0)
                    .ok_or(BadValue(line, "not a port number from 1 to 65535"))
            })
            .transpose()?;
        Ok(Self { client, holder, address, port, ssh_key })
    }

    /// The version of the knocks that this key makes: 2 if it names an SSH key.
    #[must_use]
    pub const fn version(&self) -> ProtocolVersion {
        if self.ssh_key.is_some() { ProtocolVersion::V2 } else { ProtocolVersion::V1 }
    }

    /// Derives the keys of this version for one server.
    #[must_use]
    pub fn keys(&self, version: ProtocolVersion, server: &ServerId) -> KeySet {
        let secret = self.pair(server);
        match version {
            ProtocolVersion::V1 => secret.keys(server),
            ProtocolVersion::V2 => secret.signed_keys(server),
        }
    }

    /// The fingerprint in this version for one server.
    #[must_use]
    pub fn fingerprint(&self, version: ProtocolVersion, server: &ServerId) -> Fingerprint {
        self.pair(server).fingerprint(version, server)
    }

    fn pair(&self, server: &ServerId) -> PairSecret {
        match &self.holder {
            KeyOwner::Pair { secret, .. } => secret.clone(),
            KeyOwner::Root(root) => root.pair(server),
        }
    }

    /// The text of the file, including the secret.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // Reserves enough room: a growing string would leave copies of the secret in memory.
        let mut text = Zeroizing::new(String::with_capacity(1024));
        let (kind, server, secret) = match &self.holder {
            KeyOwner::Pair { server, secret } => ("pair", Some(server), secret.secret()),
            KeyOwner::Root(secret) => ("root", None, secret.secret()),
        };
        let mut line = |name: &str, value: &str| {
            for part in [name, ": ", value, "\n"] {
                text.push_str(part);
            }
        };
        line("spa-knock-key", if self.ssh_key.is_some() { "2" } else { "1" });
        line("kind", kind);
        if let Some(client) = &self.client {
            line("client", client.as_str());
        }
        if let Some(server) = server {
            line("server", server.as_str());
        }
        if let Some(address) = &self.address {
            line("address", address);
        }
        if let Some(port) = self.port {
            line("port", &port.to_string());
        }
        if let Some(ssh_key) = self.ssh_key {
            line("ssh-key", &ssh_key.to_string());
        }
        line("secret", &Zeroizing::new(STANDARD.encode(secret.expose())));
        text
    }
}

#[derive(Default)]
struct KeyFields<'a> {
    version: Field<'a>,
    kind: Field<'a>,
    client: Field<'a>,
    server: Field<'a>,
    address: Field<'a>,
    port: Field<'a>,
    ssh_key: Field<'a>,
    secret: Field<'a>,
}

impl<'a> KeyFields<'a> {
    fn read(text: &'a str) -> Result<Self, KeyFileError> {
        let mut fields = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(KeyFileError::NoColon(number))?;
            let field = match name.trim_end() {
                "spa-knock-key" => &mut fields.version,
                "kind" => &mut fields.kind,
                "client" => &mut fields.client,
                "server" => &mut fields.server,
                "address" => &mut fields.address,
                "port" => &mut fields.port,
                "ssh-key" => &mut fields.ssh_key,
                "secret" => &mut fields.secret,
                _ => return Err(KeyFileError::UnknownName(number)),
            };
            if field.replace((number, value.trim())).is_some() {
                return Err(KeyFileError::Twice(number));
            }
        }
        Ok(fields)
    }
}

fn parse_secret(text: &str) -> Option<Secret> {
    // base64 may write one byte past the 32 before it checks the padding.
    let mut bytes = Zeroizing::new([0; 33]);
    let length = STANDARD.decode_slice(text, bytes.as_mut_slice()).ok()?;
    let whole: &[u8; Secret::LEN] = bytes.get(..length)?.try_into().ok()?;
    Some(Secret::from_bytes(whole))
}

/// Whether the text can be a host name or an address, as in the `address` line of a key file.
#[must_use]
pub fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    const SSH_KEY: &str = "SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn pair_text(extra: &str) -> String {
        format!("# a comment\nspa-knock-key: 1\nkind: pair\nserver: a\n{extra}\nsecret: {SECRET}\n")
    }

    #[test]
    fn a_key_file_survives_writing_and_reading() {
        let text = pair_text("client: laptop\naddress: bastion.example.org\nport: 4000");
        let key = KeyFile::parse(&text).ok().unwrap();
        assert_eq!(key.port, Some(4000));
        let again = KeyFile::parse(&key.to_text()).ok().unwrap();
        assert_eq!(*again.to_text(), *key.to_text());
        assert!(key.to_text().contains(SECRET));
    }

    #[test]
    fn a_key_file_of_version_2_names_an_ssh_key_and_makes_knocks_of_version_2() {
        for text in [
            format!("spa-knock-key: 2\nkind: pair\nserver: a\nssh-key: {SSH_KEY}\nsecret: {SECRET}\n"),
            format!("spa-knock-key: 2\nkind: root\nssh-key: {SSH_KEY}\nsecret: {SECRET}\n"),
        ] {
            let key = KeyFile::parse(&text).ok().unwrap();
            assert_eq!(key.ssh_key.unwrap().to_string(), SSH_KEY);
            assert_eq!((key.version(), &*key.to_text()), (ProtocolVersion::V2, &text));
            let server = "a".parse().unwrap();
            let [one, two] =
                [ProtocolVersion::V1, ProtocolVersion::V2].map(|version| key.fingerprint(version, &server));
            assert_ne!(one, two, "the versions have different fingerprints");
            assert_eq!(key.keys(key.version(), &server).fingerprint, two);
            assert_eq!(key.keys(ProtocolVersion::V1, &server).fingerprint, one);
        }
        assert_eq!(KeyFile::parse(&pair_text("")).ok().unwrap().version(), ProtocolVersion::V1);
    }

    #[test]
    fn a_malformed_key_file_is_refused_by_line_number_without_its_text() {
        let cases = [
            ("", "the line 'spa-knock-key: …' is missing"),
            ("spa-knock-key: 3\n", "line 1: version: later than this program supports (2)"),
            ("spa-knock-key: 2\n", "the line 'ssh-key: …' is missing"),
            (
                &pair_text(&format!("ssh-key: {SSH_KEY}")),
                "line 5: a key file with an ssh-key starts with 'spa-knock-key: 2'",
            ),
            (
                "spa-knock-key: 2\nssh-key: SHA256:AAAA\n",
                "line 2: ssh-key: expected SHA256: and 43 base64 characters",
            ),
            ("spa-knock-key: 1\nkind: pair\n", "the line 'secret: …' is missing"),
            (&format!("{SECRET}\n"), "line 1: expected 'name: value'"),
            (
                "password: x\n",
                "line 1: unknown name (known: spa-knock-key, kind, client, server, address, port, ssh-key, secret)",
            ),
            ("kind: pair\nkind: root\n", "line 2: duplicate name"),
            ("spa-knock-key: 1\nsecret: AAAA\n", "line 2: the secret must be 44 base64 characters"),
            (&pair_text("port: 0"), "line 5: not a port number from 1 to 65535"),
            (&pair_text("address: -oProxy"), "line 5: not a host name or address"),
            (&pair_text("client: ../x"), "line 5: not a client name"),
            (
                &format!("spa-knock-key: 1\nkind: root\nserver: a\nsecret: {SECRET}"),
                "line 3: a root key has no server (only kind: pair has one)",
            ),
            (&format!("spa-knock-key: 1\nkind: both\nsecret: {SECRET}"), "line 2: kind must be pair or root"),
            (&format!("spa-knock-key: 1\nkind: pair\nsecret: {SECRET}"), "the line 'server: …' is missing"),
        ];
        for (text, message) in cases {
            let error = KeyFile::parse(text).err().unwrap().to_string();
            assert_eq!(error, message);
        }
    }

    #[test]
    fn the_example_key_is_refused() {
        let example = include_str!("../../../../keys.example");
        assert_eq!(KeyFile::parse(example).err(), Some(KeyFileError::Example));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "[ -~\n]{0,400}") {
            let _ = KeyFile::parse(&text);
        }
    }

    #[test]
    fn a_key_file_whose_line_breaks_were_lost_is_recognized_by_its_first_line() {
        let lost = "spa-knock-key: more than a number: are the line breaks missing?";
        let later = "version: later than this program supports (2)";
        for (version, reason) in [("1 2", lost), ("1:2", lost), ("1 pair: x", lost), ("3", later)] {
            let error = KeyFile::parse(&format!("spa-knock-key: {version}")).err().unwrap();
            assert_eq!(error.to_string(), format!("line 1: {reason}"), "{version}");
        }
    }
}
