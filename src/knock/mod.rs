//! The vocabulary: what a knock says, in types whose `FromStr` is the only door.

mod address;
mod band;
mod door;
mod name;
mod prefix;
mod reply;
mod request;
mod source;
mod time;

pub use address::{AddressPolicy, canonical, mapped};
pub use band::{Band, InvalidBand, SLICE, SLICES, Step};
pub use door::{Door, InvalidDoor, Ports, Protocol};
pub use name::{ActionName, Argument, ClientName, InvalidName, ServerId};
pub use prefix::{InvalidPrefix, Prefix, PrefixLengths};
pub use reply::{Reply, ReplyText, Status};
pub use request::{Knock, ReplyWanted};
pub use source::{Addresses, InvalidSource, Source};
pub use time::{Now, Timestamp};
