//! What a refusal is likely to come from: guesses that the checks themselves do not make.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::setup::Setup;
use spa_knock_core::auth::{Rejection, Skew};
use spa_knock_core::knock::{ActionName, ClientName};

/// How far from a whole half hour a clock may be for its time zone to be suspected.
const ZONE_SLACK: u64 = 120;

/// What there is to guess from.
pub(super) struct Causes {
    actions: Vec<ActionName>,
    allowed: HashMap<ClientName, Vec<ActionName>>,
}

impl Causes {
    /// Of refusals by the daemon that this config makes.
    pub(super) fn new(setup: &Setup) -> Self {
        let clients = setup.clients.iter();
        Self {
            actions: setup.config.actions.keys().cloned().collect(),
            allowed: clients.map(|c| (c.name.clone(), c.rules.allow.iter().cloned().collect())).collect(),
        }
    }

    /// What a refusal is likely to come from, where that is not what it says.
    pub(super) fn of(&self, rejection: &Rejection, client: Option<&ClientName>) -> Option<String> {
        let who = client.map_or("the client", ClientName::as_str);
        Some(match rejection {
            Rejection::Stale(Skew::Behind(apart)) => format!(
                "the clock of {who} is {} behind{}, or somebody sent an old knock again",
                span(*apart),
                zone(*apart)
            ),
            Rejection::Stale(Skew::Ahead(apart)) => {
                format!("the clock of {who} is {} ahead{}", span(*apart), zone(*apart))
            }
            Rejection::AddressMismatch => format!(
                "an address on the way was translated (then: spa-knock --source observed, or the outside address given), \
                 or somebody else sent a copy of a knock of {who}"
            ),
            Rejection::DecryptionFailed => {
                "a client with a fault: the same key signed it, but did not seal it".to_owned()
            }
            Rejection::UnsupportedFormat => format!("{who} is of a later version than this server"),
            Rejection::UnknownAction(_) => format!("misspelt; defined here: {}", comma(&self.actions)),
            Rejection::NotAllowed(_) => {
                let allowed = client.and_then(|client| self.allowed.get(client)).map(Vec::as_slice);
                format!("{who} may do: {}", comma(allowed.unwrap_or_default()))
            }
            Rejection::Expired => {
                format!("its `expires`, or the time of a replaced key, was over (client show {who})")
            }
            _ => return None,
        })
    }
}

/// A span of time in two units at most.
pub(super) fn span(span: Duration) -> String {
    const DAY: u64 = 86_400;
    let seconds = span.as_secs();
    let unit = match seconds {
        0..3_600 => 1,
        3_600..DAY => 60,
        // humantime would write 40 days as 1month 9days 13h 26m 24s.
        _ if seconds >= 2 * DAY => return format!("{} days", seconds.checked_div(DAY).unwrap_or_default()),
        _ => 3_600,
    };
    let whole = seconds.checked_div(unit).unwrap_or_default().saturating_mul(unit);
    humantime::format_duration(Duration::from_secs(whole)).to_string()
}

/// Clocks that are set to local time are wrong by whole hours, or half ones.
fn zone(apart: Duration) -> &'static str {
    const HALF: u64 = 1_800;
    let seconds = apart.as_secs();
    let from_whole = seconds.checked_rem(HALF).unwrap_or_default();
    let near = from_whole.min(HALF.saturating_sub(from_whole)) <= ZONE_SLACK;
    if near && (HALF.saturating_sub(ZONE_SLACK)..=15 * 3_600).contains(&seconds) {
        " (as much as a time zone is: perhaps it shows local time as UTC)"
    } else {
        ""
    }
}

fn comma(names: &[ActionName]) -> String {
    names.iter().map(ActionName::as_str).collect::<Vec<_>>().join(", ")
}
