//! A one-time password (RFC 6238): given as an option, or prompted for.

use std::str::FromStr;

use crate::client::failure::{ClientError, ExitCause};
use crate::os::terminal;

/// The value of `--otp`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum OtpInput {
    /// The code itself.
    Code(u32),
    /// `-`: prompt for the code.
    Prompt,
}

const FORM: &str = "a one-time password has 6 or 8 digits";

impl FromStr for OtpInput {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "-" { Ok(Self::Prompt) } else { number(text).map(Self::Code).ok_or(FORM) }
    }
}

impl OtpInput {
    /// The code as a number; prompts on the terminal if necessary.
    ///
    /// # Errors
    /// If there is no terminal, or the text entered is not a one-time password.
    pub(in crate::client) fn number(self) -> Result<u32, ClientError> {
        match self {
            Self::Code(number) => Ok(number),
            Self::Prompt => {
                let answer = terminal::ask("one-time password").map_err(|_| {
                    ClientError::new(ExitCause::Usage, "--otp -: no terminal to prompt on")
                        .hint("pass the code itself: --otp CODE")
                })?;
                number(&answer).ok_or_else(|| ClientError::new(ExitCause::Usage, format!("--otp: {FORM}")))
            }
        }
    }
}

/// Parses a code. Spaces are ignored: apps show the digits in groups.
fn number(text: &str) -> Option<u32> {
    let digits: String = text.chars().filter(|c| *c != ' ').collect();
    let well_formed = matches!(digits.len(), 6 | 8) && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| well_formed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_six_or_eight_digits_in_any_grouping() {
        for (text, number) in [("123456", 123_456), ("000 001", 1), ("9999 9999", 99_999_999)] {
            assert!(text.parse() == Ok(OtpInput::Code(number)), "{text}");
        }
        assert!("-".parse() == Ok(OtpInput::Prompt));
        for text in ["", "12345", "1234567", "123456789", "12345a", "-12345", "+123456", "１２３４５６"]
        {
            assert!(text.parse::<OtpInput>() == Err(FORM), "{text}");
        }
    }
}
