//! The options of a port sequence, from the command line.

use super::schedule::Gap;
use crate::client::args::PortModeArgs;
use crate::client::failure::{ClientError, ExitCause};
use spa_knock_core::knock::{InvalidKnockRange, KnockRange, Protocol};

/// The options of a port sequence.
#[derive(Clone, Copy)]
pub(in crate::client) struct PortMode {
    /// The knock range of the server.
    pub(in crate::client) knock_range: KnockRange,
    /// The type of the packets.
    pub(in crate::client) protocol: Protocol,
    /// The time between two packets.
    pub(in crate::client) gap: Gap,
}

impl PortMode {
    /// The options, if a port sequence is requested.
    ///
    /// # Errors
    /// If the knock range is invalid, also without `--ports`.
    pub(in crate::client) fn of(args: &PortModeArgs) -> Result<Option<Self>, ClientError> {
        let low =
            |error: InvalidKnockRange| ClientError::new(ExitCause::Usage, format!("--ports-low: {error}"));
        let mode = Self {
            knock_range: KnockRange::try_from(args.ports_low).map_err(low)?,
            protocol: args.ports_proto,
            gap: args.ports_gap.map_or(Gap::Usual, Gap::Fixed),
        };
        Ok(args.ports.then_some(mode))
    }
}
