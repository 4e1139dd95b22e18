//! Plain knock sequences, as knockd 0.8 has them: its config's grammar, which packets open which door, one-time
//! sequences, and the words of its log. Bytes, packets and times come in, data comes out; no file, no clock.
//!
//! knockd's behaviour is kept where configs and log readers depend on it. What is mended: no source's end costs
//! another its attempt, a door that is the beginning of another does not block it, attempts are bounded, timeouts can
//! be told when they happen, and the last one-time sequence closes its own door alone.

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
