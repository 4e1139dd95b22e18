//! Which points of a curve can be a public key.

use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::rand::SystemRandom;

use super::public_key::PublicKeyError;

/// p = 2²⁵⁵ − 19, little-endian.
const ED25519_P: [u8; 32] = {
    let mut p = [0xFF; 32];
    (p[0], p[31]) = (0xED, 0x7F);
    p
};
/// The greatest canonical y coordinate, p − 1.
const MINUS_ONE: [u8; 32] = {
    let mut y = ED25519_P;
    y[0] = 0xEC;
    y
};
/// The y coordinates of the points of order 8.
const ORDER_8: [[u8; 32]; 2] = [
    [
        0x26, 0xE8, 0x95, 0x8F, 0xC2, 0xB2, 0x27, 0xB0, 0x45, 0xC3, 0xF4, 0x89, 0xF2, 0xEF, 0x98, 0xF0, 0xD5,
        0xDF, 0xAC, 0x05, 0xD3, 0xC6, 0x33, 0x39, 0xB1, 0x38, 0x02, 0x88, 0x6D, 0x53, 0xFC, 0x05,
    ],
    [
        0xC7, 0x17, 0x6A, 0x70, 0x3D, 0x4D, 0xD8, 0x4F, 0xBA, 0x3C, 0x0B, 0x76, 0x0D, 0x10, 0x67, 0x0F, 0x2A,
        0x20, 0x53, 0xFA, 0x2C, 0x39, 0xCC, 0xC6, 0x4E, 0xC7, 0xFD, 0x77, 0x92, 0xAC, 0x03, 0x7A,
    ],
];

/// Checks an Ed25519 key: its y coordinate must be below p, and its order must not be small, because anyone can make
/// signatures for such a key.
pub(super) fn check_ed25519(key: &[u8; 32]) -> Result<(), PublicKeyError> {
    let [rest @ .., top] = *key;
    let [mut y, zero, mut one] = [[0; 32]; 3];
    let ([start @ .., last], [first, ..]) = (&mut y, &mut one);
    // The top bit is the sign of x.
    (*start, *last, *first) = (rest, top & 0x7F, 1);
    let is_small = [zero, one, MINUS_ONE].contains(&y) || ORDER_8.contains(&y);
    let is_canonical = y.iter().rev().lt(ED25519_P.iter().rev());
    if is_small || !is_canonical { Err(PublicKeyError::Point) } else { Ok(()) }
}

/// Checks a P-256 point: uncompressed, with coordinates below p, and on the curve. An agreement with a key of no further
/// use makes these checks; `ring` offers no other way to make them without a signature.
pub(super) fn check_p256(point: &[u8]) -> Result<(), PublicKeyError> {
    let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())
        .map_err(|_| PublicKeyError::Random)?;
    agree_ephemeral(own, &UnparsedPublicKey::new(&ECDH_P256, point), |_| ())
        .map_err(|_| PublicKeyError::Point)
}
