//! The messages of ssh-agent (draft-ietf-sshm-ssh-agent) that a knock needs. Pure: an agent can send anything, so every
//! length is checked, and nothing but the expected form is accepted.

use std::io::{self, Read, Write};

use spa_knock_core::crypto::ssh::SshFingerprint;

/// The longest answer: OpenSSH's AGENT_MAX_LEN.
pub(super) const ANSWER_MAX: u32 = 256 << 10;
/// The most keys in a list: OpenSSH's MAX_AGENT_IDENTITIES.
pub(super) const KEYS_MAX: u32 = 2048;

/// SSH_AGENT_FAILURE.
const FAILURE: u8 = 5;
/// SSH_AGENTC_REQUEST_IDENTITIES.
const REQUEST_IDENTITIES: u8 = 11;
/// SSH_AGENT_IDENTITIES_ANSWER.
const IDENTITIES_ANSWER: u8 = 12;
/// SSH_AGENTC_SIGN_REQUEST.
const SIGN_REQUEST: u8 = 13;
/// SSH_AGENT_SIGN_RESPONSE.
const SIGN_RESPONSE: u8 = 14;

/// Why an answer is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    /// The agent does not do it.
    #[error("refused")]
    Refused,
    /// It is too long.
    #[error("its answer is too long")]
    TooLong,
    /// It lists too many keys.
    #[error("its list has more than {KEYS_MAX} keys")]
    TooManyKeys,
    /// It is an answer to another request.
    #[error("its answer has another type than expected")]
    Type,
    /// Its parts do not have the lengths that it states.
    #[error("its answer is malformed")]
    Malformed,
}

/// The request for the list of keys.
pub(super) fn list_request() -> Vec<u8> {
    framed(REQUEST_IDENTITIES, &[])
}

/// The request for a signature of `data` with the key `blob`.
pub(super) fn sign_request(blob: &[u8], data: &[u8]) -> Vec<u8> {
    const NO_FLAGS: [u8; 4] = [0; 4];
    framed(SIGN_REQUEST, &[&length_of(blob), blob, &length_of(data), data, &NO_FLAGS])
}

/// Sends a request and reads the answer, without its length.
///
/// # Errors
/// If the connection fails or ends. The inner error is about an answer whose length is not allowed.
pub(super) fn exchange(
    stream: &mut (impl Read + Write),
    request: &[u8],
) -> io::Result<Result<Vec<u8>, AnswerError>> {
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length == 0 {
        return Ok(Err(AnswerError::Malformed));
    }
    if length > ANSWER_MAX {
        return Ok(Err(AnswerError::TooLong));
    }
    // Grows with what arrives, not with what the agent announces.
    let mut answer = Vec::new();
    stream.take(length.into()).read_to_end(&mut answer)?;
    if u32::try_from(answer.len()) != Ok(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Ok(answer))
}

/// The key with this fingerprint in an answer to [`list_request`]; none if the agent does not have it.
pub(super) fn key_in_list(answer: &[u8], wanted: SshFingerprint) -> Result<Option<Vec<u8>>, AnswerError> {
    let mut rest = content(answer, IDENTITIES_ANSWER)?;
    let count = number(&mut rest).ok_or(AnswerError::Malformed)?;
    if count > KEYS_MAX {
        return Err(AnswerError::TooManyKeys);
    }
    let mut found = None;
    for _ in 0..count {
        let blob = string(&mut rest).ok_or(AnswerError::Malformed)?;
        let _comment = string(&mut rest).ok_or(AnswerError::Malformed)?;
        if found.is_none() && SshFingerprint::of(blob) == wanted {
            found = Some(blob.to_vec());
        }
    }
    if rest.is_empty() { Ok(found) } else { Err(AnswerError::Malformed) }
}

/// The signature in an answer to [`sign_request`].
pub(super) fn signature_in(answer: &[u8]) -> Result<&[u8], AnswerError> {
    let mut rest = content(answer, SIGN_RESPONSE)?;
    let signature = string(&mut rest).ok_or(AnswerError::Malformed)?;
    if rest.is_empty() { Ok(signature) } else { Err(AnswerError::Malformed) }
}

fn content(answer: &[u8], expected: u8) -> Result<&[u8], AnswerError> {
    match answer.split_first() {
        Some((&kind, rest)) if kind == expected => Ok(rest),
        Some((&FAILURE, [])) => Err(AnswerError::Refused),
        Some((&FAILURE, _)) | None => Err(AnswerError::Malformed),
        Some(_) => Err(AnswerError::Type),
    }
}

/// A message: its length, its type and its parts.
fn framed(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = [&[kind], parts.concat().as_slice()].concat();
    [length_of(&content).as_slice(), &content].concat()
}

/// Requests have a few hundred bytes.
fn length_of(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*number))
}

fn string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let (string, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(string)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What an agent sends, and what it was sent.
    struct Script {
        answer: io::Cursor<Vec<u8>>,
        sent: Vec<u8>,
    }

    impl Read for Script {
        /// One byte at a time, as a slow agent sends them.
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(1);
            self.answer.read(&mut buffer[..length])
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn text(bytes: &[u8]) -> Vec<u8> {
        [&length_of(bytes), bytes].concat()
    }

    fn list(count: u32, entries: &[u8]) -> Vec<u8> {
        [&[IDENTITIES_ANSWER], count.to_be_bytes().as_slice(), entries].concat()
    }

    fn answered(bytes: &[u8]) -> io::Result<Result<Vec<u8>, AnswerError>> {
        let mut script = Script { answer: io::Cursor::new(bytes.to_vec()), sent: Vec::new() };
        let answer = exchange(&mut script, &list_request());
        assert_eq!(script.sent, [0, 0, 0, 1, 11]);
        answer
    }

    #[test]
    fn requests_have_the_bytes_of_the_protocol() {
        assert_eq!(list_request(), [0, 0, 0, 1, 11]);
        assert_eq!(
            sign_request(b"key", b"data"),
            b"\x00\x00\x00\x14\x0d\x00\x00\x00\x03key\x00\x00\x00\x04data\x00\x00\x00\x00"
        );
    }

    #[test]
    fn an_answer_has_exactly_the_length_that_it_announces_and_not_over_256_kib() {
        assert_eq!(answered(b"\x00\x00\x00\x02\x05x and more").unwrap(), Ok(b"\x05x".to_vec()));
        assert_eq!(answered(&[0; 4]).unwrap(), Err(AnswerError::Malformed));
        let longest = [&ANSWER_MAX.to_be_bytes(), vec![7; 256 << 10].as_slice()].concat();
        assert_eq!(answered(&longest).unwrap().unwrap().len(), 256 << 10);
        for length in [ANSWER_MAX + 1, u32::MAX] {
            assert_eq!(answered(&length.to_be_bytes()).unwrap(), Err(AnswerError::TooLong));
        }
        for short in [&b""[..], b"\x00", b"\x00\x00\x00", b"\x00\x00\x00\x01", b"\x00\x00\x00\x02\x05"] {
            assert_eq!(answered(short).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{short:?}");
        }
    }

    #[test]
    fn the_key_is_found_by_its_fingerprint_whatever_else_is_in_the_list() {
        let entries = [text(b"other"), text(b""), text(b"key"), text("\u{1b}[2J".as_bytes())].concat();
        let wanted = SshFingerprint::of(b"key");
        assert_eq!(key_in_list(&list(2, &entries), wanted), Ok(Some(b"key".to_vec())));
        assert_eq!(key_in_list(&list(2, &entries), SshFingerprint::of(b"k")), Ok(None));
        assert_eq!(key_in_list(&list(0, &[]), wanted), Ok(None));
    }

    #[test]
    fn a_malformed_answer_is_refused() {
        use AnswerError::{Malformed, Refused, TooManyKeys, Type};

        let wanted = SshFingerprint::of(b"key");
        let entry = [text(b"key"), text(b"comment")].concat();
        let many = |count: u32| list(count, &entry.repeat(usize::try_from(count).unwrap()));
        assert!(key_in_list(&many(KEYS_MAX), wanted).is_ok());
        for (answer, error) in [
            (vec![], Malformed),
            (vec![IDENTITIES_ANSWER], Malformed),
            (vec![IDENTITIES_ANSWER, 0, 0, 0], Malformed),
            (list(1, &[]), Malformed),
            (list(2, &entry), Malformed),
            (list(1, &entry[..entry.len() - 1]), Malformed),
            (list(1, &[entry.as_slice(), &[0]].concat()), Malformed),
            (list(0, &entry), Malformed),
            (list(1, &[0xFF; 16]), Malformed),
            (many(KEYS_MAX + 1), TooManyKeys),
            (list(u32::MAX, &[]), TooManyKeys),
            (vec![FAILURE], Refused),
            (vec![FAILURE, 0], Malformed),
            (vec![SIGN_RESPONSE, 0, 0, 0, 0], Type),
            (vec![6], Type),
            (vec![0], Type),
        ] {
            assert_eq!(key_in_list(&answer, wanted), Err(error), "{answer:?}");
        }
        assert_eq!(signature_in(b"\x0e\x00\x00\x00\x03sig"), Ok(&b"sig"[..]));
        for (answer, error) in [
            (&b""[..], Malformed),
            (b"\x0e", Malformed),
            (b"\x0e\x00\x00\x00\x03si", Malformed),
            (b"\x0e\x00\x00\x00\x03sigs", Malformed),
            (b"\x0e\xff\xff\xff\xff", Malformed),
            (b"\x05", Refused),
            (b"\x05\x00", Malformed),
            (b"\x0c\x00\x00\x00\x00", Type),
        ] {
            assert_eq!(signature_in(answer), Err(error), "{answer:?}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused_without_a_panic(kind in 0_u8..20, rest: Vec<u8>) {
            let answer = [&[kind], rest.as_slice()].concat();
            let _ = key_in_list(&answer, SshFingerprint::of(b"key"));
            let _ = signature_in(&answer);
            let _ = answered(&answer);
        }
    }
}
