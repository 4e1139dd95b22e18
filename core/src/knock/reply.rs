//! The server's reply to a knock.

use std::fmt;
use std::net::IpAddr;

use super::Timestamp;

/// The result of a knock. The numbers are those on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplyStatus {
    /// 0: a port is open.
    Granted,
    /// 1: the command ran or was started.
    Done,
    /// 2: the server has no such action.
    UnknownAction,
    /// 3: the client may not use this action or source.
    NotAllowed,
    /// 4: the source differs from the embedded address, or no address could be granted.
    AddressRefused,
    /// 5: the one-time password is missing or wrong.
    OtpRefused,
    /// 6: a limit is reached, or the key has expired.
    Exhausted,
    /// 7: the knock was allowed, but the action failed.
    ActionFailed,
    /// 8: the action does not accept this argument.
    ArgumentRefused,
    /// 9: authentic, but in a format that the server does not support.
    NotUnderstood,
    /// 10: the SSH signature is wrong, or the FIDO device does not state what the client's entry requires. Only in
    /// version 2.
    SignatureRefused,
}

impl ReplyStatus {
    const ALL: [Self; 11] = [
        Self::Granted,
        Self::Done,
        Self::UnknownAction,
        Self::NotAllowed,
        Self::AddressRefused,
        Self::OtpRefused,
        Self::Exhausted,
        Self::ActionFailed,
        Self::ArgumentRefused,
        Self::NotUnderstood,
        Self::SignatureRefused,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Granted => 0,
            Self::Done => 1,
            Self::UnknownAction => 2,
            Self::NotAllowed => 3,
            Self::AddressRefused => 4,
            Self::OtpRefused => 5,
            Self::Exhausted => 6,
            Self::ActionFailed => 7,
            Self::ArgumentRefused => 8,
            Self::NotUnderstood => 9,
            Self::SignatureRefused => 10,
        }
    }

    /// The status with this number on the wire.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }

    /// Whether the server did what the client requested.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Granted | Self::Done)
    }
}

impl fmt::Display for ReplyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Granted => "granted",
            Self::Done => "done",
            Self::UnknownAction => "unknown action",
            Self::NotAllowed => "not allowed",
            Self::AddressRefused => "address refused",
            Self::OtpRefused => "one-time password missing or wrong",
            Self::Exhausted => "limit reached or key expired",
            Self::ActionFailed => "action failed",
            Self::ArgumentRefused => "argument refused",
            Self::NotUnderstood => "not understood",
            Self::SignatureRefused => "signature refused",
        })
    }
}

/// A remark from the server: at most 63 bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplyText(String);

impl ReplyText {
    /// Maximum length of a remark in bytes.
    pub const MAX: usize = 63;
    /// The remark while commands are running (docs/internals/protocol.md, section 4).
    pub const STARTED: &str = "started";
    /// The remark after all commands have succeeded.
    pub const DONE: &str = "done";
    /// The remark if a knock may not act because it cannot be recorded.
    pub const UNRECORDED: &str = "the server cannot record the knock";
    /// The remark if the store of the fleet has not decided about a knock.
    pub const UNCLAIMED: &str = "the fleet store does not answer; try again";

    /// Removes control characters from `text` and cuts it after the last character that fits.
    #[must_use]
    pub fn fitting(text: &str) -> Self {
        let mut kept = String::new();
        for c in text.chars().filter(|c| !c.is_control()) {
            if kept.len().saturating_add(c.len_utf8()) > Self::MAX {
                break;
            }
            kept.push(c);
        }
        Self(kept)
    }

    /// The remark as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The server's reply to one knock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The result.
    pub status: ReplyStatus,
    /// The time on the server's clock.
    pub server_time: Timestamp,
    /// The knock's source address, as the server saw it.
    pub observed: IpAddr,
    /// The knock's UDP source port, as the server saw it.
    pub port: u16,
    /// Duration of the grant in seconds; 0 if nothing is open.
    pub seconds: u32,
    /// A remark for the person who knocked.
    pub text: ReplyText,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_unique_number() {
        for code in 0..=10 {
            assert_eq!(ReplyStatus::from_code(code).unwrap().code(), code);
        }
        assert_eq!(ReplyStatus::from_code(11), None);
    }

    #[test]
    fn a_remark_is_cut_between_characters_and_has_no_control_characters() {
        assert_eq!(ReplyText::fitting("a\n\u{1b}[2Jb\u{85}").as_str(), "a[2Jb");
        let long = ReplyText::fitting(&"ä".repeat(40));
        assert_eq!(long.as_str().len(), 62);
    }

    #[test]
    fn a_status_is_a_success_only_if_the_server_did_what_was_requested() {
        let names = [
            "granted",
            "done",
            "unknown action",
            "not allowed",
            "address refused",
            "one-time password missing or wrong",
            "limit reached or key expired",
            "action failed",
            "argument refused",
            "not understood",
            "signature refused",
        ];
        for (status, name) in ReplyStatus::ALL.into_iter().zip(names) {
            assert_eq!(status.to_string(), name);
            assert_eq!(status.is_success(), ["granted", "done"].contains(&name), "{name}");
        }
    }
}
