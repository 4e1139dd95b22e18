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
    /// That someone was present, as OpenSSH calls it.
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

    /// What the user must be, in OpenSSH's words.
    #[must_use]
    pub const fn required(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Pin => "verified",
        }
    }
}

/// Why the statement of a FIDO device is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FidoFault {
    /// The device does not state that someone was present, or it announces data that no knock contains.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_must_state_presence_and_for_pin_also_its_owner_and_no_further_data() {
        for flags in 0..=u8::MAX {
            let is_set = |bit: u32| flags & (1 << bit) != 0;
            // WebAuthn, section 6.1: bit 0 is the presence, bit 2 the owner, bits 6 and 7 announce data.
            let present = is_set(0) && !is_set(6) && !is_set(7);
            let fido = FidoData { flags, counter: 1 };
            let expected = if present { Ok(()) } else { Err(FidoFault::Presence) };
            assert_eq!(Touch::Present.check(fido), expected, "{flags:#x}");
            let expected = expected.and(if is_set(2) { Ok(()) } else { Err(FidoFault::Pin) });
            assert_eq!(Touch::Pin.check(fido), expected, "{flags:#x}");
        }
    }

    #[test]
    fn a_requirement_has_its_name_in_the_config_and_the_word_of_openssh() {
        assert_eq!([Touch::Present, Touch::Pin].map(Touch::as_str), ["present", "pin"]);
        assert_eq!([Touch::Present, Touch::Pin].map(Touch::required), ["present", "verified"]);
        assert_eq!(Touch::default(), Touch::Present);
    }
}
