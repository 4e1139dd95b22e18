//! The grants that doors with `Open` ask for.

use std::net::IpAddr;

use super::CLIENT;
use crate::legacy::grants::GrantOrder;
use crate::legacy::knockd::GrantSpec;
use spa_knock_core::auth::{AccessTarget, Via};
use spa_knock_core::knock::ActionName;

/// Most characters of an action's name.
const NAME_MAX: usize = 32;

/// The grant of the door with this name to `source`. `None` if the name cannot be written to the audit record.
pub(crate) fn grant_order(door: &str, source: IpAddr, opening: &GrantSpec) -> Option<GrantOrder> {
    Some(GrantOrder {
        client: CLIENT.parse().ok()?,
        holder: door.to_owned(),
        action: action(door)?,
        address: source,
        sender: None,
        targets: opening.ports.iter().copied().map(AccessTarget::Ports).collect(),
        term: opening.term,
        limit: GrantOrder::NO_LIMIT,
        via: Via::Knockd,
    })
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
}
