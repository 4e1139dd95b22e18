//! Time-based one-time passwords (RFC 6238): the seed, its file, the URI for authenticator apps, and the codes.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::crypto::{Fingerprint, MacKey, RandomError, random};
use crate::knock::{ClientName, ServerId, Timestamp};

/// Length of a time step in milliseconds: 30 seconds, which all apps assume.
const STEP_MS: u64 = 30_000;
/// The shortest seed in bytes (RFC 4226, section 4: at least 128 bits).
const SEED_MIN: usize = 16;
/// The longest seed in bytes.
const SEED_MAX: usize = 64;
/// RFC 4648, section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The hash function of the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtpHash {
    /// Supported by every app.
    #[default]
    Sha1,
    /// Supported by some apps.
    Sha256,
}

/// The length of the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtpDigits {
    /// Supported by every app.
    #[default]
    Six,
    /// Supported by some apps.
    Eight,
}

/// The secret shared by a server and an authenticator app. Wiped on drop, no `Debug`.
#[derive(Clone)]
pub struct OtpSeed {
    hash: OtpHash,
    digits: OtpDigits,
    seed: Zeroizing<Vec<u8>>,
}

/// Why a text is not a valid seed file. The text is not repeated, because any of it may be the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OtpFileError {
    /// A line without a colon.
    #[error("line {0}: expected 'name: value'")]
    NoColon(usize),
    /// A name that is unknown in seed files.
    #[error("line {0}: unknown name (known: spa-knock-otp, hash, digits, seed)")]
    UnknownName(usize),
    /// An invalid value.
    #[error("line {0}: {1}")]
    BadValue(usize, &'static str),
    /// A required name is missing.
    #[error("the line '{0}: …' is missing")]
    Missing(&'static str),
}

impl FromStr for OtpHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            _ => Err("the hash must be sha1 or sha256"),
        }
    }
}

impl fmt::Display for OtpHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        })
    }
}

impl FromStr for OtpDigits {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "6" => Ok(Self::Six),
            "8" => Ok(Self::Eight),
            _ => Err("digits must be 6 or 8"),
        }
    }
}

impl OtpDigits {
    /// The number of digits.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::Six => 6,
            Self::Eight => 8,
        }
    }

    const fn modulus(self) -> u32 {
        match self {
            Self::Six => 1_000_000,
            Self::Eight => 100_000_000,
        }
    }
}

impl OtpSeed {
    /// Generates a seed with the same length as the output of the hash (RFC 6238, section 5.1).
    ///
    /// # Errors
    /// If the system's random number generator fails.
    pub fn generate(hash: OtpHash, digits: OtpDigits) -> Result<Self, RandomError> {
        let length = match hash {
            OtpHash::Sha1 => 20,
            OtpHash::Sha256 => 32,
        };
        let mut seed = Zeroizing::new(vec![0; length]);
        random::fill(&mut seed)?;
        Ok(Self { hash, digits, seed })
    }

    /// Parses the text of a seed file.
    ///
    /// # Errors
    /// The error names the line, but never contains its text.
    pub fn parse(text: &str) -> Result<Self, OtpFileError> {
        use OtpFileError::{BadValue, Missing, NoColon, UnknownName};

        let (mut version, mut hash, mut digits, mut seed) = (None, None, None, None);
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(NoColon(number))?;
            let value = value.trim();
            let bad = |why| BadValue(number, why);
            match name.trim_end() {
                "spa-knock-otp" if value == "1" => version = Some(()),
                "spa-knock-otp" => {
                    return Err(bad("version: later than this program supports (1)"));
                }
                "hash" => hash = Some(value.parse().map_err(bad)?),
                "digits" => digits = Some(value.parse().map_err(bad)?),
                "seed" => {
                    seed = Some(decode(value).ok_or(bad("the seed must be 26 to 103 base32 characters"))?)
                }
                _ => return Err(UnknownName(number)),
            }
        }
        version.ok_or(Missing("spa-knock-otp"))?;
        Ok(Self {
            hash: hash.unwrap_or_default(),
            digits: digits.unwrap_or_default(),
            seed: seed.ok_or(Missing("seed"))?,
        })
    }

    /// The text of the file, including the seed.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        self.written("spa-knock-otp: 1\nhash: ", &["\ndigits: ", "\nseed: ", "\n"])
    }

    fn written(&self, begin: &str, [digits, seed, end]: &[&str; 3]) -> Zeroizing<String> {
        // Reserves enough room: a growing string would leave copies of the seed in memory.
        let mut text = Zeroizing::new(String::with_capacity(512));
        for part in [begin, &self.hash.to_string(), digits, &self.digits.count().to_string(), seed] {
            text.push_str(part);
        }
        encode(&self.seed, &mut text);
        text.push_str(end);
        text
    }

    /// The `otpauth:` URI that authenticator apps read.
    #[must_use]
    pub fn uri(&self, server: &ServerId, client: &ClientName) -> Zeroizing<String> {
        let hash = match self.hash {
            OtpHash::Sha1 => "SHA1",
            OtpHash::Sha256 => "SHA256",
        };
        // The colon is the only character of a name that must be escaped in a URI.
        let server = server.as_str().replace(':', "%3A");
        let mut uri = Zeroizing::new(String::with_capacity(512));
        for part in [
            "otpauth://totp/",
            &server,
            ":",
            client.as_str(),
            "?issuer=",
            &server,
            "&algorithm=",
            hash,
            "&digits=",
            &self.digits.count().to_string(),
            "&period=30&secret=",
        ] {
            uri.push_str(part);
        }
        encode(&self.seed, &mut uri);
        uri
    }

    /// The code of a time step.
    #[must_use]
    pub fn code(&self, step: OtpStep) -> u32 {
        let counter = step.0.to_be_bytes();
        // HMAC accepts keys of any length, so the errors cannot occur.
        let digest: Zeroizing<Vec<u8>> = Zeroizing::new(match self.hash {
            OtpHash::Sha1 => Hmac::<Sha1>::new_from_slice(&self.seed)
                .map(|mac| mac.chain_update(counter).finalize().into_bytes().to_vec())
                .unwrap_or_default(),
            OtpHash::Sha256 => Hmac::<Sha256>::new_from_slice(&self.seed)
                .map(|mac| mac.chain_update(counter).finalize().into_bytes().to_vec())
                .unwrap_or_default(),
        });
        // Dynamic truncation, RFC 4226, section 5.3.
        let offset = digest.last().map_or(0, |last| usize::from(last & 0x0F));
        let word = digest.get(offset..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let number = u32::from_be_bytes(word) & 0x7FFF_FFFF;
        number.checked_rem(self.digits.modulus()).unwrap_or_default()
    }

    /// Identifies the seed without revealing it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let [a, b, c, d, e, f, g, h, ..] = MacKey::new(&self.seed).tag(&[b"spa-knock/1 otp id"]);
        Fingerprint::from_bytes([a, b, c, d, e, f, g, h])
    }
}

/// A time step: 30 seconds of wall-clock time, with one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtpStep(u64);

impl OtpStep {
    /// The time step that contains `time`.
    #[must_use]
    pub const fn of(time: Timestamp) -> Self {
        Self(time.as_millis() / STEP_MS)
    }

    /// The time step that is `steps` later, or earlier if negative.
    #[must_use]
    pub const fn plus(self, steps: i64) -> Self {
        Self(self.0.saturating_add_signed(steps))
    }

    /// The time at which it begins.
    #[must_use]
    pub const fn begin(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(STEP_MS))
    }
}

/// Encodes as base32 without padding.
fn encode(bytes: &[u8], text: &mut String) {
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        buffer = (buffer << 8 | u32::from(*byte)) & 0xFFF;
        bits = bits.saturating_add(8);
        while bits >= 5 {
            bits = bits.saturating_sub(5);
            push_digit(buffer >> bits, text);
        }
    }
    if bits > 0 {
        push_digit(buffer << 5_u32.saturating_sub(bits), text);
    }
}

fn push_digit(value: u32, text: &mut String) {
    let digit = usize::try_from(value & 0x1F).ok().and_then(|at| BASE32.get(at));
    text.extend(digit.map(|digit| char::from(*digit)));
}

/// Decodes base32 in upper or lower case, with or without padding and the spaces that apps show.
fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SEED_MAX.saturating_add(1)));
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for digit in text.trim_end_matches('=').bytes().filter(|byte| *byte != b' ') {
        let value = BASE32.iter().position(|known| *known == digit.to_ascii_uppercase())?;
        buffer = (buffer << 5 | u32::try_from(value).ok()?) & 0xFFFF;
        bits = bits.saturating_add(5);
        if bits >= 8 {
            bits = bits.saturating_sub(8);
            if bytes.len() >= SEED_MAX {
                return None;
            }
            bytes.push(u8::try_from(buffer >> bits & 0xFF).ok()?);
        }
    }
    (bytes.len() >= SEED_MIN).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seed(hash: OtpHash, digits: OtpDigits, seed: &[u8]) -> OtpSeed {
        OtpSeed { hash, digits, seed: Zeroizing::new(seed.to_vec()) }
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        // Appendix B of the RFC.
        let sha1 = seed(OtpHash::Sha1, OtpDigits::Eight, b"12345678901234567890");
        let sha256 = seed(OtpHash::Sha256, OtpDigits::Eight, b"12345678901234567890123456789012");
        for (seconds, by_sha1, by_sha256) in [
            (59, 94_287_082, 46_119_246),
            (1_111_111_109, 7_081_804, 68_084_774),
            (1_111_111_111, 14_050_471, 67_062_674),
            (1_234_567_890, 89_005_924, 91_819_424),
            (2_000_000_000, 69_279_037, 90_698_825),
            (20_000_000_000, 65_353_130, 77_737_706),
        ] {
            let step = OtpStep::of(Timestamp::from_millis(seconds * 1_000));
            assert_eq!((sha1.code(step), sha256.code(step)), (by_sha1, by_sha256), "{seconds}");
            let six = seed(OtpHash::Sha1, OtpDigits::Six, b"12345678901234567890");
            assert_eq!(six.code(step), by_sha1 % 1_000_000);
        }
    }

    #[test]
    fn a_seed_uri_has_the_form_that_apps_read() {
        let seed = seed(OtpHash::Sha1, OtpDigits::Six, b"12345678901234567890");
        let uri = seed.uri(&"a:b.example".parse().unwrap(), &"laptop".parse().unwrap());
        assert_eq!(
            *uri,
            "otpauth://totp/a%3Ab.example:laptop?issuer=a%3Ab.example&algorithm=SHA1&digits=6&period=30\
             &secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
        );
    }

    #[test]
    fn a_seed_uri_names_the_hash_and_the_number_of_digits() {
        for (hash, digits, expected) in [
            (OtpHash::Sha1, OtpDigits::Six, "&algorithm=SHA1&digits=6&"),
            (OtpHash::Sha256, OtpDigits::Six, "&algorithm=SHA256&digits=6&"),
            (OtpHash::Sha1, OtpDigits::Eight, "&algorithm=SHA1&digits=8&"),
        ] {
            let uri = seed(hash, digits, &[7; 20]).uri(&"a".parse().unwrap(), &"laptop".parse().unwrap());
            assert!(uri.contains(expected), "{expected}");
        }
    }

    #[test]
    fn a_seed_has_16_to_64_bytes() {
        for (length, is_seed) in
            [(SEED_MIN - 1, false), (SEED_MIN, true), (SEED_MAX, true), (SEED_MAX + 1, false)]
        {
            let mut text = String::new();
            encode(&vec![7; length], &mut text);
            assert_eq!(decode(&text).is_some(), is_seed, "{length} bytes");
        }
    }

    #[test]
    fn an_invalid_seed_file_is_refused_by_line_number_without_its_text() {
        for (text, message) in [
            ("", "the line 'spa-knock-otp: …' is missing"),
            ("spa-knock-otp: 1", "the line 'seed: …' is missing"),
            ("spa-knock-otp: 2", "line 1: version: later than this program supports (1)"),
            ("spa-knock-otp: 1\nGEZDGNBVGY3TQOJQ", "line 2: expected 'name: value'"),
            (
                "spa-knock-otp: 1\nsecret: GEZD",
                "line 2: unknown name (known: spa-knock-otp, hash, digits, seed)",
            ),
            (
                "spa-knock-otp: 1\nseed: GEZDGNBVGY3TQOJ",
                "line 2: the seed must be 26 to 103 base32 characters",
            ),
            ("spa-knock-otp: 1\ndigits: 7", "line 2: digits must be 6 or 8"),
            ("spa-knock-otp: 1\nhash: md5", "line 2: the hash must be sha1 or sha256"),
        ] {
            assert_eq!(OtpSeed::parse(text).err().unwrap().to_string(), message);
        }
    }

    #[test]
    fn empty_lines_and_comments_of_a_seed_file_are_skipped() {
        let seed = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
        for line in ["", "  ", "# seed: another", "  # no name"] {
            let text = format!("{line}\nspa-knock-otp: 1\n{line}\nseed: {seed}\n{line}\n");
            let step = OtpStep::of(Timestamp::from_millis(59_000));
            assert_eq!(OtpSeed::parse(&text).unwrap().code(step), 287_082, "'{line}'");
        }
    }

    proptest! {
        #[test]
        fn a_seed_file_survives_writing_and_reading(
            bytes in proptest::collection::vec(any::<u8>(), SEED_MIN..=SEED_MAX),
            sha256: bool,
            eight: bool,
        ) {
            let hash = if sha256 { OtpHash::Sha256 } else { OtpHash::Sha1 };
            let digits = if eight { OtpDigits::Eight } else { OtpDigits::Six };
            let written = seed(hash, digits, &bytes);
            let read = OtpSeed::parse(&written.to_text()).unwrap();
            prop_assert_eq!(&*read.seed, &bytes);
            prop_assert_eq!((read.hash, read.digits), (hash, digits));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "[ -~\n]{0,200}") {
            let _ = OtpSeed::parse(&text);
        }
    }
}
