//! Grants of doors with `Open`, through the gate of the legacy daemon or of `spa-knockd run`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::CLIENT;
use crate::gate::{Gate, GateConfig};
use crate::legacy::knockd::GrantSpec;
use crate::os::clock;
use spa_knock_core::auth::{AuditCause, AuditEvent, Explanation, UnauthenticatedGrant};
use spa_knock_core::knock::{ActionName, Steady};

/// How many of these grants can be active. Sources can be spoofed, and there must be room for grants of clients.
const LIVE_MAX: usize = 1_024;
/// Most characters of an action's name.
const NAME_MAX: usize = 32;

/// The end times of active grants by knock sequences.
#[derive(Default)]
pub(crate) struct Openings(Vec<Steady>);

/// Why a door was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrantRefused {
    /// `Refused` if the source is not allowed, `Failed` if the grant could not be made.
    pub(crate) event: AuditEvent,
    /// The reason, for the audit record.
    pub(crate) reason: Explanation,
}

impl Openings {
    /// Grants `opening` to `source` on behalf of the door with this name. `own` are this host's addresses.
    ///
    /// # Errors
    /// If the source is an unusable address, too many grants are active, or the firewall fails.
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
            return Err(failed("its name cannot be written to the audit record".to_owned()));
        };
        let plain = UnauthenticatedGrant { ports: opening.ports, term, client, action };
        let grants = plain.grants(source, own).map_err(|rejection| GrantRefused {
            event: AuditEvent::Refused,
            reason: Explanation::from(&rejection),
        })?;
        if !self.have_room(now) {
            return Err(failed("too many grants by knock sequences are active".to_owned()));
        }
        gate.grant_unconfirmed(&grants, plan).map_err(|error| failed(error.to_string()))?;
        self.0.push(now.plus(term));
        Ok(())
    }

    /// Whether there is room for one more grant at `now`.
    fn have_room(&mut self, now: Steady) -> bool {
        if self.0.len() >= LIVE_MAX {
            self.0.retain(|end| *end > now);
        }
        self.0.len() < LIVE_MAX
    }
}

/// The door's name as an action name: other characters become `-`, and it is truncated.
pub(crate) fn action(door: &str) -> Option<ActionName> {
    let allowed = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9' | '_') => letter,
        _ => '-',
    };
    let name: String = door.chars().take(NAME_MAX).map(allowed).collect();
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_door_with_any_name_has_an_action_name() {
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
    fn active_grants_are_bounded_and_expired_ones_make_room() {
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
