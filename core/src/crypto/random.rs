//! The system's random numbers.

use ring::rand::{SecureRandom, SystemRandom};

/// The system gave no random numbers.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the system's random number generator failed")]
pub struct RandomError;

/// `N` random bytes.
///
/// # Errors
/// When the system has none; nothing secret may be made then.
pub fn random<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn fill(bytes: &mut [u8]) -> Result<(), RandomError> {
    SystemRandom::new().fill(bytes).map_err(|_| RandomError)
}
