//! The secret of `keys.example`, which is public and must not be used.

/// Its 32 bytes; `keys.example` holds them as text.
pub(in crate::crypto) const EXAMPLE: &[u8; 32] = b"example only: everybody has it!!";
