//! The commands that create a client for each stanza.

use std::collections::BTreeSet;

use crate::console::own_command;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use spa_knock_core::knock::{ActionName, ClientName};
use spa_knock_fwknop::{Expiry, StanzaOutline};

/// Names that a config can reserve.
const RESERVED: [&str; 3] = ["console", "knockd", "fwknop"];
/// Leaves room for a number at the end of a name.
const NAME_MAX: usize = 26;

/// Names that are in use.
#[derive(Default)]
pub(super) struct ClientNames(BTreeSet<String>);

impl ClientNames {
    /// The command that creates the client of a stanza.
    pub(super) fn command(&mut self, stanza: &StanzaOutline, actions: &[ActionName]) -> String {
        let name = self.name(stanza.user.as_deref());
        let actions: Vec<&str> = actions.iter().map(ActionName::as_str).collect();
        let source = if stanza.require_address { "" } else { " --source exact,observed" };
        let expires = match stanza.expires.and_then(time) {
            Some(time) => format!(" --expires {time}"),
            None => String::new(),
        };
        own_command(&format!(
            "client add {name} --allow {}{source}{expires} -o {name}.key",
            actions.join(",")
        ))
    }

    /// The name of the user, or else `client`, with a number if it is in use.
    fn name(&mut self, user: Option<&str>) -> String {
        let is_usable = |user: &&str| user.len() <= NAME_MAX && user.parse::<ClientName>().is_ok();
        let name = user.filter(is_usable).unwrap_or("client").to_owned();
        let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
        let is_free = |name: &String| !RESERVED.contains(&name.as_str()) && !self.0.contains(name);
        let free = std::iter::once(name.clone()).chain(numbered).find(is_free).unwrap_or(name);
        self.0.insert(free.clone());
        free
    }
}

/// What an expiry means for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientEnd {
    /// It is in the future.
    Ahead,
    /// It is in the past.
    Over,
    /// There is no such time.
    Invalid,
}

impl ClientEnd {
    /// What an expiry means at this time, in seconds since 1970.
    pub(super) fn of(expiry: Expiry, now: u64) -> Self {
        match zoned(expiry).map(|end| end.timestamp().as_second()) {
            None => Self::Invalid,
            Some(end) if u64::try_from(end).is_ok_and(|end| end > now) => Self::Ahead,
            Some(_) => Self::Over,
        }
    }
}

/// The time with its offset.
fn time(expiry: Expiry) -> Option<String> {
    zoned(expiry).map(|end| end.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
}

/// The end of a stanza: fwknop's dates begin at midnight in local time. None if there is no such time.
fn zoned(expiry: Expiry) -> Option<ZonedDateTime> {
    match expiry {
        Expiry::Date(year, month, day) => {
            let date = Date::new(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?).ok()?;
            date.to_zoned_datetime(TimeZone::system()).ok()
        }
        Expiry::Epoch(seconds) => {
            Some(Timestamp::from_second(seconds.try_into().ok()?).ok()?.to_zoned_datetime(TimeZone::UTC))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DateTime;

    #[test]
    fn an_expiry_is_written_as_the_config_reads_it() {
        assert_eq!(time(Expiry::Epoch(1_900_000_000)).as_deref(), Some("2030-03-17T17:46:40+00:00"));
        let date = time(Expiry::Date(2030, 1, 31)).unwrap();
        assert!(date.starts_with("2030-01-31T00:00:00"), "{date}");
        assert!(date.parse::<DateTime>().is_ok(), "{date}");
        assert_eq!(time(Expiry::Date(2030, 2, 31)), None);
        assert_eq!(time(Expiry::Epoch(u64::MAX)), None);
        let end = |expiry| ClientEnd::of(expiry, 1_900_000_000);
        assert_eq!(end(Expiry::Epoch(1_900_000_000)), ClientEnd::Over);
        assert_eq!(end(Expiry::Epoch(1_900_000_001)), ClientEnd::Ahead);
        assert_eq!(end(Expiry::Date(2030, 2, 31)), ClientEnd::Invalid);
    }

    #[test]
    fn clients_have_the_names_of_users_and_no_name_twice() {
        let mut names = ClientNames::default();
        for (user, name) in [
            (None, "client"),
            (Some("bob"), "bob"),
            (Some("bob"), "bob-2"),
            (Some("a b"), "client-2"),
            (Some("knockd"), "knockd-2"),
            (Some("-x"), "client-3"),
        ] {
            assert_eq!(names.name(user), name);
        }
    }
}
