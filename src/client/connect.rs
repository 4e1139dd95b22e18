//! `connect`: knocks, then opens a TCP connection, for programs such as ssh that let another program connect for them.

use std::net::{SocketAddr, TcpStream};

use super::args::ConnectArgs;
use super::failure::ClientError;
use super::fan_out::FanOut;
use super::knock::request::{ClientRequest, KnockRequest, check_printable};
use super::knock::route::{resolve, unbracketed};
use super::knock::wait;
use super::report::Reporter;
use super::{carry_out, fan_out, relay};

/// Knocks, connects, and joins standard input and output to the connection.
pub(super) fn connect(args: ConnectArgs) -> Result<(), ClientError> {
    let report = Reporter::of(&args.common);
    let (host, port) = (args.host.clone(), args.connect_port);
    let is_server = args.host == args.server;
    check_printable("HOST", &host)?;
    let request = ClientRequest::to_connect(args)?;
    let stream = match &request {
        ClientRequest::One(one) => {
            // ssh passes the name of a profile as HOST, too, where its own config has no HostName.
            let host = if is_server { one.target.host.clone() } else { host };
            connect_to_host(&request, one, &host, port, &report)
        }
        ClientRequest::Several(several) if is_server || is_address_of(several, &host) => {
            fan_out::connect(several, port, &report).map(|(stream, _)| stream)
        }
        ClientRequest::Several(several) => {
            // As for one server: no port should open for a host name that cannot be resolved.
            let addresses = resolve(&host, port, several.family, None)?;
            connect_to_other(&request, &addresses, &report)
        }
    }?;
    relay::join(&stream)
}

fn connect_to_host(
    request: &ClientRequest,
    one: &KnockRequest,
    host: &str,
    port: u16,
    report: &Reporter,
) -> Result<TcpStream, ClientError> {
    // Before the knock: no port should open for a host name that cannot be resolved.
    let mut addresses = resolve(host, port, one.family, None)?;
    let (knocked, mut again) = carry_out(request, report)?;
    // On success the connection itself is the result; only failures are printed.
    report.detail(|| knocked.text.clone());
    addresses.sort_by_key(|address| rank(address, &knocked.servers));
    let patience = one.patience.unwrap_or(one.timeout);
    wait::for_connection(&addresses, patience, again.as_deref_mut(), report)
}

/// Connects to another host once one of several servers has granted.
fn connect_to_other(
    request: &ClientRequest,
    addresses: &[SocketAddr],
    report: &Reporter,
) -> Result<TcpStream, ClientError> {
    // The servers that grant later are not where the connection goes.
    let (knocked, _) = carry_out(request, report)?;
    report.detail(|| knocked.text.clone());
    wait::for_connection(addresses, request.patience().unwrap_or_default(), None, report)
}

/// Whether this is the address in the profile of the server whose addresses all get a knock.
fn is_address_of(fan_out: &FanOut, host: &str) -> bool {
    let request = match fan_out.members.as_slice() {
        [member] => member.request.as_ref().ok(),
        _ => None,
    };
    request.is_some_and(|request| request.member.is_none() && request.target.host == unbracketed(host))
}

/// Sort key: first the addresses that got a knock, then those of the family of the first one, because the port is open
/// for an address of that family.
fn rank(address: &SocketAddr, knocked: &[SocketAddr]) -> usize {
    let like_first = knocked.first().is_some_and(|first| first.is_ipv4() == address.is_ipv4());
    let otherwise = knocked.len().saturating_add(usize::from(!like_first));
    knocked.iter().position(|server| server.ip() == address.ip()).unwrap_or(otherwise)
}
