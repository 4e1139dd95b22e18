//! The result of a knock that was not refused, for scripts and as text.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::command_end::CommandStage;
use super::exchange::ReceivedReply;
use super::plan::Claim;
use super::route::Route;
use super::{Knocker, named};
use crate::client::report::Success;
use crate::config::AddressChoice;
use spa_knock_core::knock::{AddressPolicy, Reply, ReplyStatus, SourceOption};

/// A knock that was not refused.
#[derive(Debug)]
pub(in crate::client) struct KnockSuccess {
    /// Where the knock was sent; several addresses if no reply shows which of them works.
    pub(in crate::client) servers: Vec<SocketAddr>,
    /// The result for scripts.
    pub(in crate::client) success: Success,
    /// The result as human-readable text.
    pub(in crate::client) text: String,
}

impl Knocker<'_> {
    /// The end of "granted by", if one of several servers has granted; empty if there is only one.
    pub(in crate::client) fn by(&self, server: SocketAddr) -> String {
        self.origin(server).map_or_else(String::new, |origin| format!(" by {origin}"))
    }

    /// The name of an address of one of several servers; none if there is only one.
    pub(in crate::client) fn origin(&self, server: SocketAddr) -> Option<String> {
        let request = self.request;
        let is_one_of_several = request.member.is_some() || request.addresses == AddressChoice::All;
        is_one_of_several.then(|| origin(request.member.as_deref(), server.ip()))
    }

    /// The result that this reply reports.
    pub(in crate::client) fn success_of(&self, route: &Route, received: &ReceivedReply) -> KnockSuccess {
        let Reply { status, observed, seconds, text, .. } = &received.reply;
        let granted_to = match self.request.source {
            // Independent of the address that the knock came from.
            SourceOption::Listed(addresses) => {
                named(Claim { policy: AddressPolicy::Listed, addresses }).join(",")
            }
            SourceOption::Auto | SourceOption::Observed | SourceOption::Exact(_) => observed.to_string(),
        };
        let stage = CommandStage::of(&received.reply);
        let done = if stage == CommandStage::Started { "started" } else { "done" };
        let (result, name) = match status {
            ReplyStatus::Done => (done, done),
            _ => ("granted", "granted"),
        };
        let by = self.by(route.server);
        let mut line = format!("{}: {} {name}", self.request.server, self.request.action);
        if *seconds == 0 {
            line.push_str(&by);
        } else {
            let time = humantime::format_duration(Duration::from_secs((*seconds).into()));
            line.push_str(&match status {
                ReplyStatus::Done => format!("{by}; it will be undone in {time}"),
                _ => format!(" to {granted_to} for {time}{by}"),
            });
            if self.request.seconds > *seconds {
                line.push_str(", the maximum for this action");
            }
        }
        line.push_str(&match (status, stage) {
            (ReplyStatus::Granted, CommandStage::Started) => "; its command has started".to_owned(),
            (ReplyStatus::Granted, CommandStage::Ended) => "; its command has ended".to_owned(),
            (_, CommandStage::Unknown) if !text.as_str().is_empty() => format!(" ({})", text.as_str()),
            _ => String::new(),
        });
        let success = Success {
            address: Some(granted_to),
            seconds: Some(*seconds),
            server_time_ms: Some(received.reply.server_time.as_millis()),
            round_trip_ms: Some(milliseconds(received.round_trip)),
            ..self.success(result)
        };
        KnockSuccess { servers: vec![route.server], success, text: line }
    }

    /// The result of a knock that requests no reply.
    pub(in crate::client) fn sent(&self, route: &Route, claim: Claim) -> KnockSuccess {
        let text = format!(
            "{}: {} sent to {} port {}; no reply requested",
            self.request.server,
            self.request.action,
            self.origin(route.server).unwrap_or_else(|| route.server.ip().to_string()),
            route.server.port()
        );
        let addresses = named(claim).join(",");
        let address = Some(addresses).filter(|addresses| !addresses.is_empty());
        let success = Success { address, ..self.success("sent") };
        KnockSuccess { servers: vec![route.server], success, text }
    }

    fn success(&self, result: &'static str) -> Success {
        Success {
            result,
            action: self.request.action.to_string(),
            server: self.request.server.clone(),
            address: None,
            seconds: None,
            server_time_ms: None,
            round_trip_ms: None,
            servers: None,
        }
    }
}

/// The name of an address: that of the server in a group, with its address.
pub(in crate::client) fn origin(member: Option<&str>, address: IpAddr) -> String {
    match member {
        Some(name) if name != address.to_string() => format!("{name} ({address})"),
        _ => address.to_string(),
    }
}

/// Milliseconds with three decimals.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
