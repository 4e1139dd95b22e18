//! Parses the values of options, and checks their limits.

use std::time::Duration;

use spa_knock_core::auth::{Rate, Touch};
use spa_knock_core::crypto::{OtpDigits, is_host};
use spa_knock_core::knock::{AddressPolicy, ServerId};

/// A client's rate limit; `None` is no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit(pub(crate) Option<Rate>);

pub(super) fn rate(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    text.parse()
        .map(|rate| Limit(Some(rate)))
        .map_err(|error: spa_knock_core::auth::InvalidRate| error.to_string())
}

pub(super) fn source(text: &str) -> Result<AddressPolicy, &'static str> {
    let all = [AddressPolicy::Exact, AddressPolicy::Observed, AddressPolicy::Listed];
    all.into_iter().find(|policy| policy.as_str() == text).ok_or("a source is exact, observed or listed")
}

pub(super) fn touch(text: &str) -> Result<Touch, &'static str> {
    let all = [Touch::Present, Touch::Pin];
    all.into_iter().find(|touch| touch.as_str() == text).ok_or("write present or pin")
}

pub(super) fn digits(text: &str) -> Result<OtpDigits, &'static str> {
    text.parse()
}

pub(super) fn typed_host(text: &str) -> Result<String, &'static str> {
    if is_host(text) { Ok(text.to_owned()) } else { Err("not a host name or address") }
}

pub(super) fn typed_id(text: &str) -> Result<ServerId, spa_knock_core::knock::InvalidName> {
    ServerId::from_typed(text)
}

/// The duration of `let-in`: long enough to connect, and never permanent.
pub(super) fn visit(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&time) {
        Ok(time)
    } else {
        Err("not from 1s to 1d".to_owned())
    }
}

/// The duration of a trial: long enough for a knock, and at most a day.
pub(super) fn trial(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(5)..=Duration::from_secs(86_400)).contains(&time) {
        Ok(time)
    } else {
        Err("not from 5s to 1d".to_owned())
    }
}
