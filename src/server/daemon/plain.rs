//! What plain sequences come to: ports that open, and a record of it. They are not knocks of a client's, and are counted
//! apart.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Daemon;
use crate::gate::{Event, KeyAge, PlainDoor, Record, Via};
use crate::knock::ActionName;
use crate::knockd::Opening;
use crate::os::{clock, host};
use crate::server::knockd::{CLIENT, Outcome};

/// How many of their openings may be live: sources can be made up, and sealed knocks must find room.
const LIVE_MAX: usize = 1_024;
/// Characters of an action's name.
const NAME_MAX: usize = 32;

/// The ends of what plain sequences have opened, on the steady clock.
#[derive(Default)]
pub(super) struct Openings(Vec<Duration>);

impl Openings {
    /// Whether one more may be live at `now`.
    fn have_room(&mut self, now: Duration) -> bool {
        if self.0.len() >= LIVE_MAX {
            self.0.retain(|end| *end > now);
        }
        self.0.len() < LIVE_MAX
    }
}

impl Daemon {
    /// Hears and does what is due for plain sequences.
    pub(super) fn turn_plain(&mut self) {
        let outcomes = self.plain.turn();
        self.note_plain(outcomes);
    }

    /// Does and records what they come to.
    pub(super) fn note_plain(&mut self, outcomes: Vec<Outcome>) {
        // Once for all of them: each look asks the kernel.
        let opens = |outcome: &Outcome| matches!(outcome, Outcome::Opened { opening: Some(_), .. });
        let own = outcomes.iter().any(opens).then(host::own_addresses).unwrap_or_default();
        for outcome in outcomes {
            let record = match outcome {
                Outcome::Opened { door, source, opening: Some(opening) } => {
                    self.open_plainly(&door, source, opening, &own)
                }
                // The command's end is what is recorded of it.
                Outcome::Opened { opening: None, .. } => None,
                Outcome::Over { door, source, event, reason } => record(&door, source, event, reason),
            };
            if let Some(record) = record {
                self.audit.write(&record, clock::wall());
            }
        }
    }

    fn open_plainly(
        &mut self,
        door: &str,
        source: IpAddr,
        opening: Opening,
        own: &BTreeSet<IpAddr>,
    ) -> Option<Record> {
        let now = clock::steady();
        let seconds = u32::try_from(opening.term.as_secs()).unwrap_or(u32::MAX);
        let end = now.saturating_add(opening.term);
        let plain = PlainDoor {
            ports: opening.ports,
            term: opening.term,
            client: CLIENT.parse().ok()?,
            action: action(door)?,
        };
        let granted = match plain.grants(source, own) {
            Err(rejection) => Err((Event::Refused, rejection.to_string())),
            Ok(_) if !self.openings.have_room(now) => {
                Err((Event::Failed, "too much is open by plain sequences".to_owned()))
            }
            Ok(grants) => {
                let let_in = self.deeds.gatehouse().let_in(&grants, &self.loaded);
                let_in.map_err(|error| (Event::Failed, error.to_string()))
            }
        };
        match granted {
            Ok(()) => {
                self.openings.0.push(end);
                let record = record(door, source, Event::Granted, None)?;
                Some(Record { seconds, ..record })
            }
            Err((event, reason)) => record(door, source, event, Some(reason)),
        }
    }
}

fn record(door: &str, source: IpAddr, event: Event, reason: Option<String>) -> Option<Record> {
    Some(Record {
        event,
        client: CLIENT.parse().ok()?,
        key: KeyAge::Current,
        action: action(door),
        addresses: vec![source],
        source: None,
        seconds: 0,
        reason,
        knock: None,
        via: Some(Via::Knockd),
    })
}

/// A door's name, in characters that an action's has.
fn action(door: &str) -> Option<ActionName> {
    let letter = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9' | '_') => letter,
        _ => '-',
    };
    let name: String = door.chars().take(NAME_MAX).map(letter).collect();
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_of_any_name_has_one_in_the_records() {
        for (door, name) in [
            ("openSSH", "openssh"),
            ("open SSH (ä)", "open-ssh----"),
            (" ", "-"),
            (&"x".repeat(127), &"x".repeat(32)),
        ] {
            assert_eq!(action(door).unwrap().as_str(), name);
        }
    }

    #[test]
    fn so_many_may_be_live_and_what_is_over_makes_room() {
        let mut openings = Openings::default();
        let at = Duration::from_secs;
        for second in 0..LIVE_MAX {
            assert!(openings.have_room(at(0)));
            openings.0.push(at(u64::try_from(second).unwrap() + 1));
        }
        assert!(!openings.have_room(at(0)));
        assert!(openings.have_room(at(1)));
        assert_eq!(openings.0.len(), LIVE_MAX - 1);
    }
}
