//! What doors with `Open` let in by themselves, through the gate of whichever daemon has them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::CLIENT;
use crate::gate::{Gate, GateConfig};
use crate::legacy::knockd::GrantSpec;
use crate::os::clock;
use spa_knock_core::auth::{AuditCause, AuditEvent, Explanation, UnauthenticatedGrant};
use spa_knock_core::knock::{ActionName, Steady};

/// How many of them may be live: sources can be made up, and sealed knocks must find room.
const LIVE_MAX: usize = 1_024;
/// Characters of an action's name.
const NAME_MAX: usize = 32;

/// The ends of what plain sequences have opened.
#[derive(Default)]
pub(crate) struct Openings(Vec<Steady>);

/// Why a door stays closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrantRefused {
    /// Whether it was not to be opened, or could not.
    pub(crate) event: AuditEvent,
    /// Why, for the record.
    pub(crate) reason: Explanation,
}

impl Openings {
    /// Lets this source in by the door of this name. `own` are this host's addresses.
    ///
    /// # Errors
    /// When the source is nobody's address, too much is open, or the firewall does not do it.
    pub(crate) fn open(
        &mut self,
        (door, source, opening): (&str, IpAddr, GrantSpec),
        own: &BTreeSet<IpAddr>,
        gate: &mut Gate,
        plan: &impl GateConfig,
    ) -> Result<(), GrantRefused> {
        let failed = |detail: String| GrantRefused {
            event: AuditEvent::Failed,
            reason: Explanation::new(AuditCause::ActionFailed, detail),
        };
        let (now, term) = (clock::steady(), opening.term);
        let (Ok(client), Some(action)) = (CLIENT.parse(), action(door)) else {
            return Err(failed("it has no name for the records".to_owned()));
        };
        let plain = UnauthenticatedGrant { ports: opening.ports, term, client, action };
        let grants = plain.grants(source, own).map_err(|rejection| GrantRefused {
            event: AuditEvent::Refused,
            reason: Explanation::from(&rejection),
        })?;
        if !self.have_room(now) {
            return Err(failed("too much is open by plain sequences".to_owned()));
        }
        gate.grant_unconfirmed(&grants, plan).map_err(|error| failed(error.to_string()))?;
        self.0.push(now.plus(term));
        Ok(())
    }

    /// Whether one more may be live at `now`.
    fn have_room(&mut self, now: Steady) -> bool {
        if self.0.len() >= LIVE_MAX {
            self.0.retain(|end| *end > now);
        }
        self.0.len() < LIVE_MAX
    }
}

/// A door's name, in characters that an action's has.
pub(crate) fn action(door: &str) -> Option<ActionName> {
    let letter = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9' | '_') => letter,
        _ => '-',
    };
    let name: String = door.chars().take(NAME_MAX).map(letter).collect();
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn so_many_may_be_live_and_what_is_over_makes_room() {
        let mut openings = Openings::default();
        let at = |seconds| Steady::from_duration(Duration::from_secs(seconds));
        for second in 0..LIVE_MAX {
            assert!(openings.have_room(at(0)));
            openings.0.push(at(u64::try_from(second).unwrap() + 1));
        }
        assert!(!openings.have_room(at(0)));
        assert!(openings.have_room(at(1)));
        assert_eq!(openings.0.len(), LIVE_MAX - 1);
    }
}
