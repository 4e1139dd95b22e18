//! A door: what is knocked, where, by whom and how fast, and what opens then.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::command::{Orders, ShellCommand, TruncatedCommand};
use super::flags::FlagTest;
use super::sequence::KnockSequence;
use spa_knock_core::knock::{PortRange, Prefix, canonical};

/// `Seq_Timeout`, where it is not said; no document of knockd tells it.
const SEQUENCE_TIMEOUT: i32 = 25;
/// `Cmd_Timeout`, where it is not said.
const COMMAND_TIMEOUT: i32 = 10;

/// A section of the config that is not `[options]`. Names need not differ: a door is known by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// What the log calls it.
    pub name: String,
    /// What opens it. None = the current line of its one-time file does; where there is none of those either, nothing.
    pub sequence: Option<KnockSequence>,
    /// Where its one-time sequences stand.
    pub one_time: Option<PathBuf>,
    /// Seconds from the first knock, in which the last must come. 0 or less: only a single knock opens.
    pub sequence_timeout: i32,
    /// What TCP packets must look like to count.
    pub flags: FlagTest,
    /// Where knocks must be sent to; None = any address of this host.
    pub target: Option<DoorTarget>,
    /// Who may knock; empty = everybody. For all others this door is not there. (Not in knockd.)
    pub sources: Vec<Prefix>,
    /// Whether a knock that counted may come again without harm. (Not in knockd.)
    pub allow_duplicates: bool,
    /// `Start_Command`.
    pub start: Option<ShellCommand>,
    /// `Start_Command_6`.
    pub start_6: Option<ShellCommand>,
    /// `Stop_Command`.
    pub stop: Option<ShellCommand>,
    /// `Stop_Command_6`.
    pub stop_6: Option<ShellCommand>,
    /// Seconds from the end of the start command to the stop command; negative = for ever.
    pub command_timeout: i32,
    /// What is opened instead of running commands. (Not in knockd.)
    pub opening: Option<GrantSpec>,
}

/// Ports that a door opens by itself for the source, until their time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantSpec {
    /// What opens.
    pub ports: Vec<PortRange>,
    /// For how long.
    pub term: Duration,
}

/// The one address that a door's knocks are sent to. knockd compares texts, so that of an address only the usual
/// spelling is ever met, and of a name none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DoorTarget {
    /// An address in its usual spelling.
    Address(IpAddr),
    /// What no packet is sent to.
    Never(String),
}

impl DoorTarget {
    /// What knockd makes of this text; nothing where it would not start: an empty text, a range, or something that is
    /// neither an address nor a host's name.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>()
            && address.to_string() == text
        {
            return Some(Self::Address(canonical(address)));
        }
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        (!text.is_empty() && text.bytes().all(of_a_name)).then(|| Self::Never(text.to_owned()))
    }
}

impl Door {
    /// A door of this name, as it is before anything is said of it.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self {
            name,
            sequence: None,
            one_time: None,
            sequence_timeout: SEQUENCE_TIMEOUT,
            flags: FlagTest::default(),
            target: None,
            sources: Vec::new(),
            allow_duplicates: false,
            start: None,
            start_6: None,
            stop: None,
            stop_6: None,
            command_timeout: COMMAND_TIMEOUT,
            opening: None,
        }
    }

    /// What is to be run for this source. `Ok(None)` = nothing, and nothing later either.
    ///
    /// # Errors
    /// When a command gets too long.
    pub fn orders(&self, source: IpAddr) -> Result<Option<Orders>, TruncatedCommand> {
        let v6 = source.is_ipv6();
        let own = |of_6: &'_ Option<ShellCommand>, of_both: &'_ Option<ShellCommand>| {
            let command = if v6 { of_6.as_ref().or(of_both.as_ref()) } else { of_both.as_ref() };
            command.cloned()
        };
        let Some(start) = own(&self.start_6, &self.start).filter(|start| !start.text().is_empty()) else {
            return Ok(None);
        };
        let start = start.fill(source).ok_or(TruncatedCommand::Start)?;
        let stop = match own(&self.stop_6, &self.stop) {
            Some(stop) => Some(stop.fill(source).ok_or(TruncatedCommand::Stop)?),
            None => None,
        };
        Ok(Some(Orders { start, stop }))
    }

    /// From the end of the start command to the stop command; nothing = it is never run.
    #[must_use]
    pub fn stop_after(&self) -> Option<Duration> {
        u64::try_from(self.command_timeout).ok().map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "10.77.0.2";
    const V6: &str = "fd77::2";

    #[test]
    fn ipv6_has_commands_of_its_own_where_they_are_written_even_if_empty() {
        // start, start_6, stop, stop_6; "-" = not written.
        for (written, source, orders) in [
            (["a %IP%", "-", "-", "-"], V4, Some(("a 10.77.0.2", None))),
            (["a %IP%", "-", "-", "-"], V6, Some(("a fd77::2", None))),
            (["a", "b", "-", "-"], V4, Some(("a", None))),
            (["a", "b", "-", "-"], V6, Some(("b", None))),
            (["-", "b", "s", "t"], V4, None),
            (["-", "b", "s", "t"], V6, Some(("b", Some("t")))),
            (["a", "", "s", "t"], V6, None),
            (["a", "", "s", "t"], V4, Some(("a", Some("s")))),
            (["", "-", "s", "-"], V4, None),
            (["-", "-", "s", "t"], V6, None),
            (["a", "b", "s", "-"], V6, Some(("b", Some("s")))),
            (["a", "-", "s", ""], V6, Some(("a", Some("")))),
            (["a", "-", "", "-"], V4, Some(("a", Some("")))),
        ] {
            let [start, start_6, stop, stop_6] =
                written.map(|text| (text != "-").then(|| ShellCommand::new(text.as_bytes())));
            let door = Door { start, start_6, stop, stop_6, ..Door::new("d".to_owned()) };
            let expected = orders.map(|(start, stop): (&str, Option<&str>)| Orders {
                start: start.into(),
                stop: stop.map(Into::into),
            });
            assert_eq!(door.orders(source.parse().unwrap()), Ok(expected), "{written:?} {source}");
        }
    }

    #[test]
    fn what_cannot_be_closed_is_not_opened() {
        let long = Some(ShellCommand::new(&[b'x'; 4096]));
        let short = Some(ShellCommand::new(b"x"));
        let door = |start: &Option<ShellCommand>, stop: &Option<ShellCommand>| {
            let door = Door { start: start.clone(), stop: stop.clone(), ..Door::new(String::new()) };
            door.orders(V4.parse().unwrap())
        };
        assert_eq!(door(&long, &short), Err(TruncatedCommand::Start));
        assert_eq!(door(&short, &long), Err(TruncatedCommand::Stop));
        assert_eq!(door(&None, &long), Ok(None));
    }

    #[test]
    fn a_negative_command_timeout_is_for_ever() {
        for (timeout, after) in [(-1, None), (0, Some(0)), (10, Some(10))] {
            let door = Door { command_timeout: timeout, ..Door::new(String::new()) };
            assert_eq!(door.stop_after(), after.map(Duration::from_secs));
        }
    }

    #[test]
    fn only_the_usual_spelling_of_an_address_is_ever_met() {
        let address = |text: &str| Some(DoorTarget::Address(text.parse().unwrap()));
        let never = |text: &str| Some(DoorTarget::Never(text.to_owned()));
        for (text, target) in [
            ("10.77.0.100", address("10.77.0.100")),
            ("fd77::1", address("fd77::1")),
            ("FD77:0::1", never("FD77:0::1")),
            ("010.77.0.1", never("010.77.0.1")),
            ("gate.example.org", never("gate.example.org")),
            ("", None),
            ("10.77.0.0/24", None),
            ("a b", None),
        ] {
            assert_eq!(DoorTarget::read(text), target, "{text}");
        }
    }
}
