//! Every way in which an authentic knock can be refused, with its reply, its log text and its counter.

use std::fmt;

use super::keeper::fresh::Skew;
use super::keeper::otp::OtpError;
use super::record::AuditEvent;
use crate::knock::{ActionName, AddressPolicy, ReplyStatus};

/// Why an authentic knock was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The key is no longer configured: it was removed after the watcher had accepted the datagram.
    UnknownKey,
    /// Step 4: signed, but not encrypted with the same secret.
    DecryptionFailed,
    /// Step 5: the timestamp is outside the window.
    Stale(Skew),
    /// Step 6: accepted before, or with a timestamp that is not above the floor of the replay memory.
    Replayed,
    /// Step 6: the SSH signature, or what the FIDO device states.
    Signature(SignatureFault),
    /// Step 6: *exact*, but the source differs from the embedded address.
    AddressMismatch,
    /// Step 8: in a format that this version does not support.
    UnsupportedFormat,
    /// Step 8: no action has this name.
    UnknownAction(ActionName),
    /// Step 8: the action is not allowed for this client.
    NotAllowed(ActionName),
    /// Step 8: the address policy is not allowed for this client.
    PolicyNotAllowed(AddressPolicy),
    /// Step 8: *listed* without an address.
    NoAddressListed,
    /// Step 8: an address that is not that of one other host.
    UnusableAddress,
    /// Step 8: a link-local address whose interface is unknown or cannot be enforced.
    LinkLocal(&'static str),
    /// Step 8: the action has no forward target for this IP version.
    NoForwardTarget,
    /// Step 8: an argument that the action does not accept, or a missing argument.
    Argument(&'static str),
    /// Step 8: the client's key is no longer valid.
    Expired,
    /// Step 8: the one-time password is not valid.
    Otp(OtpError),
    /// Step 8: the client has exceeded its rate.
    RateExceeded,
    /// Step 8: the client has no uses left.
    UsesExhausted,
    /// Step 9: the client already holds the maximum number of grants.
    GrantsExceeded(u32),
}

/// Why the SSH signature of a knock was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureFault {
    /// The client's SSH key did not make it: a wrong key, a broken client or a stolen pair secret.
    Wrong,
    /// The FIDO device does not state that someone was present.
    Presence,
    /// The FIDO device did not verify its owner.
    Pin,
    /// The counter of the FIDO device has fallen.
    Counter,
    /// Dropped without verification: too many wrong signatures.
    Unverified,
}

/// A rejection without its details: the unit that is counted, with a stable machine-readable name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the rejection of its name")]
pub enum Reason {
    UnknownKey,
    DecryptionFailed,
    Stale,
    Replayed,
    Signature,
    Presence,
    Pin,
    Counter,
    Unverified,
    AddressMismatch,
    UnsupportedFormat,
    UnknownAction,
    NotAllowed,
    PolicyNotAllowed,
    NoAddressListed,
    UnusableAddress,
    LinkLocal,
    NoForwardTarget,
    Argument,
    Expired,
    OtpMissing,
    OtpWrong,
    OtpSkewed,
    OtpReused,
    OtpPaused,
    RateExceeded,
    UsesExhausted,
    GrantsExceeded,
}

impl Reason {
    /// All reasons, in the order of the checks.
    pub const ALL: [Self; 28] = [
        Self::UnknownKey,
        Self::DecryptionFailed,
        Self::Stale,
        Self::Replayed,
        Self::Signature,
        Self::Presence,
        Self::Pin,
        Self::Counter,
        Self::Unverified,
        Self::AddressMismatch,
        Self::UnsupportedFormat,
        Self::UnknownAction,
        Self::NotAllowed,
        Self::PolicyNotAllowed,
        Self::NoAddressListed,
        Self::UnusableAddress,
        Self::LinkLocal,
        Self::NoForwardTarget,
        Self::Argument,
        Self::Expired,
        Self::OtpMissing,
        Self::OtpWrong,
        Self::OtpSkewed,
        Self::OtpReused,
        Self::OtpPaused,
        Self::RateExceeded,
        Self::UsesExhausted,
        Self::GrantsExceeded,
    ];

    /// The audit event of a knock that was refused for this reason.
    #[must_use]
    pub const fn event(self) -> AuditEvent {
        match self {
            Self::Stale => AuditEvent::Stale,
            Self::Replayed => AuditEvent::Replayed,
            _ => AuditEvent::Refused,
        }
    }

    /// The name in `status --json` and in metrics. The meaning of a name never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown-key",
            Self::DecryptionFailed => "decryption-failed",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
            Self::Signature => "signature",
            Self::Presence => "presence",
            Self::Pin => "pin",
            Self::Counter => "counter",
            Self::Unverified => "unverified",
            Self::AddressMismatch => "address-mismatch",
            Self::UnsupportedFormat => "unsupported-format",
            Self::UnknownAction => "unknown-action",
            Self::NotAllowed => "not-allowed",
            Self::PolicyNotAllowed => "policy-not-allowed",
            Self::NoAddressListed => "no-address-listed",
            Self::UnusableAddress => "unusable-address",
            Self::LinkLocal => "link-local",
            Self::NoForwardTarget => "no-forward-target",
            Self::Argument => "bad-argument",
            Self::Expired => "expired",
            Self::OtpMissing => "otp-missing",
            Self::OtpWrong => "otp-wrong",
            Self::OtpSkewed => "otp-skewed",
            Self::OtpReused => "otp-reused",
            Self::OtpPaused => "otp-paused",
            Self::RateExceeded => "rate-exceeded",
            Self::UsesExhausted => "uses-exhausted",
            Self::GrantsExceeded => "grants-exceeded",
        }
    }
}

impl Rejection {
    /// The reason, as it is counted.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::UnknownKey => Reason::UnknownKey,
            Self::DecryptionFailed => Reason::DecryptionFailed,
            Self::Stale(_) => Reason::Stale,
            Self::Replayed => Reason::Replayed,
            Self::Signature(SignatureFault::Wrong) => Reason::Signature,
            Self::Signature(SignatureFault::Presence) => Reason::Presence,
            Self::Signature(SignatureFault::Pin) => Reason::Pin,
            Self::Signature(SignatureFault::Counter) => Reason::Counter,
            Self::Signature(SignatureFault::Unverified) => Reason::Unverified,
            Self::AddressMismatch => Reason::AddressMismatch,
            Self::UnsupportedFormat => Reason::UnsupportedFormat,
            Self::UnknownAction(_) => Reason::UnknownAction,
            Self::NotAllowed(_) => Reason::NotAllowed,
            Self::PolicyNotAllowed(_) => Reason::PolicyNotAllowed,
            Self::NoAddressListed => Reason::NoAddressListed,
            Self::UnusableAddress => Reason::UnusableAddress,
            Self::LinkLocal(_) => Reason::LinkLocal,
            Self::NoForwardTarget => Reason::NoForwardTarget,
            Self::Argument(_) => Reason::Argument,
            Self::Expired => Reason::Expired,
            Self::Otp(OtpError::Missing) => Reason::OtpMissing,
            // Every local user can read metrics, so these must not distinguish the two either.
            Self::Otp(OtpError::Wrong | OtpError::Future(_)) => Reason::OtpWrong,
            Self::Otp(OtpError::Past(_)) => Reason::OtpSkewed,
            Self::Otp(OtpError::Reused) => Reason::OtpReused,
            Self::Otp(OtpError::Paused(_)) => Reason::OtpPaused,
            Self::RateExceeded => Reason::RateExceeded,
            Self::UsesExhausted => Reason::UsesExhausted,
            Self::GrantsExceeded(_) => Reason::GrantsExceeded,
        }
    }

    /// The text for the client. It does not reveal that a one-time password will be valid later.
    #[must_use]
    pub fn reply_text(&self) -> String {
        match self {
            Self::Otp(OtpError::Future(_)) => Self::Otp(OtpError::Wrong).to_string(),
            Self::Signature(_) => self.reason().as_str().to_owned(),
            _ => self.to_string(),
        }
    }

    /// The status of the reply; `None` if there is no reply.
    #[must_use]
    pub const fn status(&self) -> Option<ReplyStatus> {
        match self {
            Self::UnknownKey
            | Self::DecryptionFailed
            | Self::Stale(_)
            | Self::Replayed
            | Self::Signature(SignatureFault::Unverified) => None,
            Self::Signature(_) => Some(ReplyStatus::SignatureRefused),
            Self::AddressMismatch
            | Self::NoAddressListed
            | Self::UnusableAddress
            | Self::LinkLocal(_)
            | Self::NoForwardTarget => Some(ReplyStatus::AddressRefused),
            Self::UnsupportedFormat => Some(ReplyStatus::NotUnderstood),
            Self::UnknownAction(_) => Some(ReplyStatus::UnknownAction),
            Self::NotAllowed(_) | Self::PolicyNotAllowed(_) => Some(ReplyStatus::NotAllowed),
            Self::Argument(_) => Some(ReplyStatus::ArgumentRefused),
            Self::Otp(_) => Some(ReplyStatus::OtpRefused),
            Self::Expired | Self::RateExceeded | Self::UsesExhausted | Self::GrantsExceeded(_) => {
                Some(ReplyStatus::Exhausted)
            }
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |apart: &std::time::Duration| apart.as_secs();
        match self {
            Self::UnknownKey => f.write_str("key is no longer in use"),
            Self::DecryptionFailed => f.write_str("signed but not encrypted with the same key"),
            Self::Stale(Skew::Behind(apart)) => write!(f, "timestamp is {} s old", seconds(apart)),
            Self::Stale(Skew::Ahead(apart)) => write!(f, "timestamp is {} s in the future", seconds(apart)),
            Self::Replayed => f.write_str("not new: accepted before, or older than the replay memory"),
            Self::Signature(fault) => fmt::Display::fmt(fault, f),
            Self::AddressMismatch => f.write_str("knock names a different address than it came from"),
            Self::UnsupportedFormat => f.write_str("knock format not supported by this version"),
            Self::UnknownAction(action) => write!(f, "no action named '{action}'"),
            Self::NotAllowed(action) => write!(f, "client cannot use action '{action}'"),
            Self::PolicyNotAllowed(policy) => write!(f, "client cannot use source '{policy}'"),
            Self::NoAddressListed => f.write_str("source 'listed' without an address"),
            Self::UnusableAddress => {
                f.write_str("address cannot be granted: not the address of another host")
            }
            Self::NoForwardTarget => f.write_str("no forward target for this IP version"),
            Self::LinkLocal(why) | Self::Argument(why) => f.write_str(why),
            Self::Expired => f.write_str("key has expired"),
            Self::Otp(OtpError::Missing) => f.write_str("one-time password required"),
            Self::Otp(OtpError::Wrong) => f.write_str("one-time password is wrong"),
            Self::Otp(OtpError::Past(apart)) => {
                write!(f, "one-time password is from {} s ago: check the clocks", seconds(apart))
            }
            Self::Otp(OtpError::Future(apart)) => write!(
                f,
                "one-time password is wrong; it is the code for {} s from now: check the clocks",
                seconds(apart)
            ),
            Self::Otp(OtpError::Reused) => {
                f.write_str("one-time password already used: wait for the next one")
            }
            Self::Otp(OtpError::Paused(left)) => {
                write!(f, "too many wrong one-time passwords: wait {} s", seconds(left).max(1))
            }
            Self::RateExceeded => f.write_str("too many knocks: wait and try again"),
            Self::UsesExhausted => f.write_str("key has no uses left"),
            Self::GrantsExceeded(limit) => {
                write!(f, "too many active grants (at most {limit}): wait until one ends")
            }
        }
    }
}

impl fmt::Display for SignatureFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wrong => {
                "not signed by the client's SSH key: a wrong key, a broken client or a stolen pair secret"
            }
            Self::Presence => "the FIDO device does not state that someone was present",
            Self::Pin => "the FIDO device did not verify a PIN, which this client needs",
            Self::Counter => "the FIDO device's counter has fallen: a cloned key, or a device that was reset",
            Self::Unverified => "too many wrong signatures: dropped without verification",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A rejection with its name, its status (as a number) and its text.
    type Row = (Rejection, &'static str, Option<u8>, &'static str);

    fn rows() -> Vec<Row> {
        let seconds = Duration::from_secs;
        let action = || "reboot".parse().unwrap();
        let otp = Rejection::Otp;
        let signature = Rejection::Signature;
        vec![
            (Rejection::UnknownKey, "unknown-key", None, "key is no longer in use"),
            (
                Rejection::DecryptionFailed,
                "decryption-failed",
                None,
                "signed but not encrypted with the same key",
            ),
            (Rejection::Stale(Skew::Behind(seconds(31))), "stale", None, "timestamp is 31 s old"),
            (Rejection::Stale(Skew::Ahead(seconds(31))), "stale", None, "timestamp is 31 s in the future"),
            (
                Rejection::Replayed,
                "replayed",
                None,
                "not new: accepted before, or older than the replay memory",
            ),
            (
                signature(SignatureFault::Wrong),
                "signature",
                Some(10),
                "not signed by the client's SSH key: a wrong key, a broken client or a stolen pair secret",
            ),
            (
                signature(SignatureFault::Presence),
                "presence",
                Some(10),
                "the FIDO device does not state that someone was present",
            ),
            (
                signature(SignatureFault::Pin),
                "pin",
                Some(10),
                "the FIDO device did not verify a PIN, which this client needs",
            ),
            (
                signature(SignatureFault::Counter),
                "counter",
                Some(10),
                "the FIDO device's counter has fallen: a cloned key, or a device that was reset",
            ),
            (
                signature(SignatureFault::Unverified),
                "unverified",
                None,
                "too many wrong signatures: dropped without verification",
            ),
            (
                Rejection::AddressMismatch,
                "address-mismatch",
                Some(4),
                "knock names a different address than it came from",
            ),
            (
                Rejection::UnsupportedFormat,
                "unsupported-format",
                Some(9),
                "knock format not supported by this version",
            ),
            (Rejection::UnknownAction(action()), "unknown-action", Some(2), "no action named 'reboot'"),
            (Rejection::NotAllowed(action()), "not-allowed", Some(3), "client cannot use action 'reboot'"),
            (
                Rejection::PolicyNotAllowed(AddressPolicy::Listed),
                "policy-not-allowed",
                Some(3),
                "client cannot use source 'listed'",
            ),
            (Rejection::NoAddressListed, "no-address-listed", Some(4), "source 'listed' without an address"),
            (
                Rejection::UnusableAddress,
                "unusable-address",
                Some(4),
                "address cannot be granted: not the address of another host",
            ),
            (Rejection::LinkLocal("on no link"), "link-local", Some(4), "on no link"),
            (
                Rejection::NoForwardTarget,
                "no-forward-target",
                Some(4),
                "no forward target for this IP version",
            ),
            (Rejection::Argument("not this one"), "bad-argument", Some(8), "not this one"),
            (Rejection::Expired, "expired", Some(6), "key has expired"),
            (otp(OtpError::Missing), "otp-missing", Some(5), "one-time password required"),
            (otp(OtpError::Wrong), "otp-wrong", Some(5), "one-time password is wrong"),
            (
                otp(OtpError::Past(seconds(60))),
                "otp-skewed",
                Some(5),
                "one-time password is from 60 s ago: check the clocks",
            ),
            (
                otp(OtpError::Future(seconds(60))),
                "otp-wrong",
                Some(5),
                "one-time password is wrong; it is the code for 60 s from now: check the clocks",
            ),
            (
                otp(OtpError::Reused),
                "otp-reused",
                Some(5),
                "one-time password already used: wait for the next one",
            ),
            (
                otp(OtpError::Paused(Duration::from_millis(1))),
                "otp-paused",
                Some(5),
                "too many wrong one-time passwords: wait 1 s",
            ),
            (Rejection::RateExceeded, "rate-exceeded", Some(6), "too many knocks: wait and try again"),
            (Rejection::UsesExhausted, "uses-exhausted", Some(6), "key has no uses left"),
            (
                Rejection::GrantsExceeded(64),
                "grants-exceeded",
                Some(6),
                "too many active grants (at most 64): wait until one ends",
            ),
        ]
    }

    #[test]
    fn each_rejection_has_its_name_its_status_and_its_text() {
        for (rejection, name, status, text) in rows() {
            assert_eq!(rejection.reason().as_str(), name);
            assert_eq!(rejection.status().map(ReplyStatus::code), status, "{name}");
            assert_eq!(rejection.to_string(), text, "{name}");
            let event = match name {
                "stale" => AuditEvent::Stale,
                "replayed" => AuditEvent::Replayed,
                _ => AuditEvent::Refused,
            };
            assert_eq!(rejection.reason().event(), event, "{name}");
        }
        for reason in Reason::ALL {
            assert!(rows().iter().any(|(rejection, ..)| rejection.reason() == reason), "{}", reason.as_str());
        }
    }

    #[test]
    fn the_client_learns_the_text_but_no_details_of_signatures_and_future_codes() {
        for (rejection, name, _, text) in rows() {
            let expected = match &rejection {
                Rejection::Signature(_) => name,
                Rejection::Otp(OtpError::Future(_)) => "one-time password is wrong",
                _ => text,
            };
            assert_eq!(rejection.reply_text(), expected, "{name}");
        }
    }
}
