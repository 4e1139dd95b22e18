//! One-time passwords by time (RFC 6238): the seed, its file, the URI that apps read, and the codes.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::crypto::{Fingerprint, MacKey, RandomError, random};
use crate::knock::{ClientName, ServerId, Timestamp};

/// Seconds that a code is shown for: what all apps take for granted.
const STEP_MS: u64 = 30_000;
/// Fewer bytes than the hash has are not worth its name (RFC 4226, section 4: at least 16).
const SEED_MIN: usize = 16;
const SEED_MAX: usize = 64;
/// RFC 4648, section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The hash that codes are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtpHash {
    /// What every app knows.
    #[default]
    Sha1,
    /// What some do.
    Sha256,
}

/// How long a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtpDigits {
    /// What every app shows.
    #[default]
    Six,
    /// What some do.
    Eight,
}

/// What a server and an app share. Wiped on drop, no `Debug`.
#[derive(Clone)]
pub struct OtpSeed {
    hash: OtpHash,
    digits: OtpDigits,
    seed: Zeroizing<Vec<u8>>,
}

/// Why a text is no file of a seed. Nothing of the text is repeated: any of it may be the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OtpFileError {
    /// A line without a colon.
    #[error("line {0}: expected 'name: value'")]
    NoColon(usize),
    /// A name that these files do not have.
    #[error("line {0}: unknown name (known: spa-knock-otp, hash, digits, seed)")]
    UnknownName(usize),
    /// A value that its name does not take.
    #[error("line {0}: {1}")]
    BadValue(usize, &'static str),
    /// A name that must be there.
    #[error("the line '{0}: …' is missing")]
    Missing(&'static str),
}

impl FromStr for OtpHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            _ => Err("a hash is sha1 or sha256"),
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
            _ => Err("digits are 6 or 8"),
        }
    }
}

impl OtpDigits {
    /// The number of them.
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
    /// A new seed, of as many bytes as the hash has (RFC 6238, section 5.1).
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate(hash: OtpHash, digits: OtpDigits) -> Result<Self, RandomError> {
        let length = match hash {
            OtpHash::Sha1 => 20,
            OtpHash::Sha256 => 32,
        };
        let mut seed = Zeroizing::new(vec![0; length]);
        random::fill(&mut seed)?;
        Ok(Self { hash, digits, seed })
    }

    /// Reads the text of a seed file.
    ///
    /// # Errors
    /// Names the line, never its content.
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
                "spa-knock-otp" => return Err(bad("of a later version than this program (1)")),
                "hash" => hash = Some(value.parse().map_err(bad)?),
                "digits" => digits = Some(value.parse().map_err(bad)?),
                "seed" => seed = Some(decode(value).ok_or(bad("a seed is 26 to 103 characters of base32"))?),
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

    /// The text of the file, seed and all.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        self.written("spa-knock-otp: 1\nhash: ", &["\ndigits: ", "\nseed: ", "\n"])
    }

    fn written(&self, begin: &str, [digits, seed, end]: &[&str; 3]) -> Zeroizing<String> {
        // Room for everything at once: a growing string would leave copies of the seed behind.
        let mut text = Zeroizing::new(String::with_capacity(512));
        for part in [begin, &self.hash.to_string(), digits, &self.digits.count().to_string(), seed] {
            text.push_str(part);
        }
        encode(&self.seed, &mut text);
        text.push_str(end);
        text
    }

    /// What apps that show codes read (the otpauth: form that they have in common).
    #[must_use]
    pub fn uri(&self, server: &ServerId, client: &ClientName) -> Zeroizing<String> {
        let hash = match self.hash {
            OtpHash::Sha1 => "SHA1",
            OtpHash::Sha256 => "SHA256",
        };
        // All that a name can hold but the colon may stand in a URI as it is.
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

    /// The code of the step that begins at this time.
    #[must_use]
    pub fn code(&self, step: OtpStep) -> u32 {
        let counter = step.0.to_be_bytes();
        // HMAC takes keys of any length, so the errors cannot occur.
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

    /// Names the seed without telling it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let [a, b, c, d, e, f, g, h, ..] = MacKey::new(&self.seed).tag(&[b"spa-knock/1 otp id"]);
        Fingerprint::from_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Thirty seconds of the calendar, for which one code is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtpStep(u64);

impl OtpStep {
    /// The one that a time lies in.
    #[must_use]
    pub const fn of(time: Timestamp) -> Self {
        Self(time.as_millis() / STEP_MS)
    }

    /// So many later, or earlier.
    #[must_use]
    pub const fn plus(self, steps: i64) -> Self {
        Self(self.0.saturating_add_signed(steps))
    }

    /// When it begins.
    #[must_use]
    pub const fn begin(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(STEP_MS))
    }
}

/// Base32 without padding.
fn encode(bytes: &[u8], text: &mut String) {
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        held = (held << 8 | u32::from(*byte)) & 0xFFF;
        bits = bits.saturating_add(8);
        while bits >= 5 {
            bits = bits.saturating_sub(5);
            push_digit(held >> bits, text);
        }
    }
    if bits > 0 {
        push_digit(held << 5_u32.saturating_sub(bits), text);
    }
}

fn push_digit(value: u32, text: &mut String) {
    let digit = usize::try_from(value & 0x1F).ok().and_then(|at| BASE32.get(at));
    text.extend(digit.map(|digit| char::from(*digit)));
}

/// Base32 in either case, with or without padding and the spaces that apps show.
fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SEED_MAX.saturating_add(1)));
    let (mut held, mut bits) = (0_u32, 0_u32);
    for digit in text.trim_end_matches('=').bytes().filter(|byte| *byte != b' ') {
        let value = BASE32.iter().position(|known| *known == digit.to_ascii_uppercase())?;
        held = (held << 5 | u32::try_from(value).ok()?) & 0xFFFF;
        bits = bits.saturating_add(5);
        if bits >= 8 {
            bits = bits.saturating_sub(8);
            if bytes.len() >= SEED_MAX {
                return None;
            }
            bytes.push(u8::try_from(held >> bits & 0xFF).ok()?);
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
    fn a_seed_is_written_as_apps_read_it() {
        let seed = seed(OtpHash::Sha1, OtpDigits::Six, b"12345678901234567890");
        let uri = seed.uri(&"a:b.example".parse().unwrap(), &"laptop".parse().unwrap());
        assert_eq!(
            *uri,
            "otpauth://totp/a%3Ab.example:laptop?issuer=a%3Ab.example&algorithm=SHA1&digits=6&period=30\
             &secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
        );
    }

    #[test]
    fn what_is_no_seed_file_is_told_by_line_and_without_its_text() {
        for (text, message) in [
            ("", "the line 'spa-knock-otp: …' is missing"),
            ("spa-knock-otp: 1", "the line 'seed: …' is missing"),
            ("spa-knock-otp: 2", "line 1: of a later version than this program (1)"),
            ("spa-knock-otp: 1\nGEZDGNBVGY3TQOJQ", "line 2: expected 'name: value'"),
            (
                "spa-knock-otp: 1\nsecret: GEZD",
                "line 2: unknown name (known: spa-knock-otp, hash, digits, seed)",
            ),
            ("spa-knock-otp: 1\nseed: GEZDGNBVGY3TQOJ", "line 2: a seed is 26 to 103 characters of base32"),
            ("spa-knock-otp: 1\ndigits: 7", "line 2: digits are 6 or 8"),
            ("spa-knock-otp: 1\nhash: md5", "line 2: a hash is sha1 or sha256"),
        ] {
            assert_eq!(OtpSeed::parse(text).err().unwrap().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn a_seed_is_read_as_it_was_written(
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
        fn any_text_is_a_seed_file_or_refused(text in "[ -~\n]{0,200}") {
            let _ = OtpSeed::parse(&text);
        }
    }
}
