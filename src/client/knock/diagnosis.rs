//! What to tell a person whose knock opened nothing: why, as far as the client can know, and what to do.

use std::net::{IpAddr, SocketAddr};

use super::listed;
use super::request::KnockRequest;
use crate::client::failure::{ClientError, ExitCause};
use crate::os::clock;
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{Reply, ReplyStatus};

/// The server said no.
pub(in crate::client) fn refused(request: &KnockRequest, reply: &Reply) -> ClientError {
    let mut reason = format!("{}: {} refused: {}", request.server, request.action, reply.status);
    if !reply.text.as_str().is_empty() {
        reason.push_str(&format!(" ({})", reply.text.as_str()));
    }
    ClientError::new(ExitCause::Refused, reason).hint(advice(reply))
}

/// The server said nothing.
pub(in crate::client) fn no_reply(
    request: &KnockRequest,
    servers: &[SocketAddr],
    fingerprint: Fingerprint,
) -> ClientError {
    let port = request.target.port;
    let reason = format!(
        "{}: no answer from {} port {port} within {}",
        request.server,
        listed(servers),
        humantime::format_duration(request.timeout)
    );
    ClientError::new(ExitCause::NoReply, reason).hint(format!(
        "run `spa-knockd explain --live` on the server and knock again: it prints why a knock is dropped.
If it prints nothing, or you cannot log in there, check these:
  - no spa-knockd runs there, or it has only just started: try again
  - wrong key or server id: this is key {fingerprint} at {id}; `spa-knockd client show NAME` there prints both
  - clocks apart by more than the server's window: here it is {time}; compare with `date -u` there
  - UDP port {port} is filtered: look for the knock on the server with `tcpdump -ni any udp port {port}`
  - the server gives no replies: try what you want to reach, and use --no-reply --wait PORT from then on",
        id = request.target.id,
        time = clock::rfc3339(clock::wall()),
    ))
}

/// Two answers to one knock name different addresses.
pub(in crate::client) fn conflicting_replies(
    request: &KnockRequest,
    one: IpAddr,
    other: IpAddr,
) -> ClientError {
    ClientError::new(
        ExitCause::Refused,
        format!("{}: two answers to one knock name different addresses, {one} and {other}", request.server),
    )
    .hint("somebody on the way may be copying knocks; name your own address with --source ADDRESS")
}

fn advice(reply: &Reply) -> String {
    match reply.status {
        ReplyStatus::AddressRefused => format!(
            "the server saw {}; if that is you: --source {}, or --source observed where the server allows it",
            reply.observed, reply.observed
        ),
        ReplyStatus::UnknownAction => "the server's config names its actions: [action.NAME]".to_owned(),
        ReplyStatus::NotAllowed => {
            "the server's admin decides: `allow` and `source` of this client".to_owned()
        }
        ReplyStatus::OtpRefused => {
            "give the code that the app shows now: --otp CODE, or --otp - to be asked; each works once"
                .to_owned()
        }
        ReplyStatus::Exhausted => {
            "wait, or ask the server's admin: `rate`, `expires` or the uses of this client".to_owned()
        }
        ReplyStatus::ActionFailed => "the server's log says why".to_owned(),
        ReplyStatus::ArgumentRefused => {
            "check ARGUMENT against what the action takes, e.g. tcp/8443".to_owned()
        }
        ReplyStatus::NotUnderstood => {
            "client and server are of different versions: update the older one".to_owned()
        }
        // No refusals; said all the same, should a server ever mean them so.
        ReplyStatus::Granted | ReplyStatus::Done => "the server's log says more".to_owned(),
    }
}
