//! 32 secret bytes that are wiped when dropped and cannot be printed.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{RandomFailed, random};

/// 32 secret bytes. No `Debug`, no `Display`, no `PartialEq`; wiped on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// How many bytes a secret has.
    pub const LEN: usize = 32;

    /// Takes the bytes over; the caller wipes its own copy.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// A new secret from the system's random numbers.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<Self, RandomFailed> {
        random().map(Self)
    }

    /// The bytes, for the few places that must have them.
    #[must_use]
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}
