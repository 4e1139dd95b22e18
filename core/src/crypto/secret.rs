//! 32 secret bytes that are wiped on drop and cannot be printed.

use zeroize::Zeroize;

use super::random::{self, RandomError};

/// 32 secret bytes. They have no `Debug`, no `Display` and no `PartialEq`, and are wiped on drop. They are boxed, so
/// that moving a secret, or a list of secrets, leaves no copy in memory.
#[derive(Clone)]
pub struct Secret(Box<[u8; Self::LEN]>);

impl Secret {
    /// Length of a secret in bytes.
    pub const LEN: usize = 32;

    /// Copies the bytes; the caller must wipe the original.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self(Box::new(*bytes))
    }

    /// Generates a secret from the system's random numbers.
    ///
    /// # Errors
    /// If the system's random number generator fails.
    pub fn generate() -> Result<Self, RandomError> {
        let mut secret = Self(Box::new([0; Self::LEN]));
        random::fill(secret.0.as_mut_slice())?;
        Ok(secret)
    }

    /// The bytes, for the few places that need them.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_secret_is_never_the_same_twice() {
        let secrets: Vec<Secret> = (0..16).map(|_| Secret::generate().unwrap()).collect();
        for (n, secret) in secrets.iter().enumerate() {
            assert!(secrets[..n].iter().all(|other| other.expose() != secret.expose()));
            assert_ne!(secret.expose(), &[0; Secret::LEN]);
        }
    }
}
