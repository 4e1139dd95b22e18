//! The variables of a stanza while it is read.

mod check;
mod misspelled;
mod outline;

use std::collections::BTreeMap;

use zeroize::Zeroizing;

pub use outline::{AccessOutline, StanzaOutline, outline_access};

use super::network::Networks;
use super::problem::Place;
use super::stanza::{CommandUser, Expiry, NatRules};
use super::values::{self, Invalid, network_problem};
use crate::packet::{Digest, Port};

/// `MAX_FW_TIMEOUT` of a stanza without one, in seconds.
const TIMEOUT_MAX: u32 = 300;
/// The largest number that fwknop accepts for a timer.
const TIMER_MAX: u32 = 1 << 23;

/// The values of a stanza that has not ended yet.
pub(super) struct StanzaDraft {
    place: Place,
    /// The last line of each variable.
    places: BTreeMap<String, Place>,
    /// Whether a value is none of those that its variable can have.
    is_invalid: bool,
    sources: Networks,
    destinations: Networks,
    key: Option<Zeroizing<Vec<u8>>>,
    hmac_key: Option<Zeroizing<Vec<u8>>>,
    digest: Digest,
    open_ports: Option<Vec<Port>>,
    restrict_ports: Vec<Port>,
    user: Option<String>,
    require_address: bool,
    timeout: u32,
    timeout_max: u32,
    expires: Option<Expiry>,
    runs_commands: bool,
    uses_sudo: bool,
    run_as: CommandUser,
    sudo: CommandUser,
    cycle_open: Option<String>,
    cycle_close: Option<String>,
    cycle_timer: u32,
    nat: NatRules,
    uses_gpg: bool,
}

impl StanzaDraft {
    pub(super) fn new(place: &Place, sources: Networks) -> Self {
        Self {
            place: place.clone(),
            places: BTreeMap::from([("SOURCE".to_owned(), place.clone())]),
            is_invalid: false,
            sources,
            destinations: Networks::ANY,
            key: None,
            hmac_key: None,
            digest: Digest::Sha256,
            open_ports: None,
            restrict_ports: Vec::new(),
            user: None,
            require_address: false,
            timeout: 0,
            timeout_max: TIMEOUT_MAX,
            expires: None,
            runs_commands: false,
            uses_sudo: false,
            run_as: CommandUser::default(),
            sudo: CommandUser::default(),
            cycle_open: None,
            cycle_close: None,
            cycle_timer: 0,
            nat: NatRules::default(),
            uses_gpg: false,
        }
    }

    /// A stanza whose `SOURCE` is not understood.
    pub(super) fn invalid(place: &Place) -> Self {
        Self { is_invalid: true, ..Self::new(place, Networks::ANY) }
    }

    /// The line of the first of these variables that the stanza has, or else of its `SOURCE`.
    fn place_of(&self, names: &[&str]) -> &Place {
        names.iter().find_map(|name| self.places.get(*name)).unwrap_or(&self.place)
    }

    /// Whether the stanza has one of these variables, also one with an invalid value.
    fn has(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.places.contains_key(*name))
    }

    /// Notes a line that has the name of a key and nothing else.
    pub(super) fn note_key(&mut self, name: &str, place: &Place) {
        self.places.insert(name.to_owned(), place.clone());
    }

    /// Sets a variable. Returns the reason if it has no effect.
    pub(super) fn set(
        &mut self,
        name: &str,
        value: &str,
        place: &Place,
    ) -> Result<Option<&'static str>, Invalid> {
        self.places.insert(name.to_owned(), place.clone());
        let result = self.assign(name, value);
        self.is_invalid |= result.is_err();
        result
    }

    fn assign(&mut self, name: &str, value: &str) -> Result<Option<&'static str>, Invalid> {
        match name {
            "DESTINATION" => {
                self.destinations = Networks::parse(value.trim()).map_err(|entry| network_problem(&entry))?;
            }
            "KEY" => self.key = Some(values::key(value)?),
            "KEY_BASE64" => self.key = Some(values::key_base64(value)?),
            "HMAC_KEY" => self.hmac_key = Some(values::key(value)?),
            "HMAC_KEY_BASE64" => self.hmac_key = Some(values::key_base64(value)?),
            "HMAC_DIGEST_TYPE" => {
                self.digest = value.trim().parse().map_err(|error| Invalid::new(format!("{error}")))?;
            }
            "OPEN_PORTS" => self.open_ports = Some(values::ports(value)?),
            "RESTRICT_PORTS" => self.restrict_ports = values::ports(value)?,
            "REQUIRE_USERNAME" => self.user = Some(values::text(value)?),
            "REQUIRE_SOURCE_ADDRESS" | "REQUIRE_SOURCE" => self.require_address = values::yes(value)?,
            "FW_ACCESS_TIMEOUT" => {
                self.timeout = values::number(values::leading_number(value), 0, TIMER_MAX)?
            }
            "MAX_FW_TIMEOUT" => {
                self.timeout_max = values::number(values::leading_number(value), 1, TIMER_MAX)?
            }
            "ACCESS_EXPIRE" => self.expires = Some(values::date(value.trim())?),
            "ACCESS_EXPIRE_EPOCH" => {
                let epoch = value.trim().parse().map_err(|_| Invalid::new("expected seconds since 1970"))?;
                self.expires = Some(Expiry::Epoch(epoch));
            }
            "ENCRYPTION_MODE" if !value.trim().eq_ignore_ascii_case("CBC") => {
                return Err(Invalid::new("only CBC is supported")
                    .hint("remove the line here, and ENCRYPTION_MODE in the client's .fwknoprc"));
            }
            "ENCRYPTION_MODE" => {}
            "ENABLE_CMD_EXEC" => self.runs_commands = values::yes(value)?,
            "ENABLE_CMD_SUDO_EXEC" => self.uses_sudo = values::yes(value)?,
            "CMD_EXEC_USER" => self.run_as.user = Some(values::text(value)?),
            "CMD_EXEC_GROUP" => self.run_as.group = Some(values::text(value)?),
            "CMD_SUDO_EXEC_USER" => self.sudo.user = Some(values::text(value)?),
            "CMD_SUDO_EXEC_GROUP" => self.sudo.group = Some(values::text(value)?),
            "CMD_CYCLE_OPEN" => self.cycle_open = Some(values::text(value)?),
            "CMD_CYCLE_CLOSE" => self.cycle_close = Some(values::text(value)?),
            "CMD_CYCLE_TIMER" => {
                self.cycle_timer = values::number(values::leading_number(value), 1, TIMER_MAX)?
            }
            "FORCE_NAT" => self.nat.to = Some(values::nat_target(value)?),
            "FORCE_SNAT" => self.nat.source = Some(values::address(value.trim())?),
            "FORCE_MASQUERADE" => self.nat.masquerade = values::yes(value)?,
            "FORWARD_ALL" => self.nat.forward_all = values::yes(value)?,
            "DISABLE_DNAT" => self.nat.no_destination = values::yes(value)?,
            _ if name.starts_with("GPG_") => {
                self.uses_gpg = true;
                return Ok(Some("ignored: GnuPG is not supported"));
            }
            _ => {
                return match misspelled::meant(name) {
                    None => Ok(Some("ignored: fwknop has no such variable")),
                    Some(meant) => Err(Invalid::new("fwknop has no such variable, and would ignore it")
                        .hint(format!("write {meant}, or remove the line"))),
                };
            }
        }
        Ok(None)
    }
}
