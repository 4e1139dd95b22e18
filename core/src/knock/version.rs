//! The versions of the protocol.

/// A version of the protocol. The key of a client determines it; nothing is negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolVersion {
    /// The pair secret alone authenticates a knock.
    V1,
    /// The body also contains an SSH signature.
    V2,
}

impl ProtocolVersion {
    /// The number in bodies and replies.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}
