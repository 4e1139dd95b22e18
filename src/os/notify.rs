//! Telling the service manager how we are: sd_notify(3), a datagram to the socket that it names.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::env;

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Started.
    Ready,
    /// About to end.
    Stopping,
}

/// Tells the service manager, if there is one. It is no error that it does not hear us.
pub fn tell(state: State) {
    let Some(address) = env::text("NOTIFY_SOCKET").and_then(|name| address(&name)) else { return };
    let text = match state {
        State::Ready => "READY=1",
        State::Stopping => "STOPPING=1",
    };
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to_addr(text.as_bytes(), &address);
    }
}

/// A path, or a name in the abstract namespace behind an `@`.
fn address(name: &str) -> Option<SocketAddr> {
    match name.strip_prefix('@') {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name).ok(),
        None => SocketAddr::from_pathname(name).ok(),
    }
}
