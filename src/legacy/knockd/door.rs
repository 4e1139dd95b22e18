//! A door: its sequence, target, allowed sources and timeouts, and what happens when it opens.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::command::{Orders, ShellCommand, TruncatedCommand};
use super::flags::FlagTest;
use super::sequence::KnockSequence;
use spa_knock_core::knock::{PortRange, Prefix, canonical};

/// Default of `Seq_Timeout`. knockd's documentation does not mention it.
const SEQUENCE_TIMEOUT: i32 = 25;
/// Default of `Cmd_Timeout`.
const COMMAND_TIMEOUT: i32 = 10;

/// A section of the config that is not `[options]`. Names need not be unique: a door is identified by its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// The name in the log.
    pub name: String,
    /// The sequence that opens it. `None` if its sequences are in a one-time file; see [`Self::one_time`].
    pub sequence: Option<KnockSequence>,
    /// The file with its one-time sequences.
    pub one_time: Option<PathBuf>,
    /// Seconds from the first to the last packet of a sequence. If 0 or negative, only sequences of one port open.
    pub sequence_timeout: i32,
    /// The flags that TCP packets must have; other TCP packets are ignored.
    pub flags: FlagTest,
    /// The address that packets must be sent to. `None` for any address of this host.
    pub target: Option<DoorTarget>,
    /// The allowed sources; empty for all. Packets of other sources are ignored. (Not in knockd.)
    pub sources: Vec<Prefix>,
    /// Whether a repeated packet of the sequence is ignored instead of failing the attempt. (Not in knockd.)
    pub allow_duplicates: bool,
    /// `Start_Command`.
    pub start: Option<ShellCommand>,
    /// `Start_Command_6`.
    pub start_6: Option<ShellCommand>,
    /// `Stop_Command`.
    pub stop: Option<ShellCommand>,
    /// `Stop_Command_6`.
    pub stop_6: Option<ShellCommand>,
    /// Seconds from the end of the start command to the stop command. If negative, the stop command never runs.
    pub command_timeout: i32,
    /// `Open` and `For`: the grant to make instead of running commands. (Not in knockd.)
    pub opening: Option<GrantSpec>,
}

/// The grant that a door with `Open` makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantSpec {
    /// The ports.
    pub ports: Vec<PortRange>,
    /// The duration.
    pub term: Duration,
}

/// The `Target` of a door. knockd compares text, so an address matches only in its canonical spelling, and a host name
/// never matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DoorTarget {
    /// An address in its canonical spelling.
    Address(IpAddr),
    /// A text that no packet matches.
    Never(String),
}

impl DoorTarget {
    /// Interprets `text` as knockd does. `None` if knockd would not start: an empty text, a range, or a text that is
    /// neither an address nor a host name.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>()
            && address.to_string() == text
        {
            return Some(Self::Address(canonical(address)));
        }
        let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        (!text.is_empty() && text.bytes().all(is_in_name)).then(|| Self::Never(text.to_owned()))
    }
}

impl Door {
    /// Creates a door with this name and the default settings.
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

    /// The commands to run for this source. `Ok(None)` if no start command is set, in which case the stop command is
    /// not run either.
    ///
    /// # Errors
    /// If a command is too long.
    pub fn orders(&self, source: IpAddr) -> Result<Option<Orders>, TruncatedCommand> {
        let v6 = source.is_ipv6();
        let select = |of_6: &'_ Option<ShellCommand>, of_both: &'_ Option<ShellCommand>| {
            let command = if v6 { of_6.as_ref().or(of_both.as_ref()) } else { of_both.as_ref() };
            command.cloned()
        };
        let Some(start) = select(&self.start_6, &self.start).filter(|start| !start.text().is_empty()) else {
            return Ok(None);
        };
        let start = start.fill(source).ok_or(TruncatedCommand::Start)?;
        let stop = match select(&self.stop_6, &self.stop) {
            Some(stop) => Some(stop.fill(source).ok_or(TruncatedCommand::Stop)?),
            None => None,
        };
        Ok(Some(Orders { start, stop }))
    }

    /// Time from the end of the start command to the stop command. `None` if the stop command never runs.
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
    fn ipv6_uses_its_own_commands_if_set_even_if_they_are_empty() {
        // start, start_6, stop, stop_6; "-" means not set.
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
    fn a_door_that_could_not_be_closed_is_not_opened() {
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
    fn a_negative_command_timeout_never_ends() {
        for (timeout, after) in [(-1, None), (0, Some(0)), (10, Some(10))] {
            let door = Door { command_timeout: timeout, ..Door::new(String::new()) };
            assert_eq!(door.stop_after(), after.map(Duration::from_secs));
        }
    }

    #[test]
    fn only_the_canonical_spelling_of_an_address_matches() {
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
