//! Waits for the end of a command that a knock has started (`--wait-done`): copies of the knock ask for it, and the
//! server reports it in a second reply.

use std::time::Duration;

use super::exchange::{Exchange, ReceivedReply, Resend};
use super::request::KnockRequest;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::Reporter;
use crate::os::clock;
use spa_knock_core::knock::{Reply, ReplyStatus, ReplyText};

/// When copies are sent to ask for the end, from the first reply on (`docs/internals/protocol.md`, section 4).
const COPIES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1500), Duration::from_millis(3500)];
/// Maximum age of a knock that is copied. More than 10 s after the first reply, the server treats a copy as a replay.
const COPY_AGE_MAX: Duration = Duration::from_secs(8);
/// Interval of keep-alive packets. Some NATs drop a mapping after 30 s without a packet (RFC 4787 requires 120 s).
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How often the status line is updated.
const TICK: Duration = Duration::from_secs(1);

/// The state of an action's commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum CommandStage {
    /// They have started.
    Started,
    /// They have succeeded.
    Ended,
    /// There are none, or the server does not report their state.
    Unknown,
}

impl CommandStage {
    /// The state in a reply that is no refusal.
    pub(in crate::client) fn of(reply: &Reply) -> Self {
        match reply.text.as_str() {
            ReplyText::STARTED => Self::Started,
            ReplyText::DONE => Self::Ended,
            _ => Self::Unknown,
        }
    }
}

/// Waits for the last reply to the knock whose first reply is `first`, for at most `patience`. Returns `first` if no
/// other reply follows. `origin` names the server if there are several.
///
/// # Errors
/// If the command failed, or its end was not reported in time.
pub(in crate::client) fn await_end(
    request: &KnockRequest,
    exchange: &mut Exchange<'_>,
    first: ReceivedReply,
    patience: Duration,
    origin: Option<&str>,
    report: &Reporter,
) -> Result<ReceivedReply, ClientError> {
    let name = || {
        let at = origin.map(|origin| format!(" at {origin}")).unwrap_or_default();
        format!("{}: {}{at}", request.server, request.action)
    };
    match CommandStage::of(&first.reply) {
        CommandStage::Started => {}
        CommandStage::Ended => return Ok(first),
        CommandStage::Unknown => {
            report.note(&format!("{}: the server reports no command to wait for", name()));
            return Ok(first);
        }
    }
    report.detail(|| format!("{} started; waiting for its end", name()));
    let start = clock::steady();
    let end = start.plus(patience);
    let mut copies = COPIES.into_iter().map(|after| start.plus(after)).peekable();
    let mut alive = start.plus(KEEP_ALIVE);
    let mut progress = report.progress();
    loop {
        let now = clock::steady();
        if now >= end {
            drop(progress);
            return Err(ClientError::new(
                ExitCause::EndUnknown,
                format!(
                    "{} started; the server did not report its end within {}",
                    name(),
                    humantime::format_duration(patience)
                ),
            )
            .hint("allow more time with --timeout, or read the server's audit log"));
        }
        progress.show(|| format!("{} is running ({} s)", name(), now.since(start).as_secs()));
        if copies.next_if(|&due| now >= due).is_some() {
            if exchange.age(first.knock) < COPY_AGE_MAX {
                exchange.send_copy(first.knock);
            }
            continue;
        }
        if now >= alive {
            exchange.keep_alive();
            alive = now.plus(KEEP_ALIVE);
        }
        let until = copies.peek().copied().unwrap_or(end).min(alive).min(end).min(now.plus(TICK));
        let Some(received) = exchange.receive(until, Resend::No) else { continue };
        match (received.reply.status, CommandStage::of(&received.reply)) {
            (ReplyStatus::Granted | ReplyStatus::Done, CommandStage::Ended) => {
                return Ok(ReceivedReply { round_trip: first.round_trip, ..received });
            }
            (ReplyStatus::ActionFailed, _) => {
                drop(progress);
                let reason = received.reply.text.as_str();
                let reason = if reason.is_empty() { "the server reports no reason" } else { reason };
                return Err(ClientError::new(ExitCause::Failed, format!("{} failed: {reason}", name()))
                    .hint("see the server's log for the output of the command"));
            }
            // A copy of the first reply.
            _ => {}
        }
    }
}
