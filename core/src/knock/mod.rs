//! The values of a knock, in types that can be created only by parsing or checking them.

mod knock_range;
mod port;

mod address;
mod name;
mod prefix;
mod reply;
mod request;
mod source;
mod time;
mod version;

pub use address::{AddressPolicy, canonical, mapped};
pub use knock_range::{InvalidKnockRange, KnockRange, SLICE, SLICES, TimeStep};
pub use name::{ActionName, Argument, ClientName, InvalidName, ServerId};
pub use port::{InvalidPortSpec, PortRange, PortSpec, Protocol};
pub use prefix::{InvalidPrefix, Prefix, PrefixLengths};
pub use reply::{Reply, ReplyStatus, ReplyText};
pub use request::{Knock, ReplyWanted};
pub use source::{Addresses, InvalidSource, SourceOption};
pub use time::{BootTime, Now, Steady, Timestamp};
pub use version::ProtocolVersion;

#[cfg(test)]
pub(crate) use request::samples::open_ssh;
