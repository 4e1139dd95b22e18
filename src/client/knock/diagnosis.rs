//! Errors for knocks that opened nothing: the reason, as far as the client can know it, and a hint.

use std::net::IpAddr;

use super::request::KnockRequest;
use crate::client::failure::{ClientError, ExitCause};
use crate::os::clock;
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{ProtocolVersion, Reply, ReplyStatus};

/// The server refused. `by` names it if there are several.
pub(in crate::client) fn refused(request: &KnockRequest, reply: &Reply, by: &str) -> ClientError {
    let mut reason = format!("{}: {} refused{by}: {}", request.server, request.action, reply.status);
    if !reply.text.as_str().is_empty() {
        reason.push_str(&format!(" ({})", reply.text.as_str()));
    }
    match &request.signing {
        Some(signing) if reply.status == ReplyStatus::SignatureRefused => {
            reason.push_str(&format!("; the SSH key was {}", signing.fingerprint()));
        }
        _ => {}
    }
    let failure =
        ClientError::new(ExitCause::Refused, reason).hint(advice(reply, request.key.file.ssh_key.is_some()));
    // A reply without a knock's address has the unspecified one.
    if reply.observed.is_unspecified() { failure } else { failure.observed_at(reply.observed) }
}

/// The server did not reply. `tried` names the addresses.
pub(in crate::client) fn no_reply(
    request: &KnockRequest,
    tried: &str,
    fingerprint: Fingerprint,
) -> ClientError {
    let port = request.target.port;
    let reason = format!(
        "{}: no reply from {tried} port {port} within {}",
        request.server,
        humantime::format_duration(request.timeout)
    );
    ClientError::new(ExitCause::NoReply, reason).hint(format!(
        "run `spa-knockd explain --live` on the server and knock again: it prints why the knock is dropped.
If it prints nothing, or if you cannot log in there, check these possible causes:
  - spa-knockd is not running there, or has just started: start it, or try again
  - wrong key or server id: you used key {fingerprint} and server id {id}; compare with `spa-knockd client show NAME` there{ssh_key}
  - the clocks differ by more than the server's window: the time here is {time}; compare with `date -u` there
  - UDP port {port} is filtered: look for the knock on the server with `tcpdump -ni any udp port {port}`
  - the server sends no replies: try to connect; if that works, use --no-reply --wait PORT from now on",
        id = request.target.id,
        ssh_key = ssh_key_cause(request),
        time = clock::rfc3339(clock::wall()),
    ))
}

/// What can be wrong with the SSH key: the server has set none for this client, or requires one that was not used. The
/// fingerprint of a key is another one if an SSH key signs its knocks.
fn ssh_key_cause(request: &KnockRequest) -> String {
    let key = &request.key.file;
    let other = |version| key.fingerprint(version, &request.target.id);
    match &request.signing {
        None => format!(
            "\n  - the server requires an SSH key for this client: the same command then prints key {} and that SSH key; use --sign FILE.pub",
            other(ProtocolVersion::V2)
        ),
        Some(signing) => {
            let cause = format!(
                "\n  - no SSH key is set for this client there: the same command must print {}",
                signing.fingerprint()
            );
            match key.ssh_key {
                Some(_) => cause,
                None => format!(
                    "{cause}; if it prints key {} instead, remove --sign, and `sign` from the profile",
                    other(ProtocolVersion::V1)
                ),
            }
        }
    }
}

/// Two replies to one knock report different addresses. `origin` names the server if there are several.
pub(in crate::client) fn conflicting_replies(
    request: &KnockRequest,
    origin: Option<&str>,
    one: IpAddr,
    other: IpAddr,
) -> ClientError {
    let at = origin.map(|origin| format!(" at {origin}")).unwrap_or_default();
    ClientError::new(
        ExitCause::Refused,
        format!(
            "{}: two replies to one knock{at} report different addresses, {one} and {other}",
            request.server
        ),
    )
    .hint("someone on the path may be copying knocks; set your own address with --source ADDRESS")
}

/// What to do about a refusal. `is_named`: the key file names the SSH key.
fn advice(reply: &Reply, is_named: bool) -> String {
    match reply.status {
        ReplyStatus::AddressRefused => format!(
            "the server saw {}; if that is your address, use --source {}, or --source observed if the server allows it",
            reply.observed, reply.observed
        ),
        ReplyStatus::UnknownAction => {
            "check the spelling, or ask the server's administrator for the actions that this client is allowed to use"
                .to_owned()
        }
        ReplyStatus::NotAllowed => {
            "ask the server's administrator to check `allow` and `source` of this client".to_owned()
        }
        ReplyStatus::OtpRefused => {
            "use the code that your app shows now: --otp CODE, or --otp - to be prompted; each code works once"
                .to_owned()
        }
        ReplyStatus::Exhausted => {
            "wait, or ask the server's administrator to check `rate`, `expires` and the uses of this client".to_owned()
        }
        ReplyStatus::ActionFailed => "see the server's log for the reason".to_owned(),
        ReplyStatus::ArgumentRefused => {
            "use an ARGUMENT that the action accepts, e.g. tcp/8443, or none if the action takes none".to_owned()
        }
        ReplyStatus::NotUnderstood => {
            "client and server have different versions: update the older one".to_owned()
        }
        ReplyStatus::SignatureRefused => signature_advice(reply.text.as_str(), is_named).to_owned(),
        // Not refusals; the match must be complete.
        ReplyStatus::Granted | ReplyStatus::Done => "see the server's log for details".to_owned(),
    }
}

/// What to do about a signature that the server refused, for this reason (`docs/internals/protocol-2.md`, section 6).
fn signature_advice(reason: &str, is_named: bool) -> &'static str {
    match reason {
        "presence" => {
            "use a key that must be touched: the server refuses FIDO keys with no-touch-required; make one with `ssh-keygen -t ed25519-sk`"
        }
        "pin" => {
            "use a key with a PIN: the server requires one for this client (`touch = \"pin\"`); make one with `ssh-keygen -t ed25519-sk -O verify-required`"
        }
        "counter" => {
            "check whether someone has a copy of this FIDO key: its counter is lower than before; if you have reset the device, ask the server's administrator to run `spa-knockd client rotate NAME`"
        }
        // Another --sign would contradict the key file.
        _ if is_named => {
            "compare the SSH key with the one that `spa-knockd client show NAME` prints on the server; if they differ, ask the administrator to run `spa-knockd client rotate NAME --ssh-key FILE.pub` with the key that you use, and replace the key file by the new one"
        }
        _ => {
            "compare the SSH key with the one that `spa-knockd client show NAME` prints on the server; if they differ, use --sign FILE.pub, or ask the administrator to run `spa-knockd client rotate NAME --ssh-key FILE.pub`"
        }
    }
}
