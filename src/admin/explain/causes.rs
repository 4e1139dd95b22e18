//! Likely causes of refusals, beyond what the checks themselves report.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::setup::Setup;
use crate::console::own_command;
use spa_knock_core::auth::{Rejection, SignatureFault, Skew};
use spa_knock_core::knock::{ActionName, ClientName};

/// The tolerance in seconds around whole half hours within which a wrong time zone is suspected.
const ZONE_SLACK: u64 = 120;

/// The facts that the causes are derived from.
pub(super) struct Causes {
    actions: Vec<ActionName>,
    allowed: HashMap<ClientName, Vec<ActionName>>,
}

impl Causes {
    /// Collects the facts from a daemon's setup.
    pub(super) fn new(setup: &Setup) -> Self {
        let clients = setup.clients.iter();
        Self {
            actions: setup.config.actions.keys().cloned().collect(),
            allowed: clients.map(|c| (c.name.clone(), c.rules.allow.iter().cloned().collect())).collect(),
        }
    }

    /// The likely cause of a refusal, unless its reason already states it.
    pub(super) fn of(&self, rejection: &Rejection, client: Option<&ClientName>) -> Option<String> {
        let name = client.map_or("the client", ClientName::as_str);
        Some(match rejection {
            Rejection::Stale(Skew::Behind(apart)) => format!(
                "the clock of {name} is {} behind{}, or an old knock was replayed",
                span(*apart),
                zone(*apart)
            ),
            Rejection::Stale(Skew::Ahead(apart)) => {
                format!("the clock of {name} is {} ahead{}", span(*apart), zone(*apart))
            }
            Rejection::AddressMismatch => format!(
                "a router translated the client's address (knock with --source observed, or name the translated address), \
                 or someone else sent a copy of a knock of {name}"
            ),
            Rejection::DecryptionFailed => {
                "a faulty client: this key signed the knock, but did not encrypt it".to_owned()
            }
            Rejection::Signature(SignatureFault::Wrong) => format!(
                "compare the SSH key that {name} uses with {}; if it is the right one, the pair secret is stolen: {}",
                own_command(&format!("client show {name}")),
                own_command(&format!("client rotate {name} --overlap 0s"))
            ),
            Rejection::Signature(SignatureFault::Counter) => format!(
                "if the device of {name} was reset, give the client a new key: {}",
                own_command(&format!("client rotate {name}"))
            ),
            Rejection::UnsupportedFormat => format!("{name} uses a newer version than this server"),
            Rejection::UnknownAction(_) => {
                format!("a misspelled action; defined actions: {}", comma(&self.actions))
            }
            Rejection::NotAllowed(_) => {
                let allowed = client.and_then(|client| self.allowed.get(client)).map(Vec::as_slice);
                format!("actions allowed for {name}: {}", comma(allowed.unwrap_or_default()))
            }
            Rejection::Expired => {
                format!(
                    "the client's `expires` or its previous key's time has passed (see: {})",
                    own_command(&format!("client show {name}"))
                )
            }
            _ => return None,
        })
    }
}

/// A duration in at most two units.
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

/// A remark if the difference is about that of a time zone: a clock set to local time is wrong by whole or half hours.
fn zone(apart: Duration) -> &'static str {
    const HALF: u64 = 1_800;
    let seconds = apart.as_secs();
    let from_whole = seconds.checked_rem(HALF).unwrap_or_default();
    let near = from_whole.min(HALF.saturating_sub(from_whole)) <= ZONE_SLACK;
    if near && (HALF.saturating_sub(ZONE_SLACK)..=15 * 3_600).contains(&seconds) {
        " (perhaps a time zone: local time set as UTC)"
    } else {
        ""
    }
}

fn comma(names: &[ActionName]) -> String {
    names.iter().map(ActionName::as_str).collect::<Vec<_>>().join(", ")
}
