//! The configuration of fwknop's client, `.fwknoprc`: text in, checked values out, with the line of everything that is
//! ignored or wrong. No I/O.

mod file;
mod options;
mod text;
mod values;
mod variables;

pub use file::{ClientFile, ClientStanza, StanzaLine, parse_client};
pub use options::{ClientOptions, KeyBytes};
pub use values::{
    AllowedAddress, CLIENT_HMAC_KEY_MAX, ClientTimeout, InvalidValue, NatHost, NatPort, PacketTransport,
    PortList, TimeOffset,
};
