//! What a server answers.

use std::fmt;
use std::net::IpAddr;

use super::Timestamp;

/// How a knock ended. The numbers are those on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplyStatus {
    /// 0: the port is open.
    Granted,
    /// 1: the command ran, or was started.
    Done,
    /// 2: the server has no such action.
    UnknownAction,
    /// 3: this client may not do that.
    NotAllowed,
    /// 4: the address is not the one that was signed, or none could be granted.
    AddressRefused,
    /// 5: the one-time password is missing or wrong.
    OtpRefused,
    /// 6: the quota is used up, or the key is no longer valid.
    Exhausted,
    /// 7: allowed, but the action failed.
    ActionFailed,
    /// 8: the action does not take this argument.
    ArgumentRefused,
    /// 9: authentic, but of a form that the server does not know.
    NotUnderstood,
}

impl ReplyStatus {
    const ALL: [Self; 10] = [
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
    ];

    /// Its number on the wire.
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
        }
    }

    /// The status of a number on the wire.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }

    /// Whether the server did what was asked.
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
            Self::Exhausted => "quota or validity exhausted",
            Self::ActionFailed => "the action failed",
            Self::ArgumentRefused => "argument refused",
            Self::NotUnderstood => "not understood",
        })
    }
}

/// A remark of the server: at most 63 bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplyText(String);

impl ReplyText {
    /// The longest remark, in bytes.
    pub const MAX: usize = 63;
    /// What a server writes of commands that run (docs/protocol.md, section 4).
    pub const STARTED: &str = "started";
    /// What it writes of commands that have ended well.
    pub const DONE: &str = "done";

    /// What it writes where a knock may not act because it cannot be put on record.
    pub const UNRECORDED: &str = "the server cannot record it now";

    /// What of `text` fits: control characters go, then what is too long, at a character's end.
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

    /// The remark.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The server's answer to one knock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// How it ended.
    pub status: ReplyStatus,
    /// The server's clock.
    pub server_time: Timestamp,
    /// Where the server saw the knock come from.
    pub observed: IpAddr,
    /// The UDP port it saw.
    pub port: u16,
    /// Seconds granted; 0 where nothing is open.
    pub seconds: u32,
    /// A remark for the person who knocks.
    pub text: ReplyText,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_own_number() {
        for code in 0..=9 {
            assert_eq!(ReplyStatus::from_code(code).unwrap().code(), code);
        }
        assert_eq!(ReplyStatus::from_code(10), None);
    }

    #[test]
    fn a_remark_is_cut_at_a_character_and_loses_control_characters() {
        assert_eq!(ReplyText::fitting("a\n\u{1b}[2Jb\u{85}").as_str(), "a[2Jb");
        let long = ReplyText::fitting(&"ä".repeat(40));
        assert_eq!(long.as_str().len(), 62);
    }
}
