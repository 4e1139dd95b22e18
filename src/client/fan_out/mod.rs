//! Fan-out: knocks at several servers, or at all addresses of one, simultaneously. Each address has a thread, which
//! knocks as for a single address: with a nonce, a claim and replies of its own. The first grant is the result.

mod connections;
pub(super) mod dry_run;
mod gathering;
mod grace;
pub(super) mod outcome;
mod request;
mod target;

pub(super) use request::{FanOut, Member, choose};

use std::net::TcpStream;

use gathering::Gathering;

use super::failure::ClientError;
use super::knock::KnockSuccess;
use super::report::Reporter;

/// Knocks at all servers. If a connection follows, returns at the first grant; otherwise it waits for the outcome at
/// each server, but not long for servers that do not reply.
///
/// # Errors
/// If no server grants. The error has the outcome at each.
pub(super) fn knock(request: &FanOut, report: &Reporter) -> Result<KnockSuccess, ClientError> {
    let mut gathering = Gathering::start(request, report);
    match request.patience {
        Some(_) => gathering.await_first(),
        None => gathering.await_all(),
    }
    gathering.result()
}

/// Knocks at all servers, and connects to TCP port `port` of the first one that grants and accepts the connection.
///
/// # Errors
/// If no server does both. The error has the outcome at each.
pub(super) fn connect(
    request: &FanOut,
    port: u16,
    report: &Reporter,
) -> Result<(TcpStream, KnockSuccess), ClientError> {
    let mut gathering = Gathering::start(request, report);
    // With `--wait-done`, all commands must have ended well before anything else follows.
    if request.end {
        gathering.await_all()
    } else {
        gathering.await_first()
    }
    let first = gathering.result()?;
    report.detail(|| format!("{}: connecting to tcp port {port}", first.success.server));
    let connection = gathering.connect(port, request.patience.unwrap_or(request.timeout), report);
    let accepted = connection.as_ref().ok().and_then(|stream| stream.peer_addr().ok());
    let knocked = gathering.success(accepted);
    match connection {
        Ok(stream) => Ok((stream, knocked)),
        Err(failure) => Err(failure.at_servers(knocked.success.servers)),
    }
}

#[cfg(test)]
mod tests;
