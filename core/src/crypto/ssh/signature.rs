//! The raw form of a signature, as it is in a knock, and its conversion from the forms of ssh-agent and of devices.

use super::{PublicKeyKind, strings};

/// The order of P-256, big-endian.
const P256_N: [u8; 32] = [
    0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xBC,
    0xE6, 0xFA, 0xAD, 0xA7, 0x17, 0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51,
];
/// The order of Ed25519's base point, little-endian.
const ED25519_L: [u8; 32] = [
    0xED, 0xD3, 0xF5, 0x5C, 0x1A, 0x63, 0x12, 0x58, 0xD6, 0x9C, 0xF7, 0xA2, 0xDE, 0xF9, 0xDE, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];
/// Tags of X.690.
const DER_SEQUENCE: u8 = 0x30;
const DER_INTEGER: u8 = 0x02;
/// The greatest length in X.690's short form.
const DER_SHORT_MAX: u8 = 0x7F;

/// A signature in the form in which a knock contains it: the 64 bytes of RFC 8032, or r and s with 32 bytes each; for
/// FIDO keys also flags and counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawSignature {
    numbers: [u8; Self::LEN],
    fido: Option<FidoData>,
}

/// What a FIDO device states about a signature; signed by the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FidoData {
    /// The device's flags.
    pub flags: u8,
    /// The number of signatures so far, or always 0 in a device that does not count.
    pub counter: u32,
}

/// Why a signature of an agent or a device cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signature is of another algorithm than the key.
    #[error("the signature is of another algorithm than the key")]
    Algorithm,
    /// Fields are missing or have wrong lengths, or bytes follow them.
    #[error("the signature's fields are missing, have wrong lengths or are followed by other bytes")]
    Encoding,
    /// A number is negative, too long or has superfluous zeros.
    #[error("a number of the signature is negative, too long or has superfluous zeros")]
    Mpint,
    /// A number is out of range.
    #[error("a number of the signature is out of range")]
    Range,
}

impl FidoData {
    /// Bit 0 of the flags: someone was present.
    pub const USER_PRESENT: u8 = 1;
    /// Bit 2 of the flags: the device verified a PIN or a fingerprint.
    pub const USER_VERIFIED: u8 = 1 << 2;
    /// Bits 6 and 7 of the flags announce data that no knock contains.
    pub const MORE_DATA: u8 = 0b1100_0000;

    /// Flags and counter as in a knock.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 5] {
        let [a, b, c, d] = self.counter.to_be_bytes();
        [self.flags, a, b, c, d]
    }

    const fn from_bytes([flags, a, b, c, d]: [u8; 5]) -> Self {
        Self { flags, counter: u32::from_be_bytes([a, b, c, d]) }
    }
}

impl RawSignature {
    /// Length in bytes without flags and counter.
    pub const LEN: usize = 64;
    /// Length in bytes with flags and counter.
    pub const LEN_FIDO: usize = 69;

    /// Reads the signature of a knock; `None` if its length is not that of the kind.
    #[must_use]
    pub fn read(kind: PublicKeyKind, bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.split_first_chunk()?;
        Some(Self { numbers: *numbers, fido: fido(kind, rest)? })
    }

    /// Converts the signature in an answer of ssh-agent.
    ///
    /// # Errors
    /// If it is not exactly of the form of the kind.
    pub fn from_agent(kind: PublicKeyKind, blob: &[u8]) -> Result<Self, SignatureError> {
        use SignatureError::{Algorithm, Encoding};

        let mut rest = blob;
        let mut string = || strings::take(&mut rest).ok_or(Encoding);
        if string()? != kind.algorithm().as_bytes() {
            return Err(Algorithm);
        }
        let mut signature = string()?;
        let fido = fido(kind, rest).ok_or(Encoding)?;
        if !kind.is_ecdsa() {
            return Self::ed25519(signature.try_into().map_err(|_| Encoding)?, fido);
        }
        let mut integer = || strings::take(&mut signature).ok_or(Encoding);
        let (r, s) = (integer()?, integer()?);
        if signature.is_empty() { Self::ecdsa(r, s, fido) } else { Err(Encoding) }
    }

    /// Converts an ECDSA signature from X9.62 DER, the form of devices; `fido` for a FIDO device only.
    ///
    /// # Errors
    /// If it is not exactly of this form.
    pub fn from_der(der: &[u8], fido: Option<FidoData>) -> Result<Self, SignatureError> {
        let mut rest = der;
        let sequence = der_value(&mut rest, DER_SEQUENCE);
        let (Some(mut numbers), []) = (sequence, rest) else { return Err(SignatureError::Encoding) };
        let (r, s) = (der_value(&mut numbers, DER_INTEGER), der_value(&mut numbers, DER_INTEGER));
        let (Some(r), Some(s), []) = (r, s, numbers) else { return Err(SignatureError::Encoding) };
        Self::ecdsa(r, s, fido)
    }

    /// The form in a knock: 64 bytes, or 69 with flags and counter.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.numbers.to_vec();
        bytes.extend(self.fido.map(FidoData::to_bytes).into_iter().flatten());
        bytes
    }

    /// Flags and counter; FIDO kinds only.
    #[must_use]
    pub const fn fido(&self) -> Option<FidoData> {
        self.fido
    }

    pub(super) const fn numbers(&self) -> &[u8; Self::LEN] {
        &self.numbers
    }

    fn ed25519(numbers: &[u8; Self::LEN], fido: Option<FidoData>) -> Result<Self, SignatureError> {
        let s = numbers.iter().skip(32);
        if s.rev().ge(ED25519_L.iter().rev()) {
            return Err(SignatureError::Range);
        }
        Ok(Self { numbers: *numbers, fido })
    }

    fn ecdsa(r: &[u8], s: &[u8], fido: Option<FidoData>) -> Result<Self, SignatureError> {
        let mut numbers = [0; Self::LEN];
        let integers = [integer(r)?, integer(s)?];
        if integers.iter().any(|number| *number == [0; 32] || *number >= P256_N) {
            return Err(SignatureError::Range);
        }
        for (place, byte) in numbers.iter_mut().zip(integers.iter().flatten()) {
            *place = *byte;
        }
        Ok(Self { numbers, fido })
    }
}

/// The bytes that follow the numbers: exactly flags and counter for FIDO kinds, and nothing for others.
fn fido(kind: PublicKeyKind, bytes: &[u8]) -> Option<Option<FidoData>> {
    if kind.is_fido() {
        bytes.try_into().ok().map(FidoData::from_bytes).map(Some)
    } else {
        bytes.is_empty().then_some(None)
    }
}

/// A positive number in the minimal form that mpint (RFC 4251) and DER share, as 32 bytes.
fn integer(bytes: &[u8]) -> Result<[u8; 32], SignatureError> {
    let digits = match bytes {
        [0, rest @ ..] if rest.first().is_some_and(|first| *first >= 0x80) => rest,
        [1..=0x7F, ..] => bytes,
        _ => return Err(SignatureError::Mpint),
    };
    let zeros = 32_usize.checked_sub(digits.len()).ok_or(SignatureError::Mpint)?;
    let mut number = [0; 32];
    for (place, digit) in number.iter_mut().skip(zeros).zip(digits) {
        *place = *digit;
    }
    Ok(number)
}

/// Takes a value with this tag and a length in short form from the front of `bytes`.
fn der_value<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let ([found, length], rest) = bytes.split_first_chunk()?;
    if *found != tag || *length > DER_SHORT_MAX {
        return None;
    }
    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_der_value_has_the_wanted_tag_and_a_length_in_short_form() {
        for (tag, length, available, expected) in [
            (0x02, 3, 3, Some(3)),
            (0x02, 3, 5, Some(3)),
            (0x02, 0, 5, Some(0)),
            (0x02, 127, 127, Some(127)),
            (0x02, 128, 200, None),
            (0x02, 3, 2, None),
            (0x30, 3, 3, None),
        ] {
            let bytes = [vec![tag, length], vec![7; available]].concat();
            let mut rest = bytes.as_slice();
            assert_eq!(der_value(&mut rest, 0x02).map(<[u8]>::len), expected, "{tag} {length} {available}");
            let left = expected.map_or(bytes.len(), |taken| available - taken);
            assert_eq!(rest.len(), left, "nothing is taken without a value: {tag} {length} {available}");
        }
    }
}
