//! Random numbers from the operating system.

use ring::rand::{SecureRandom, SystemRandom};

/// The system's random number generator failed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system's random number generator failed")]
pub struct RandomError;

/// Returns `N` random bytes.
///
/// # Errors
/// If the system's random number generator fails. The caller must then not create a secret.
pub fn random<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn fill(bytes: &mut [u8]) -> Result<(), RandomError> {
    SystemRandom::new().fill(bytes).map_err(|_| RandomError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_are_never_the_same_twice_and_every_byte_varies() {
        let drawn: Vec<[u8; 32]> = (0..64).map(|_| random().unwrap()).collect();
        for (n, bytes) in drawn.iter().enumerate() {
            assert!(!drawn[..n].contains(bytes));
        }
        // A byte that is the same in 64 draws has a probability of 2^-504.
        for place in 0..32 {
            assert!(drawn.iter().any(|bytes| bytes[place] != drawn[0][place]), "byte {place}");
        }
    }
}
