//! Grant numbers and lines for the control socket, gate states, and errors for unexpected responses.

use std::time::Duration;

use super::{GrantLine, OnOff, Response};
use crate::console::AdminError;
use crate::firewall::ActiveGrant;
use crate::gate::state::GateState;
use crate::os::clock;
use spa_knock_core::crypto::checksum;

/// The number of a grant. It stays the same while the grant is renewed.
pub(crate) fn number(live: &ActiveGrant) -> String {
    let text = format!("{} {} {} {}", live.client, live.action, live.access.source(), live.access.target);
    checksum(&[text.as_bytes()]).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// An active grant as an entry of a response.
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

/// The error for a response that does not match the request.
pub(crate) fn unexpected(response: Response) -> AdminError {
    match response {
        Response::Failed { reason } => AdminError::run(reason),
        _ => AdminError::run(
            "the daemon sent an unexpected response\nhint: if its version differs, restart it: systemctl restart spa-knockd",
        ),
    }
}

/// The gate state that a request asks for.
pub(crate) fn gate_state(to: OnOff, trial: Option<Duration>) -> GateState {
    match (to, trial) {
        (OnOff::Off, _) => GateState::Open,
        (OnOff::On, None) => GateState::Closed,
        (OnOff::On, Some(trial)) => GateState::Trial(clock::boot().plus(trial)),
    }
}
