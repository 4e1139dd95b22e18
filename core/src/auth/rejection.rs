//! Every way in which an authentic knock can end without the action: what is answered, logged and counted.

use std::fmt;

use super::keeper::fresh::Skew;
use super::keeper::otp::OtpError;
use super::record::AuditEvent;
use crate::knock::{ActionName, AddressPolicy, ReplyStatus};

/// Why an authentic knock was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// The key is none of ours (any more): it was removed while the knock was on its way.
    UnknownKey,
    /// Step 4: signed, but not sealed under the same secret.
    DecryptionFailed,
    /// Step 5: its time is not ours.
    Stale(Skew),
    /// Step 6: accepted before, or stamped before what is remembered.
    Replayed,
    /// Step 6: *exact*, but from another address than the one it names.
    AddressMismatch,
    /// Step 8: of a form that this version does not know.
    UnsupportedFormat,
    /// Step 8: no action has this name.
    UnknownAction(ActionName),
    /// Step 8: not among what this client may do.
    NotAllowed(ActionName),
    /// Step 8: this client may not name its address in this way.
    PolicyNotAllowed(AddressPolicy),
    /// Step 8: *listed*, without an address.
    NoAddressListed,
    /// Step 8: to let in an address that nobody else has, or that is many.
    UnusableAddress,
    /// Step 8: a link-local address, where it cannot be told from that of another link.
    LinkLocal(&'static str),
    /// Step 8: a way inside that is not there for this IP version.
    NoForwardTarget,
    /// Step 8: an argument that the action does not take, or none where it needs one.
    Argument(&'static str),
    /// Step 8: the client's key is no longer valid.
    Expired,
    /// Step 8: its one-time password does not count.
    Otp(OtpError),
    /// Step 8: the client acted too often.
    RateExceeded,
    /// Step 8: the client has acted as often as it may in all.
    UsesExhausted,
    /// Step 9: the client holds as many grants as it may.
    GrantsExceeded(u32),
}

/// The same without its particulars: what is counted, under a short name for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the rejection of its name")]
pub enum Reason {
    UnknownKey,
    DecryptionFailed,
    Stale,
    Replayed,
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
    /// All of them, in the order of the checks.
    pub const ALL: [Self; 23] = [
        Self::UnknownKey,
        Self::DecryptionFailed,
        Self::Stale,
        Self::Replayed,
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

    /// What the audit log calls a knock that ended so.
    #[must_use]
    pub const fn event(self) -> AuditEvent {
        match self {
            Self::Stale => AuditEvent::Stale,
            Self::Replayed => AuditEvent::Replayed,
            _ => AuditEvent::Refused,
        }
    }

    /// Its name in `status --json` and in metrics; it never changes its meaning.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown-key",
            Self::DecryptionFailed => "decryption-failed",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
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
    /// What it is counted as.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::UnknownKey => Reason::UnknownKey,
            Self::DecryptionFailed => Reason::DecryptionFailed,
            Self::Stale(_) => Reason::Stale,
            Self::Replayed => Reason::Replayed,
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
            // Every local user can read metrics, so that they must not tell the two apart either.
            Self::Otp(OtpError::Wrong | OtpError::Future(_)) => Reason::OtpWrong,
            Self::Otp(OtpError::Past(_)) => Reason::OtpSkewed,
            Self::Otp(OtpError::Reused) => Reason::OtpReused,
            Self::Otp(OtpError::Paused(_)) => Reason::OtpPaused,
            Self::RateExceeded => Reason::RateExceeded,
            Self::UsesExhausted => Reason::UsesExhausted,
            Self::GrantsExceeded(_) => Reason::GrantsExceeded,
        }
    }

    /// What the client is told: all, but that its password will be right later.
    #[must_use]
    pub fn reply_text(&self) -> String {
        match self {
            Self::Otp(OtpError::Future(_)) => Self::Otp(OtpError::Wrong).to_string(),
            _ => self.to_string(),
        }
    }

    /// What is answered; nothing where silence is due.
    #[must_use]
    pub const fn status(&self) -> Option<ReplyStatus> {
        match self {
            Self::UnknownKey | Self::DecryptionFailed | Self::Stale(_) | Self::Replayed => None,
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
            Self::UnknownKey => f.write_str("key not in use any more"),
            Self::DecryptionFailed => f.write_str("signed but not sealed with the same key"),
            Self::Stale(Skew::Behind(apart)) => write!(f, "stamped {} s ago", seconds(apart)),
            Self::Stale(Skew::Ahead(apart)) => write!(f, "stamped {} s in the future", seconds(apart)),
            Self::Replayed => f.write_str("not new: accepted before, or stamped before what is remembered"),
            Self::AddressMismatch => f.write_str("knock names another address than it came from"),
            Self::UnsupportedFormat => f.write_str("form of a later version"),
            Self::UnknownAction(action) => write!(f, "no action '{action}' here"),
            Self::NotAllowed(action) => write!(f, "client may not '{action}'"),
            Self::PolicyNotAllowed(policy) => write!(f, "client may not use source '{policy}'"),
            Self::NoAddressListed => f.write_str("source 'listed' without an address"),
            Self::UnusableAddress => f.write_str("this address is nobody's to be let in by"),
            Self::NoForwardTarget => f.write_str("nothing inside has an address of this IP version"),
            Self::LinkLocal(why) | Self::Argument(why) => f.write_str(why),
            Self::Expired => f.write_str("key has expired"),
            Self::Otp(OtpError::Missing) => f.write_str("a one-time password is needed"),
            Self::Otp(OtpError::Wrong) => f.write_str("one-time password is wrong"),
            Self::Otp(OtpError::Past(apart)) => {
                write!(f, "one-time password of {} s ago: check the clocks", seconds(apart))
            }
            Self::Otp(OtpError::Future(apart)) => write!(
                f,
                "one-time password is wrong; it is the one of {} s later: check the clocks",
                seconds(apart)
            ),
            Self::Otp(OtpError::Reused) => f.write_str("one-time password was used: wait for the next one"),
            Self::Otp(OtpError::Paused(left)) => {
                write!(f, "too many wrong one-time passwords: wait {} s", seconds(left).max(1))
            }
            Self::RateExceeded => f.write_str("too many knocks: wait and try again"),
            Self::UsesExhausted => f.write_str("key has been used as often as it may be"),
            Self::GrantsExceeded(limit) => {
                write!(f, "too many active grants (at most {limit}): wait until one ends")
            }
        }
    }
}
