//! Public keys of the four kinds that can sign a knock, and the verification of signatures.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use sha2::{Digest, Sha256};

use super::message::KnockMessage;
use super::signature::{FidoData, RawSignature};
use super::{SshFingerprint, point, strings};

const CURVE: &[u8] = b"nistp256";
/// What the application of a FIDO key of OpenSSH begins with. A browser's key has the name of a site.
const APPLICATION: &[u8] = b"ssh:";

/// The kind of a public key. It determines the algorithm and the size of the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PublicKeyKind {
    /// `ssh-ed25519`.
    Ed25519,
    /// `ecdsa-sha2-nistp256`.
    EcdsaP256,
    /// `sk-ssh-ed25519@openssh.com`: in a FIDO device.
    SkEd25519,
    /// `sk-ecdsa-sha2-nistp256@openssh.com`: in a FIDO device.
    SkEcdsa,
}

/// A public key that can sign knocks: its point has been checked.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: PublicKeyKind,
    blob: Vec<u8>,
    point: Vec<u8>,
    /// The SHA-256 of the application; FIDO kinds only.
    application: Option<[u8; 32]>,
}

/// Why a public key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// The text is not an algorithm, one space and base64.
    #[error("expected a public key such as ssh-ed25519 AAAA…")]
    Text,
    /// A kind that cannot sign knocks.
    #[error(
        "this kind of key cannot sign knocks (use ssh-ed25519, ecdsa-sha2-nistp256, sk-ssh-ed25519@openssh.com or sk-ecdsa-sha2-nistp256@openssh.com)"
    )]
    Kind,
    /// The text names another algorithm than the key.
    #[error("the text names another algorithm than the key itself")]
    Algorithm,
    /// Fields are missing or have wrong lengths, or bytes follow them.
    #[error("damaged: fields are missing, have wrong lengths or are followed by other bytes")]
    Encoding,
    /// The curve is not that of the algorithm.
    #[error("the curve is not nistp256")]
    Curve,
    /// The point is not a valid key: anyone or no one could make signatures for it.
    #[error("not a valid key: its point is not on the curve, not canonical or of small order")]
    Point,
    /// A FIDO key that was not made for SSH.
    #[error("a FIDO key that is not for SSH: its application does not start with ssh:")]
    Application,
    /// The system's random number generator failed.
    #[error("the system's random number generator failed")]
    Random,
}

/// Error: the key did not make this signature of this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the SSH key did not make this signature")]
pub struct BadSignature;

impl PublicKeyKind {
    const ALL: [Self; 4] = [Self::Ed25519, Self::EcdsaP256, Self::SkEd25519, Self::SkEcdsa];

    /// The SSH algorithm.
    #[must_use]
    pub const fn algorithm(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkEcdsa => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// OpenSSH's short name for the kind, as in `Confirm user presence for key ED25519-SK …`.
    #[must_use]
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ED25519",
            Self::EcdsaP256 => "ECDSA",
            Self::SkEd25519 => "ED25519-SK",
            Self::SkEcdsa => "ECDSA-SK",
        }
    }

    /// The length of the raw signature in bytes.
    #[must_use]
    pub const fn signature_len(self) -> usize {
        if self.is_fido() { RawSignature::LEN_FIDO } else { RawSignature::LEN }
    }

    /// Whether the key is in a FIDO device.
    #[must_use]
    pub const fn is_fido(self) -> bool {
        matches!(self, Self::SkEd25519 | Self::SkEcdsa)
    }

    /// Whether signatures are a pair of numbers r and s.
    #[must_use]
    pub const fn is_ecdsa(self) -> bool {
        matches!(self, Self::EcdsaP256 | Self::SkEcdsa)
    }

    fn named(algorithm: &[u8]) -> Result<Self, PublicKeyError> {
        let is_named = |kind: &Self| kind.algorithm().as_bytes() == algorithm;
        Self::ALL.into_iter().find(is_named).ok_or(PublicKeyError::Kind)
    }
}

impl PublicKey {
    /// Reads a public key's blob, as it is in a public key file and in the list of an agent.
    ///
    /// # Errors
    /// If the key cannot sign knocks.
    pub fn from_blob(blob: &[u8]) -> Result<Self, PublicKeyError> {
        use PublicKeyError::{Application, Curve, Encoding};

        let mut rest = blob;
        let mut string = || strings::take(&mut rest).ok_or(Encoding);
        let kind = PublicKeyKind::named(string()?)?;
        if kind.is_ecdsa() && string()? != CURVE {
            return Err(Curve);
        }
        let point = string()?;
        let application = if kind.is_fido() { Some(string()?) } else { None };
        if !rest.is_empty() {
            return Err(Encoding);
        }
        if application.is_some_and(|application| !application.starts_with(APPLICATION)) {
            return Err(Application);
        }
        if kind.is_ecdsa() {
            point::check_p256(point)?;
        } else {
            point::check_ed25519(point.try_into().map_err(|_| Encoding)?)?;
        }
        let application = application.map(|application| Sha256::digest(application).into());
        Ok(Self { kind, blob: blob.to_vec(), point: point.to_vec(), application })
    }

    /// The kind of the key.
    #[must_use]
    pub const fn kind(&self) -> PublicKeyKind {
        self.kind
    }

    /// The bytes of the key.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The fingerprint, as OpenSSH prints it.
    #[must_use]
    pub fn fingerprint(&self) -> SshFingerprint {
        SshFingerprint::of(&self.blob)
    }

    /// Verifies that the key signed `message`. Does not judge the FIDO flags and the counter, which are signed, too.
    ///
    /// # Errors
    /// If it did not.
    pub fn verify(&self, message: &KnockMessage, signature: &RawSignature) -> Result<(), BadSignature> {
        let algorithm: &dyn VerificationAlgorithm =
            if self.kind.is_ecdsa() { &ECDSA_P256_SHA256_FIXED } else { &ED25519 };
        let data = self.signed_bytes(message, signature.fido()).ok_or(BadSignature)?;
        let key = UnparsedPublicKey::new(algorithm, &self.point);
        key.verify(&data, signature.numbers()).map_err(|_| BadSignature)
    }

    /// The bytes that the key itself signs: for FIDO kinds, what the device signs (PROTOCOL.u2f of OpenSSH), without
    /// extensions. `None` if `fido` is missing for a FIDO key, or given for another one.
    #[must_use]
    pub fn signed_bytes(&self, message: &KnockMessage, fido: Option<FidoData>) -> Option<Vec<u8>> {
        let signed = message.signed_data();
        match (&self.application, fido) {
            (None, None) => Some(signed),
            (Some(application), Some(fido)) => {
                Some([application.as_slice(), &fido.to_bytes(), &Sha256::digest(signed)].concat())
            }
            _ => None,
        }
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    /// Reads a line of a public key file: algorithm, base64, and a comment, which is ignored.
    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let mut words = text.split_ascii_whitespace();
        let (Some(algorithm), Some(blob)) = (words.next(), words.next()) else {
            return Err(PublicKeyError::Text);
        };
        let kind = PublicKeyKind::named(algorithm.as_bytes())?;
        let blob = STANDARD.decode(blob).map_err(|_| PublicKeyError::Text)?;
        let mut rest = blob.as_slice();
        if strings::take(&mut rest).is_some_and(|inner| inner != algorithm.as_bytes()) {
            return Err(PublicKeyError::Algorithm);
        }
        Self::from_blob(&blob).inspect(|key| debug_assert_eq!(key.kind, kind))
    }
}

/// The line of a public key file, without a comment.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.algorithm(), STANDARD.encode(&self.blob))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
