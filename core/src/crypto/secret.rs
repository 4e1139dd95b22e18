//! 32 secret bytes that are wiped when dropped and cannot be printed.

use zeroize::Zeroize;

use super::random::{self, RandomError};

/// 32 secret bytes. No `Debug`, no `Display`, no `PartialEq`; wiped on drop. They lie behind a pointer, so that
/// moving a secret, or a list of them, leaves no copy behind.
#[derive(Clone)]
pub struct Secret(Box<[u8; Self::LEN]>);

impl Secret {
    /// How many bytes a secret has.
    pub const LEN: usize = 32;

    /// Takes the bytes over; the caller wipes its own copy.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self(Box::new(*bytes))
    }

    /// A new secret from the system's random numbers.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<Self, RandomError> {
        let mut secret = Self(Box::new([0; Self::LEN]));
        random::fill(secret.0.as_mut_slice())?;
        Ok(secret)
    }

    /// The bytes, for the few places that must have them.
    #[must_use]
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
