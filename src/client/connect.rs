//! `connect`: a knock, then a TCP connection in its place, for programs that let another one make theirs.

use std::net::SocketAddr;

use super::args::ConnectArgs;
use super::failure::ClientError;
use super::knock::request::KnockRequest;
use super::knock::route::resolve;
use super::knock::wait;
use super::report::Reporter;
use super::{carry_out, relay};

/// Knocks, connects, and joins standard input and output to the connection.
pub(super) fn connect(args: ConnectArgs) -> Result<(), ClientError> {
    let report = Reporter::of(&args.manner);
    let (host, port) = (args.host.clone(), args.door);
    let request = KnockRequest::to_connect(args)?;
    // Ahead of the knock: a door that opens for a name that leads nowhere is open for nothing.
    let mut doors = resolve(&host, port, request.family, None)?;
    let (knocked, mut again) = carry_out(&request, &report)?;
    // The person is about to use what opens; only what goes wrong is worth a word.
    report.detail(|| knocked.text.clone());
    doors.sort_by_key(|door| rank(door, &knocked.servers));
    let patience = request.patience.unwrap_or(request.timeout);
    let stream = wait::for_connection(&doors, patience, again.as_deref_mut(), &report)?;
    relay::join(&stream)
}

/// The addresses that were knocked at come first, then those of the first one's family: the door is open for an address
/// of it.
fn rank(door: &SocketAddr, knocked: &[SocketAddr]) -> usize {
    let like_first = knocked.first().is_some_and(|first| first.is_ipv4() == door.is_ipv4());
    let otherwise = knocked.len().saturating_add(usize::from(!like_first));
    knocked.iter().position(|server| server.ip() == door.ip()).unwrap_or(otherwise)
}
