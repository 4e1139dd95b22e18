//! The body of version 2, which ends with an SSH signature: written by the client, verified by the keeper.

mod body;
mod knock;

pub use body::{SignedBody, VerifiedBody};
pub use knock::UnsignedKnock;
