//! What a client of protocol version 2 must sign with, and what its FIDO device must state.

use crate::auth::KeyLimit;
use crate::crypto::ssh::{FidoData, PublicKey};

/// The public key of a client, and what is required of its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSigner {
    /// The only key that can sign the client's knocks.
    pub public_key: PublicKey,
    /// What a FIDO device must state.
    pub touch: Touch,
    /// How many signed knocks of each of the client's keys are processed. The watcher, which cannot verify signatures,
    /// passes on more.
    pub limit: KeyLimit,
}

/// What a FIDO device must have checked before it signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Touch {
    /// That someone touched it.
    #[default]
    Present,
    /// Also the PIN or the fingerprint of its owner.
    Pin,
}

impl Touch {
    /// The name in the config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Pin => "pin",
        }
    }
}

/// Why the statement of a FIDO device is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FidoFault {
    /// No one touched the device, or it announces data that no knock contains.
    Presence,
    /// The device did not verify its owner.
    Pin,
}

impl Touch {
    /// Judges the flags of a device.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(self, fido: FidoData) -> Result<(), FidoFault> {
        let is_set = |bits| fido.flags & bits != 0;
        if !is_set(FidoData::USER_PRESENT) || is_set(FidoData::MORE_DATA) {
            Err(FidoFault::Presence)
        } else if self == Self::Pin && !is_set(FidoData::USER_VERIFIED) {
            Err(FidoFault::Pin)
        } else {
            Ok(())
        }
    }
}
