//! Fan-out: knocks at several servers, or at all addresses of one, simultaneously. Each address has a thread, which
//! knocks as for a single address: with a nonce, a claim and replies of its own. The first grant is the result.

pub(super) mod dry_run;
mod gathering;
mod grace;
pub(super) mod outcome;
mod request;
mod target;

pub(super) use request::{FanOut, Member, choose};

use gathering::Gathering;

use super::failure::ClientError;
use super::knock::KnockSuccess;
use super::report::Reporter;

/// Knocks at all servers. If a connection follows, returns at the first grant; otherwise it waits for the outcome at
/// each server, but not long for servers that do not reply.
///
/// # Errors
/// If no server grants. The error has the outcome at each.
pub(super) fn knock<'a>(
    request: &'a FanOut,
    report: &Reporter,
) -> Result<(KnockSuccess, Gathering<'a>), ClientError> {
    let mut gathering = Gathering::start(request, report);
    match request.patience {
        Some(_) => gathering.await_first(),
        None => gathering.await_all(),
    }
    let success = gathering.result()?;
    let _ = gathering.offer();
    Ok((success, gathering))
}

#[cfg(test)]
mod tests;
