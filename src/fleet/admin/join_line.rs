//! The line with which a server joins a fleet: all that members share, and a checksum, which detects typing errors. Errors
//! never repeat a character of the line, which is a secret.
//!
//! `spa-knock-fleet-`, then in hex digits: the length of all these bytes (2 bytes, big-endian), the version (1), the id of
//! the cluster (8, big-endian), the secret of the fleet key (32), fleet, server id, user and password (each one length byte
//! and its text), the number of endpoints (1) and each of them in the same form, and a checksum of all preceding bytes (8).

use zeroize::Zeroizing;

use crate::fleet::ipc;
use spa_knock_core::crypto::{Secret, checksum};
use spa_knock_core::knock::ServerId;
use spa_knock_fleet::FleetName;
use spa_knock_fleet::client::Login;

const PREFIX: &str = "spa-knock-fleet-";
const VERSION: u8 = 1;
const CHECKSUM: usize = 8;
/// The digits of the length.
const HEAD: usize = 4;
/// The longest line: sixteen endpoints with names of 255 bytes.
pub(crate) const LINE_MAX: usize = 16 << 10;

/// What all members share.
pub(crate) struct JoinLine {
    pub(crate) fleet: FleetName,
    pub(crate) server: ServerId,
    pub(crate) cluster: u64,
    pub(crate) endpoints: Vec<String>,
    /// Of the members; none for a store without authentication.
    pub(crate) login: Option<Login>,
    /// Of the fleet key.
    pub(crate) secret: Secret,
}

/// Why a text is no join line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JoinLineError {
    /// It has another prefix.
    #[error("a join line starts with {PREFIX}")]
    Prefix,
    /// A character that it cannot contain; the position is counted from 1.
    #[error("character {0} is not allowed in a join line (only 0-9 and a-f)")]
    Character(usize),
    /// The length differs from the one in the header.
    #[error("length: {found} characters, but its header specifies {expected}")]
    Length { found: usize, expected: usize },
    /// The length is correct, but characters have changed.
    #[error("checksum: some characters differ from the printed line")]
    Checksum,
    /// It was made by a later version.
    #[error("version: later than this program supports ({VERSION})")]
    Version,
    /// The checksum is correct, but a field is invalid.
    #[error("invalid {0}")]
    Field(&'static str),
}

impl JoinLine {
    /// Whether a word of a command line is probably a join line, even a mistyped one.
    pub(crate) fn is_line(word: &str) -> bool {
        word.len() > 60 && word.rsplit('=').next().is_some_and(|word| word.starts_with(PREFIX))
    }

    /// The line; none if a field is too long for it.
    pub(crate) fn to_text(&self) -> Option<Zeroizing<String>> {
        // Reserves enough room: a growing buffer would leave copies of the secret in memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LINE_MAX));
        bytes.extend([0, 0, VERSION]);
        bytes.extend(self.cluster.to_be_bytes());
        bytes.extend(self.secret.expose());
        let (user, password) =
            self.login.as_ref().map_or(("", ""), |login| (login.user.as_str(), login.password.as_str()));
        for text in [self.fleet.as_str(), self.server.as_str(), user, password] {
            push_text(&mut bytes, text)?;
        }
        bytes.push(u8::try_from(self.endpoints.len()).ok()?);
        for endpoint in &self.endpoints {
            push_text(&mut bytes, endpoint)?;
        }
        let length = u16::try_from(bytes.len().checked_add(CHECKSUM)?).ok()?;
        bytes.get_mut(..2)?.copy_from_slice(&length.to_be_bytes());
        let sum = checksum(&[&bytes]);
        bytes.extend(sum);
        let mut text = Zeroizing::new(String::with_capacity(2 * LINE_MAX));
        text.push_str(PREFIX);
        text.push_str(&Zeroizing::new(ipc::hex(&bytes)));
        Some(text)
    }

    /// Reads a line. Whitespace around and inside it, as in a wrapped line, is ignored.
    ///
    /// # Errors
    /// The error describes the fault, but never contains text of the line.
    pub(crate) fn parse(text: &str) -> Result<Self, JoinLineError> {
        let bytes = decode(text)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(JoinLineError::Checksum)?;
        if checksum(&[body]) != *sum {
            return Err(JoinLineError::Checksum);
        }
        let mut fields = LineFields(body);
        let [_, _, version] = fields.take("version")?;
        if version != VERSION {
            return Err(JoinLineError::Version);
        }
        let cluster = u64::from_be_bytes(fields.take("cluster")?);
        let secret = Secret::from_bytes(fields.part("secret")?);
        let fleet = fields.text("fleet")?.parse().map_err(|_| JoinLineError::Field("fleet"))?;
        let server = fields.text("server")?.parse().map_err(|_| JoinLineError::Field("server"))?;
        let (user, password) = (fields.text("user")?, fields.text("password")?);
        let login = (!user.is_empty())
            .then(|| Login { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) });
        let [count] = fields.take("endpoints")?;
        let endpoints = (0..count).map(|_| fields.text("endpoints").map(str::to_owned));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() || !fields.0.is_empty() {
            return Err(JoinLineError::Field("endpoints"));
        }
        Ok(Self { fleet, server, cluster, endpoints, login, secret })
    }

    /// Whether a text needs no further line: it is complete, or no further line can complete it.
    pub(crate) fn is_complete(text: &str) -> bool {
        match decode(text) {
            Err(JoinLineError::Length { found, expected }) => found >= expected,
            _ => true,
        }
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) -> Option<()> {
    bytes.push(u8::try_from(text.len()).ok()?);
    bytes.extend(text.as_bytes());
    Some(())
}

/// The bytes of a line, after checking its length against its header.
fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, JoinLineError> {
    let mut characters = Zeroizing::new(String::with_capacity(text.len()));
    characters.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
    let digits = characters.strip_prefix(PREFIX).ok_or(JoinLineError::Prefix)?;
    let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    if let Some(at) = digits.chars().position(|c| !is_digit(c)) {
        return Err(JoinLineError::Character(at.saturating_add(PREFIX.len()).saturating_add(1)));
    }
    let length = digits.get(..HEAD).and_then(|head| u16::from_str_radix(head, 16).ok());
    let expected = length.map_or(HEAD, |length| usize::from(length).saturating_mul(2));
    if length.is_none() || digits.len() != expected {
        let whole = |length: usize| length.saturating_add(PREFIX.len());
        return Err(JoinLineError::Length { found: whole(digits.len()), expected: whole(expected) });
    }
    ipc::from_hex(digits).map(Zeroizing::new).ok_or(JoinLineError::Checksum)
}

/// The unread fields of a line.
struct LineFields<'a>(&'a [u8]);

impl<'a> LineFields<'a> {
    fn part<const N: usize>(&mut self, name: &'static str) -> Result<&'a [u8; N], JoinLineError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(JoinLineError::Field(name))?;
        self.0 = rest;
        Ok(first)
    }

    fn take<const N: usize>(&mut self, name: &'static str) -> Result<[u8; N], JoinLineError> {
        self.part(name).copied()
    }

    fn text(&mut self, name: &'static str) -> Result<&'a str, JoinLineError> {
        let [length] = self.take(name)?;
        let (text, rest) = self.0.split_at_checked(length.into()).ok_or(JoinLineError::Field(name))?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| JoinLineError::Field(name))
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests panic on overflow")]
mod tests {
    use super::*;

    fn line(endpoints: &[&str], login: Option<Login>) -> JoinLine {
        JoinLine {
            fleet: "prod".parse().unwrap(),
            server: "bastion.example.org".parse().unwrap(),
            cluster: 0xcdf8_1818_e32e_3c8b,
            endpoints: endpoints.iter().map(|&url| url.to_owned()).collect(),
            login,
            secret: Secret::from_bytes(&[7; 32]),
        }
    }

    fn member() -> Option<Login> {
        Some(Login { user: "m".to_owned(), password: Zeroizing::new("secret".to_owned()) })
    }

    fn error(text: &str) -> JoinLineError {
        JoinLine::parse(text).err().unwrap()
    }

    #[test]
    fn a_line_holds_all_that_members_share() {
        let long = format!("https://{}:2379", "a".repeat(240));
        for (endpoints, login) in [
            (&["https://e1:2379", "https://[2001:db8::1]:2379"][..], member()),
            (&["http://127.0.0.1:2379"], None),
            (&[long.as_str(); 16], member()),
        ] {
            let text = line(endpoints, login).to_text().unwrap();
            let (start, end) = text.split_at(50);
            let read = JoinLine::parse(&format!(" {start}\r\n {end}\n")).ok().unwrap();
            assert_eq!(*read.to_text().unwrap(), *text);
            assert!(JoinLine::is_complete(&text) && JoinLine::is_line(&text));
            assert!(!JoinLine::is_complete(start));
        }
        assert!(line(&[&"a".repeat(256)], None).to_text().is_none());
    }

    #[test]
    fn each_fault_of_a_line_is_named_and_no_change_of_one_digit_is_accepted() {
        let text = line(&["https://e1:2379"], member()).to_text().unwrap();
        let length = text.len();
        let start = &text[..length - 1];
        for (text, fault) in [
            ("", JoinLineError::Prefix),
            ("spa-knock-AAAA", JoinLineError::Prefix),
            (PREFIX, JoinLineError::Length { found: 16, expected: 20 }),
            (start, JoinLineError::Length { found: length - 1, expected: length }),
            (&format!("{}0", *text), JoinLineError::Length { found: length + 1, expected: length }),
            (&format!("{start}G"), JoinLineError::Character(length)),
        ] {
            assert_eq!(error(text), fault);
        }
        for at in PREFIX.len()..length {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            let is_head = at < PREFIX.len() + HEAD;
            let fault = error(&changed);
            assert!(
                fault == JoinLineError::Checksum || is_head && matches!(fault, JoinLineError::Length { .. }),
                "{at}: {fault:?}"
            );
        }
    }
}
