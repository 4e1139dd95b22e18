//! Grants as the control socket names them, and answers that make no sense.

use std::time::Duration;

use super::{GrantLine, OnOff, Response};
use crate::console::AdminError;
use crate::firewall::ActiveGrant;
use crate::gate::state::GateState;
use crate::os::clock;
use spa_knock_core::crypto::checksum;

/// What names a grant: the same for as long as it is renewed.
pub(crate) fn number(live: &ActiveGrant) -> String {
    let what = format!("{} {} {} {}", live.client, live.action, live.access.source(), live.access.target);
    checksum(&[what.as_bytes()]).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// A grant as it is told.
pub(crate) fn line(live: &ActiveGrant) -> GrantLine {
    GrantLine {
        grant: number(live),
        client: live.client.to_string(),
        action: live.action.to_string(),
        from: live.access.source(),
        opens: live.access.target.to_string(),
        seconds: live.left.as_secs(),
    }
}

/// What an answer means that does not belong to its question.
pub(crate) fn unexpected(answer: Response) -> AdminError {
    match answer {
        Response::Failed { reason } => AdminError::run(reason),
        _ => AdminError::run("the daemon's answer makes no sense\nhint: is it of the same version?"),
    }
}

/// What is to become of the gate.
pub(crate) fn gate_state(to: OnOff, trial: Option<Duration>) -> GateState {
    match (to, trial) {
        (OnOff::Off, _) => GateState::Open,
        (OnOff::On, None) => GateState::Closed,
        (OnOff::On, Some(trial)) => GateState::Trial(clock::boot().plus(trial)),
    }
}
