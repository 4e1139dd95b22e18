//! A one-time password (RFC 6238), as it is typed or asked for.

use std::str::FromStr;

use crate::client::failure::{ClientError, ExitCause};
use crate::os::terminal;

/// What `--otp` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum OtpInput {
    /// The number itself.
    Typed(u32),
    /// It is to be asked for.
    Asked,
}

const FORM: &str = "a one-time password is 6 or 8 digits";

impl FromStr for OtpInput {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "-" { Ok(Self::Asked) } else { number(text).map(Self::Typed).ok_or(FORM) }
    }
}

impl OtpInput {
    /// The number, from the person at the terminal if need be.
    ///
    /// # Errors
    /// When there is nobody to ask, or what he says is none.
    pub(in crate::client) fn number(self) -> Result<u32, ClientError> {
        match self {
            Self::Typed(number) => Ok(number),
            Self::Asked => {
                let answer = terminal::ask("one-time password").map_err(|_| {
                    ClientError::new(ExitCause::Usage, "--otp -: there is no terminal to ask on")
                        .hint("give the code itself: --otp CODE")
                })?;
                number(&answer).ok_or_else(|| ClientError::new(ExitCause::Usage, format!("--otp: {FORM}")))
            }
        }
    }
}

/// Apps show digits in groups.
fn number(text: &str) -> Option<u32> {
    let digits: String = text.chars().filter(|c| *c != ' ').collect();
    let well_formed = matches!(digits.len(), 6 | 8) && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| well_formed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_six_or_eight_digits_however_they_are_grouped() {
        for (text, number) in [("123456", 123_456), ("000 001", 1), ("9999 9999", 99_999_999)] {
            assert!(text.parse() == Ok(OtpInput::Typed(number)), "{text}");
        }
        assert!("-".parse() == Ok(OtpInput::Asked));
        for text in ["", "12345", "1234567", "123456789", "12345a", "-12345", "+123456", "１２３４５６"]
        {
            assert!(text.parse::<OtpInput>() == Err(FORM), "{text}");
        }
    }
}
