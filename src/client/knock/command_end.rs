//! The end of what a knock has started (`--wait-done`): copies of the knock ask for it, and the server reports it in a
//! second reply.

use std::time::Duration;

use super::exchange::{Exchange, ReceivedReply, Resend};
use super::request::KnockRequest;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::report::Reporter;
use crate::os::clock;
use spa_knock_core::knock::{Reply, ReplyStatus, ReplyText};

/// When copies ask for the end, counted from the first reply (`docs/protocol.md`, section 4).
const COPIES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1500), Duration::from_millis(3500)];
/// A copy that comes later than 10 s after the first reply is a replay for the server.
const COPY_AGE_MAX: Duration = Duration::from_secs(8);
/// Address translations forget a mapping after 30 s without a packet (RFC 4787 asks for 120 s).
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How often the person who waits sees the time.
const TICK: Duration = Duration::from_secs(1);

/// How far the commands of an action are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum CommandStage {
    /// They have started.
    Started,
    /// They have ended well.
    Ended,
    /// There are none, or the server does not report it.
    Unknown,
}

impl CommandStage {
    /// What a reply without a refusal reports.
    pub(in crate::client) fn of(reply: &Reply) -> Self {
        match reply.text.as_str() {
            ReplyText::STARTED => Self::Started,
            ReplyText::DONE => Self::Ended,
            _ => Self::Unknown,
        }
    }
}

/// The last reply to the knock that `first` answers. Where that is the last one, it is returned.
pub(in crate::client) fn await_end(
    request: &KnockRequest,
    exchange: &mut Exchange<'_>,
    first: ReceivedReply,
    patience: Duration,
    report: &Reporter,
) -> Result<ReceivedReply, ClientError> {
    let name = || format!("{}: {}", request.server, request.action);
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
                ExitCause::NoReply,
                format!(
                    "{} started; its end was not reported within {}",
                    name(),
                    humantime::format_duration(patience)
                ),
            )
            .hint("give it more time with --timeout, or read the server's audit log"));
        }
        progress.say(|| format!("{} runs ({} s)", name(), now.since(start).as_secs()));
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
        let Some(heard) = exchange.receive(until, Resend::No) else { continue };
        match (heard.reply.status, CommandStage::of(&heard.reply)) {
            (ReplyStatus::Granted | ReplyStatus::Done, CommandStage::Ended) => {
                return Ok(ReceivedReply { round_trip: first.round_trip, ..heard });
            }
            (ReplyStatus::ActionFailed, _) => {
                drop(progress);
                let why = heard.reply.text.as_str();
                let why = if why.is_empty() { "the server does not report why" } else { why };
                return Err(ClientError::new(ExitCause::Failed, format!("{} failed: {why}", name()))
                    .hint("the server's log has the output of the command"));
            }
            // A copy of the first reply.
            _ => {}
        }
    }
}
