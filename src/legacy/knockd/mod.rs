//! Knock sequences as in knockd 0.8: the grammar of its config, which packets open which door, one-time sequences, and
//! the messages of its log. Does not access files or the clock.
//!
//! Keeps knockd's behavior where configs and log readers depend on it. Fixes these defects: the end of one source's
//! attempt discarded the attempts of others; a door whose sequence is a prefix of another's could block it; the number
//! of attempts was unlimited; timeouts were noticed only when the next packet arrived; the last one-time sequence
//! stopped all doors.

mod attempts;
mod command;
mod door;
mod flags;
mod grammar;
mod host_name;
mod index;
mod log;
mod matcher;
mod number;
mod one_time;
mod sequence;

pub use command::{Orders, ShellCommand, TruncatedCommand};
pub use door::{Door, DoorTarget, GrantSpec};
pub use flags::{FlagTest, UnknownFlag};
pub use grammar::{Config, ConfigError, KnockdOptions};
pub use host_name::{HostName, InvalidHostName};
pub use log::{LogMessage, LoggedSource, line};
pub use matcher::{LegacyPacket, MatchEvent, MatchStage, Matcher};
pub use one_time::OneTimeList;
pub use sequence::{KnockSequence, SequenceError, SequencePort};
