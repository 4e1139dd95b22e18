//! A pair key as a single line, to be pasted, piped or shown as a QR code: the content of its key file and a checksum,
//! which detects typing errors. Errors never repeat a character of the token.
//!
//! `spa-knock-`, then base64url without padding (RFC 4648, section 5) of: the length of all these bytes (2 bytes,
//! big-endian), the version (1), the secret (32), the port (2, big-endian; 0 for none), client, server and address
//! (each one length byte and its text; empty for none), and a checksum of all preceding bytes (8).
//!
//! If an SSH key signs the knocks: `spa-knock2-`, the version is 2, and the SHA-256 of the key's blob (32) is before the
//! checksum.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::example::EXAMPLE;
use super::keyfile::is_host;
use crate::crypto::ssh::SshFingerprint;
use crate::crypto::{KeyFile, KeyOwner, PairSecret, Secret, checksum};
use crate::knock::ProtocolVersion;

/// The prefix of tokens of version 1.
const PREFIX: &str = "spa-knock-";
/// The prefix of tokens with an SSH key. Programs that only know version 1 refuse it.
const PREFIX_V2: &str = "spa-knock2-";
const CHECKSUM: usize = 8;
/// Length and version are three bytes, so the first four characters specify the length of the token.
const HEAD_CHARACTERS: usize = 4;

/// Why a text is not a valid token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has another prefix.
    #[error("a token starts with {PREFIX} or {PREFIX_V2}")]
    Prefix,
    /// A character that tokens cannot contain; the position is counted from 1.
    #[error("character {0} is not allowed in a token (only A-Z, a-z, 0-9, '-', '_')")]
    Character(usize),
    /// The length differs from the one in the header.
    #[error("length: {found} characters, but its header specifies {expected}")]
    Length {
        /// Number of characters found.
        found: usize,
        /// Number of characters according to the header.
        expected: usize,
    },
    /// The length is correct, but characters have changed.
    #[error("checksum: some characters differ from the printed token")]
    Checksum,
    /// It was created by a later version.
    #[error("version: later than this program supports (2)")]
    Version,
    /// The checksum is correct, but a field is invalid.
    #[error("invalid {0}")]
    Field(&'static str),
    /// The secret of `keys.example`.
    #[error("this is the example key, which is public")]
    Example,
}

impl KeyFile {
    /// Whether a text looks like a token and not like a key file, in which every line has a colon.
    #[must_use]
    pub fn is_token(text: &str) -> bool {
        split_prefix(text.trim_start().as_bytes()).is_some() && !text.contains(':')
    }

    /// Whether a word of a command line, or the value of an option in it, is probably a token, even a mistyped one. Tokens
    /// are longer than 60 characters, and host names of that length have dots.
    #[must_use]
    pub fn is_token_word(word: &str) -> bool {
        let value = word.rsplit('=').next().unwrap_or(word);
        value.len() > 60 && split_prefix(value.as_bytes()).is_some() && !value.contains(['.', ':', '/'])
    }

    /// The token of a pair key; `None` for a root key, which must not leave the host on which it was made.
    #[must_use]
    pub fn to_token(&self) -> Option<Zeroizing<String>> {
        let KeyOwner::Pair { server, secret } = &self.holder else { return None };
        let client = self.client.as_ref().map_or("", |client| client.as_str());
        let texts = [client, server.as_str(), self.address.as_deref().unwrap_or_default()];
        // Reserves enough room: a growing buffer would leave copies of the secret in memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        bytes.extend([0, 0, self.version().number()]);
        bytes.extend(secret.secret().expose());
        bytes.extend(self.port.unwrap_or_default().to_be_bytes());
        for text in texts {
            bytes.push(u8::try_from(text.len()).ok()?);
            bytes.extend(text.as_bytes());
        }
        bytes.extend(self.ssh_key.iter().flat_map(SshFingerprint::as_bytes));
        let length = u16::try_from(bytes.len().checked_add(CHECKSUM)?).ok()?;
        bytes.get_mut(..2)?.copy_from_slice(&length.to_be_bytes());
        let sum = checksum(&[&bytes]);
        bytes.extend(sum);

        let mut token = Zeroizing::new(String::with_capacity(2048));
        token.push_str(prefix_of(self.version()));
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut token);
        Some(token)
    }

    /// Parses a token. Whitespace around and inside it, as in a wrapped line, is ignored.
    ///
    /// # Errors
    /// The error describes the fault, but never contains text of the token.
    pub fn from_token(text: &str) -> Result<Self, TokenError> {
        let (prefixed, bytes) = decode(text)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TokenError::Checksum)?;
        if checksum(&[body]) != *sum {
            return Err(TokenError::Checksum);
        }
        let mut fields = TokenFields(body);
        let [_, _, version] = fields.take().ok_or(TokenError::Field("version"))?;
        if version != prefixed.number() {
            return Err(TokenError::Version);
        }
        let secret = fields.secret().ok_or(TokenError::Field("secret"))?;
        if secret.expose() == EXAMPLE {
            return Err(TokenError::Example);
        }
        let port = u16::from_be_bytes(fields.take().ok_or(TokenError::Field("port"))?);
        let client = fields.text("client")?;
        let server = fields.text("server")?;
        let address = fields.text("address")?;
        let ssh_key = match prefixed {
            ProtocolVersion::V1 => None,
            ProtocolVersion::V2 => {
                Some(SshFingerprint::from_bytes(fields.take().ok_or(TokenError::Field("ssh-key"))?))
            }
        };
        if !fields.0.is_empty() || address.is_some_and(|address| !is_host(address)) {
            return Err(TokenError::Field("address"));
        }
        Ok(Self {
            client: client.map(str::parse).transpose().map_err(|_| TokenError::Field("client"))?,
            holder: KeyOwner::Pair {
                server: server.and_then(|id| id.parse().ok()).ok_or(TokenError::Field("server"))?,
                secret: PairSecret::new(secret),
            },
            address: address.map(str::to_owned),
            port: Some(port).filter(|&port| port != 0),
            ssh_key,
        })
    }
}

const fn prefix_of(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V1 => PREFIX,
        ProtocolVersion::V2 => PREFIX_V2,
    }
}

/// The version that the prefix of a token states, and what follows it.
fn split_prefix(token: &[u8]) -> Option<(ProtocolVersion, &[u8])> {
    [ProtocolVersion::V1, ProtocolVersion::V2]
        .into_iter()
        .find_map(|version| token.strip_prefix(prefix_of(version).as_bytes()).map(|coded| (version, coded)))
}

/// Decodes the bytes of a token, after checking its length against its header. Also returns the version that its prefix
/// states.
fn decode(text: &str) -> Result<(ProtocolVersion, Zeroizing<Vec<u8>>), TokenError> {
    let mut characters = Zeroizing::new(Vec::with_capacity(text.len()));
    characters.extend(text.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    let (version, coded) = split_prefix(&characters).ok_or(TokenError::Prefix)?;
    let prefix = prefix_of(version).len();
    let is_invalid = |byte: &u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if let Some(place) = coded.iter().position(is_invalid) {
        return Err(TokenError::Character(place.saturating_add(prefix).saturating_add(1)));
    }
    let found = characters.len();
    let expected = coded.get(..HEAD_CHARACTERS).and_then(expected_length);
    if expected != Some(coded.len()) {
        let whole = |length: usize| length.saturating_add(prefix);
        return Err(TokenError::Length { found, expected: whole(expected.unwrap_or(HEAD_CHARACTERS)) });
    }
    let mut bytes = Zeroizing::new(vec![0; coded.len()]);
    let length =
        URL_SAFE_NO_PAD.decode_slice(coded, bytes.as_mut_slice()).map_err(|_| TokenError::Checksum)?;
    bytes.truncate(length);
    Ok((version, bytes))
}

/// The number of characters after the prefix, according to the header.
fn expected_length(head: &[u8]) -> Option<usize> {
    let mut bytes = [0; 3];
    URL_SAFE_NO_PAD.decode_slice(head, &mut bytes).ok()?;
    let [high, low, _] = bytes;
    let length = usize::from(u16::from_be_bytes([high, low]));
    Some(length.checked_mul(4)?.div_ceil(3))
}

/// The unread fields of a token.
struct TokenFields<'a>(&'a [u8]);

impl<'a> TokenFields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn secret(&mut self) -> Option<Secret> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(Secret::from_bytes(first))
    }

    /// A text field; `None` if it is empty.
    fn text(&mut self, name: &'static str) -> Result<Option<&'a str>, TokenError> {
        let read = || {
            let (&length, rest) = self.0.split_first()?;
            let (text, rest) = rest.split_at_checked(length.into())?;
            Some((str::from_utf8(text).ok()?, rest))
        };
        let (text, rest) = read().ok_or(TokenError::Field(name))?;
        self.0 = rest;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    fn key(client: Option<&str>, address: Option<&str>, port: Option<u16>, secret: &[u8; 32]) -> KeyFile {
        KeyFile {
            client: client.map(|client| client.parse().unwrap()),
            holder: KeyOwner::Pair {
                server: "bastion.example.org".parse().unwrap(),
                secret: PairSecret::new(Secret::from_bytes(secret)),
            },
            address: address.map(str::to_owned),
            port,
            ssh_key: None,
        }
    }

    fn signed() -> KeyFile {
        let ssh_key = Some(SshFingerprint::from_bytes([9; 32]));
        KeyFile { ssh_key, ..key(Some("laptop"), Some("203.0.113.1"), Some(4000), &[7; 32]) }
    }

    fn laptop() -> Zeroizing<String> {
        key(Some("laptop"), Some("203.0.113.1"), Some(4000), &[7; 32]).to_token().unwrap()
    }

    fn error(text: &str) -> TokenError {
        KeyFile::from_token(text).err().unwrap()
    }

    /// A token with this content after the length, valid or not.
    fn token_of(body: &[u8]) -> String {
        let length = u16::try_from(2 + body.len() + CHECKSUM).unwrap();
        let mut bytes = [&length.to_be_bytes(), body].concat();
        bytes.extend(checksum(&[&bytes]));
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    #[test]
    fn a_word_that_is_or_was_a_token_is_recognized() {
        let token = format!("{PREFIX}{}", "A".repeat(80));
        for (word, expected) in [
            (token.clone(), true),
            (format!("--key={token}"), true),
            (format!("{token}!"), true),
            ("spa-knock-bastion".to_owned(), false),
            (format!("{PREFIX}{}.example.org", "a".repeat(60)), false),
            (format!("/root/{token}"), false),
        ] {
            assert_eq!(KeyFile::is_token_word(&word), expected, "{word}");
        }
    }

    #[test]
    fn a_token_holds_the_whole_content_of_its_key_file() {
        for file in [
            key(Some("laptop"), Some("203.0.113.1"), Some(4000), &[7; 32]),
            key(None, None, None, &[0; 32]),
            key(Some("x"), Some(&"a".repeat(253)), Some(u16::MAX), &[255; 32]),
            signed(),
            KeyFile { ssh_key: signed().ssh_key, ..key(None, None, None, &[0; 32]) },
        ] {
            let token = file.to_token().unwrap();
            assert!(KeyFile::is_token(&token) && !KeyFile::is_token(&file.to_text()));
            assert!(token.len() < 550, "{}", token.len());
            let read = KeyFile::from_token(&token).ok().unwrap();
            assert_eq!(*read.to_text(), *file.to_text());
        }
    }

    #[test]
    fn the_format_of_a_token_is_fixed() {
        // Created by another program from the description above.
        let made = concat!(
            "spa-knock-AFQBBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcPoAZ",
            "sYXB0b3ATYmFzdGlvbi5leGFtcGxlLm9yZwsyMDMuMC4xMTMuMQYAE8VOnTc-"
        );
        assert_eq!(*laptop(), made);
        let made = concat!(
            "spa-knock2-AHQCBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcPoAZsYX",
            "B0b3ATYmFzdGlvbi5leGFtcGxlLm9yZwsyMDMuMC4xMTMuMQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJtIow1zxAQJU"
        );
        assert_eq!(*signed().to_token().unwrap(), made);
    }

    #[test]
    fn a_token_with_an_ssh_key_is_refused_by_programs_that_do_not_know_it_and_cannot_lose_the_key() {
        let token = signed().to_token().unwrap();
        assert!(!token.starts_with(PREFIX), "the prefix that older programs look for");
        let downgraded = token.replace(PREFIX_V2, PREFIX);
        assert_eq!(error(&downgraded), TokenError::Version);
        assert_eq!(error(&laptop().replace(PREFIX, PREFIX_V2)), TokenError::Version);
    }

    #[test]
    fn a_root_key_has_no_token() {
        let root = KeyFile::parse(
            "spa-knock-key: 1\nkind: root\nsecret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        );
        assert!(root.ok().unwrap().to_token().is_none());
    }

    #[test]
    fn a_wrapped_token_is_joined() {
        let token = laptop();
        let (start, end) = token.split_at(40);
        assert!(KeyFile::from_token(&format!(" {start}\r\n  {end}\n")).is_ok());
    }

    #[test]
    fn each_token_error_names_the_fault() {
        let token = laptop();
        let short = &token[..token.len() - 1];
        for (text, wrong) in [
            ("", TokenError::Prefix),
            ("spa-knok-AFcB", TokenError::Prefix),
            ("spa-knock-", TokenError::Length { found: 10, expected: 14 }),
            (short, TokenError::Length { found: 121, expected: 122 }),
            (&format!("{}x", *token), TokenError::Length { found: 123, expected: 122 }),
            (&token.replace("YXB0", "YX+0"), TokenError::Character(65)),
            (&token.replace("YXB0", "YBX0"), TokenError::Checksum),
        ] {
            assert_eq!(error(text), wrong);
        }
    }

    #[test]
    fn a_complete_token_with_invalid_fields_is_refused() {
        let mut body = [[1].as_slice(), &[7; 32], &[0, 0], &[0], b"\x01a", &[0]].concat();
        assert!(KeyFile::from_token(&token_of(&body)).is_ok());
        for (place, byte, wrong) in [
            (0, 2, TokenError::Version),
            (35, 1, TokenError::Field("server")),
            (36, 0, TokenError::Field("address")),
            (37, b'A', TokenError::Field("server")),
            (37, 0xFF, TokenError::Field("server")),
            (38, 1, TokenError::Field("address")),
        ] {
            let good = std::mem::replace(&mut body[place], byte);
            assert_eq!(error(&token_of(&body)), wrong, "{place}");
            body[place] = good;
        }
        assert_eq!(error(&token_of(&[body.as_slice(), &[0]].concat())), TokenError::Field("address"));
        let example = key(None, None, None, EXAMPLE).to_token().unwrap();
        assert_eq!(error(&example), TokenError::Example);
    }

    #[test]
    fn every_changed_missing_doubled_or_swapped_character_is_detected() {
        let token = laptop();
        for place in 0..token.len() {
            let (before, rest) = token.as_bytes().split_at(place);
            let (&here, after) = rest.split_first().unwrap();
            let with = |middle: &[u8]| String::from_utf8([before, middle, after].concat()).unwrap();
            for &other in ALPHABET.iter().filter(|&&other| other != here) {
                assert!(KeyFile::from_token(&with(&[other])).is_err(), "{place}: {other}");
            }
            assert!(KeyFile::from_token(&with(&[])).is_err(), "{place} is missing");
            assert!(KeyFile::from_token(&with(&[here, here])).is_err(), "{place} is doubled");
            if let Some((&next, after)) = after.split_first().filter(|&(&next, _)| next != here) {
                let swapped = String::from_utf8([before, &[next, here], after].concat()).unwrap();
                assert!(KeyFile::from_token(&swapped).is_err(), "{place} is swapped with the next");
            }
        }
    }

    proptest! {
        #[test]
        fn every_changed_character_of_any_token_is_detected(
            client in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9._-]{0,31}"),
            address in proptest::option::of("[a-z0-9][a-z0-9.:-]{0,60}"),
            port: Option<u16>, secret: [u8; 32], place: prop::sample::Index, other in 0_u8..=0x7F,
        ) {
            let port = port.filter(|&port| port != 0);
            let file = key(client.as_deref(), address.as_deref(), port, &secret);
            let token = file.to_token().unwrap();
            prop_assert_eq!(&*KeyFile::from_token(&token).ok().unwrap().to_text(), &*file.to_text());
            let mut bytes = token.as_bytes().to_vec();
            let place = place.index(bytes.len());
            prop_assume!(bytes[place] != other);
            bytes[place] = other;
            prop_assert!(KeyFile::from_token(&String::from_utf8(bytes).unwrap()).is_err());
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "(spa-knock-)?[ -~\n]{0,300}", bytes: Vec<u8>) {
            let _ = KeyFile::from_token(&text);
            let _ = KeyFile::from_token(&token_of(&bytes));
        }
    }

    #[test]
    fn a_word_of_sixty_characters_is_too_short_for_a_token() {
        let word = |length| format!("{:a<length$}", prefix_of(ProtocolVersion::V1));
        assert_eq!([60, 61].map(|length| KeyFile::is_token_word(&word(length))), [false, true]);
        assert_eq!(
            [60, 61].map(|length| KeyFile::is_token_word(&format!("--key={}", word(length)))),
            [false, true]
        );
    }
}
