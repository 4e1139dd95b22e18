//! The values in a profile: what each key accepts.

use toml::de::DeValue;

use super::{AddressChoice, LearnChoice, SpannedValue};
use spa_knock_core::knock::ReplyWanted;

pub(super) fn string<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| "expected a string in quotes".to_owned())
}

pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(value: &DeValue<'_>) -> Result<T, String> {
    string(value)?.parse().map_err(|error: T::Err| error.to_string())
}

pub(super) fn command(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let expected = || "expected a program and its arguments: [\"pass\", \"show\", \"knock\"]".to_owned();
    let words = value.as_array().filter(|words| !words.is_empty()).ok_or_else(expected)?;
    let text = |word: &SpannedValue<'_>| word.get_ref().as_str().map(str::to_owned).ok_or_else(expected);
    let words: Vec<String> = words.iter().map(text).collect::<Result<_, _>>()?;
    if words.first().is_some_and(String::is_empty) { Err(expected()) } else { Ok(words) }
}

pub(super) fn host(value: &DeValue<'_>) -> Result<String, String> {
    let host = string(value)?;
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("not a host name or address".to_owned());
    }
    Ok(host.to_owned())
}

pub(super) fn port(value: &DeValue<'_>) -> Result<u16, String> {
    let number =
        value.as_integer().and_then(|number| u16::from_str_radix(number.as_str(), number.radix()).ok());
    number.filter(|&port| port != 0).ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
}

pub(super) fn seconds(value: &DeValue<'_>) -> Result<u32, String> {
    let expected = || "expected a duration such as \"30s\" or \"5m\"".to_owned();
    let time = humantime::parse_duration(string(value)?).map_err(|_| expected())?;
    let seconds =
        u32::try_from(time.as_secs()).ok().filter(|&seconds| seconds > 0 && time.subsec_nanos() == 0);
    seconds.ok_or_else(expected)
}

pub(super) fn reply(value: &DeValue<'_>) -> Result<ReplyWanted, String> {
    match value.as_bool() {
        Some(true) => Ok(ReplyWanted::Yes),
        Some(false) => Ok(ReplyWanted::No),
        None => Err("reply must be true or false".to_owned()),
    }
}

pub(super) fn addresses(value: &DeValue<'_>) -> Result<AddressChoice, String> {
    match value.as_str() {
        Some("first") => Ok(AddressChoice::First),
        Some("all") => Ok(AddressChoice::All),
        _ => Err("addresses must be \"first\" or \"all\"".to_owned()),
    }
}

pub(super) fn learn(value: &DeValue<'_>) -> Result<LearnChoice, String> {
    match value.as_str() {
        Some("ask") => Ok(LearnChoice::Ask),
        Some("reply") => Ok(LearnChoice::Reply),
        _ => Err("learn must be \"ask\" or \"reply\"".to_owned()),
    }
}
