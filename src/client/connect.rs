//! `connect`: knocks, then opens a TCP connection, for programs such as ssh that let another program connect for them.

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
    let report = Reporter::of(&args.common);
    let (host, port) = (args.host.clone(), args.connect_port);
    let is_server = args.host == args.server;
    let request = KnockRequest::to_connect(args)?;
    // ssh passes the name of a profile as HOST, too, where its own config has no HostName.
    let host = if is_server { request.target.host.clone() } else { host };
    // Before the knock: no port should open for a host name that cannot be resolved.
    let mut addresses = resolve(&host, port, request.family, None)?;
    let (knocked, mut again) = carry_out(&request, &report)?;
    // On success the connection itself is the result; only failures are printed.
    report.detail(|| knocked.text.clone());
    addresses.sort_by_key(|address| rank(address, &knocked.servers));
    let patience = request.patience.unwrap_or(request.timeout);
    let stream = wait::for_connection(&addresses, patience, again.as_deref_mut(), &report)?;
    relay::join(&stream)
}

/// Sort key: first the addresses that got a knock, then those of the family of the first one, because the port is open
/// for an address of that family.
fn rank(address: &SocketAddr, knocked: &[SocketAddr]) -> usize {
    let like_first = knocked.first().is_some_and(|first| first.is_ipv4() == address.is_ipv4());
    let otherwise = knocked.len().saturating_add(usize::from(!like_first));
    knocked.iter().position(|server| server.ip() == address.ip()).unwrap_or(otherwise)
}
