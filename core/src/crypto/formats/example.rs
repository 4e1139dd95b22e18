//! The secret of `keys.example`, which everybody knows and nobody may use.

/// Its 32 bytes; their text stands in `keys.example`.
pub(in crate::crypto) const EXAMPLE: &[u8; 32] = b"example only: everybody has it!!";
