//! Knocks without an answer: one datagram. Where a port is waited for, it is the answer, and the server's other
//! addresses get a knock each until it accepts.

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

/// How long the port may stay closed before the next address is knocked at: twice as long as the tries need to find
/// a port that has opened after their first packet.
const DELAY: Duration = Duration::from_secs(1);

/// The addresses that have not been knocked at.
pub(in crate::client) struct UnansweredKnock<'a> {
    knocker: Knocker<'a>,
    waiting: std::vec::IntoIter<Route>,
    /// When the next address is knocked at; none before the first.
    next: Option<Steady>,
}

/// Knocks at the first address that something can be sent to; the others are left for later.
pub(in crate::client) fn knock<'a>(
    request: &'a KnockRequest,
    report: &'a Reporter,
) -> Result<(KnockSuccess, UnansweredKnock<'a>), ClientError> {
    let knocker = Knocker::new(request, report);
    let (routes, unsent) = knocker.ways()?;
    let servers: Vec<SocketAddr> = routes.iter().map(|route| route.server).collect();
    let mut unanswered = UnansweredKnock { knocker, waiting: routes.into_iter(), next: None };
    let knocked = unanswered.send_next(unsent)?;
    Ok((KnockSuccess { servers, ..knocked }, unanswered))
}

impl UnansweredKnock<'_> {
    /// Sends one knock to the next address that something can be sent to.
    fn send_next(&mut self, mut unsent: Unsent) -> Result<KnockSuccess, ClientError> {
        for route in self.waiting.by_ref() {
            let (knocker, server) = (&self.knocker, route.server);
            knocker.report.detail(|| format!("{}: own address {}", server.ip(), route.own));
            let claim = plan(knocker.request, &knocker.learnt, &route).first_claim();
            match put(&route.socket, knocker.seal(server, claim)?.as_bytes()) {
                Ok(()) => {
                    self.next = Some(clock::steady().plus(DELAY));
                    return Ok(knocker.sent(&route, claim));
                }
                Err(error) => {
                    knocker.report.detail(|| format!("{}: {}", server.ip(), io_error_text(&error)));
                    unsent = Some((server, error));
                }
            }
        }
        Err(self.knocker.unreachable(unsent))
    }
}

impl KnockAgain for UnansweredKnock<'_> {
    fn deadline(&self) -> Option<Steady> {
        (!self.waiting.as_slice().is_empty()).then_some(self.next).flatten()
    }

    fn notice(&self) -> Option<String> {
        None
    }

    fn knock(&mut self) -> Result<(), ClientError> {
        // That nothing can be sent to the others is no failure: the first knock is on its way.
        let _ = self.send_next(None);
        Ok(())
    }
}
