//! Knocks without a reply: one datagram. If the client waits for a port, the open port is the only sign of success: the
//! server's other addresses get a knock each until the port accepts.

use std::net::SocketAddr;
use std::time::Duration;

use super::request::KnockRequest;
use super::route::{Route, put};
use super::wait::KnockAgain;
use super::{KnockSuccess, Knocker, Unsent, plan};
use crate::client::failure::ClientError;
use crate::client::report::Reporter;
use crate::os::clock;
use crate::os::files::io_error_text;
use spa_knock_core::knock::Steady;

/// How long the port may stay closed before the client knocks at the next address: twice the time that the connection
/// attempts need to find a port that has opened after their first packet.
const DELAY: Duration = Duration::from_secs(1);

/// A knock without a reply, and the addresses that have not received one yet.
pub(in crate::client) struct UnansweredKnock<'a> {
    knocker: Knocker<'a>,
    waiting: std::vec::IntoIter<Route>,
    /// When to knock at the next address; none before the first knock.
    next: Option<Steady>,
}

/// Knocks at the first address to which a datagram can be sent; the others are left for [`KnockAgain`].
pub(in crate::client) fn knock<'a>(
    request: &'a KnockRequest,
    report: &'a Reporter,
) -> Result<(KnockSuccess, UnansweredKnock<'a>), ClientError> {
    let knocker = Knocker::new(request, report);
    let (routes, unsent) = knocker.routes()?;
    let servers: Vec<SocketAddr> = routes.iter().map(|route| route.server).collect();
    let mut unanswered = UnansweredKnock { knocker, waiting: routes.into_iter(), next: None };
    let knocked = unanswered.send_next(unsent)?;
    Ok((KnockSuccess { servers, ..knocked }, unanswered))
}

impl UnansweredKnock<'_> {
    fn send_next(&mut self, unsent: Unsent) -> Result<KnockSuccess, ClientError> {
        let sent = send_to_one(&self.knocker, &mut self.waiting, unsent)?;
        self.next = Some(clock::steady().plus(DELAY));
        Ok(sent)
    }
}

/// Sends one knock to the next address to which a datagram can be sent.
pub(in crate::client) fn send_to_one(
    knocker: &Knocker<'_>,
    routes: &mut impl Iterator<Item = Route>,
    mut unsent: Unsent,
) -> Result<KnockSuccess, ClientError> {
    for route in routes {
        let server = route.server;
        knocker.report.detail(|| format!("{}: own address {}", server.ip(), route.own));
        let claim = plan(knocker.request, &knocker.learned, &route).first_claim();
        match put(&route.socket, knocker.seal(server, claim)?.as_bytes()) {
            Ok(()) => return Ok(knocker.sent(&route, claim)),
            Err(error) => {
                knocker.report.detail(|| format!("{}: {}", server.ip(), io_error_text(&error)));
                unsent = Some((server, error));
            }
        }
    }
    Err(knocker.unreachable(unsent))
}

impl KnockAgain for UnansweredKnock<'_> {
    fn deadline(&self) -> Option<Steady> {
        (!self.waiting.as_slice().is_empty()).then_some(self.next).flatten()
    }

    fn notice(&self) -> Option<String> {
        None
    }

    fn knock(&mut self) -> Result<(), ClientError> {
        // It is no failure if nothing can be sent to the other addresses: the first knock has been sent.
        let _ = self.send_next(None);
        Ok(())
    }
}
