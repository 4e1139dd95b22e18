//! A stanza without its keys, for its translation into another config.

use std::collections::BTreeMap;
use std::path::Path;

use super::StanzaDraft;
use crate::config::access::{AccessDrafts, Purpose, read_access};
use crate::config::includes::ConfigFiles;
use crate::config::network::Networks;
use crate::config::problem::{ConfigProblem, Place};
use crate::config::server::ServerSettings;
use crate::config::stanza::{CommandRules, Cycle, Expiry, NatRules};
use crate::packet::Port;

/// What a stanza permits; each field has the meaning that it has in [`crate::Stanza`]. It has no keys, so that no packet
/// can be accepted with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaOutline {
    /// The line of its `SOURCE`.
    pub place: Place,
    /// `SOURCE`.
    pub sources: Networks,
    /// `DESTINATION`.
    pub destinations: Networks,
    /// `OPEN_PORTS`.
    pub open_ports: Option<Vec<Port>>,
    /// `RESTRICT_PORTS`.
    pub restrict_ports: Vec<Port>,
    /// `REQUIRE_USERNAME`.
    pub user: Option<String>,
    /// `REQUIRE_SOURCE_ADDRESS`.
    pub require_address: bool,
    /// `FW_ACCESS_TIMEOUT`, at most `MAX_FW_TIMEOUT`.
    pub timeout: u32,
    /// `MAX_FW_TIMEOUT`.
    pub timeout_max: u32,
    /// `ACCESS_EXPIRE` or `ACCESS_EXPIRE_EPOCH`.
    pub expires: Option<Expiry>,
    /// `ENABLE_CMD_EXEC` or `ENABLE_CMD_SUDO_EXEC`.
    pub commands: Option<CommandRules>,
    /// `CMD_CYCLE_OPEN`.
    pub cycle: Option<Cycle>,
    /// `FORCE_NAT` and the variables that belong to it.
    pub nat: NatRules,
    /// The line of each variable.
    places: BTreeMap<String, Place>,
}

/// The stanzas of a file that are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessOutline {
    /// The stanzas, in order.
    pub stanzas: Vec<StanzaOutline>,
    /// Why stanzas are left out, and what is ignored in others.
    pub problems: Vec<ConfigProblem>,
}

/// Reads what an `access.conf` permits, also if some of its stanzas cannot be used: these are left out. Keys, and how
/// packets are encrypted, are not looked at.
pub fn outline_access(path: &Path, server: &ServerSettings, files: &mut dyn ConfigFiles) -> AccessOutline {
    let AccessDrafts { drafts, notices, mut problems } = read_access(path, files, Purpose::Translation);
    let stanzas = drafts.into_iter().filter_map(|draft| draft.outline(server, &mut problems)).collect();
    problems.extend(notices);
    problems.sort_by(|one, other| one.place.cmp(&other.place));
    AccessOutline { stanzas, problems }
}

impl StanzaOutline {
    /// The line of a variable of this stanza, or else of its `SOURCE`.
    #[must_use]
    pub fn place_of(&self, name: &str) -> &Place {
        self.places.get(name).unwrap_or(&self.place)
    }

    /// Whether the stanza has a variable.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }
}

impl StanzaDraft {
    fn outline(self, server: &ServerSettings, problems: &mut Vec<ConfigProblem>) -> Option<StanzaOutline> {
        let before = problems.len();
        let cycle = self.cycle(problems);
        problems.extend(self.nat_problems(server));
        if self.is_invalid || problems.len() > before {
            problems.push(ConfigProblem::new(
                &self.place,
                "stanza: left out, because one of its lines is invalid",
            ));
            return None;
        }
        problems.extend(self.timeout_notice());
        Some(StanzaOutline {
            timeout: self.timeout().min(self.timeout_max),
            commands: self.commands(),
            cycle,
            place: self.place,
            sources: self.sources,
            destinations: self.destinations,
            open_ports: self.open_ports,
            restrict_ports: self.restrict_ports,
            user: self.user,
            require_address: self.require_address,
            timeout_max: self.timeout_max,
            expires: self.expires,
            nat: self.nat,
            places: self.places,
        })
    }
}
