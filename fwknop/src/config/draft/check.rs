//! The end of a stanza: what its variables must have in common.

use super::StanzaDraft;
use crate::config::problem::ConfigProblem;
use crate::config::server::ServerSettings;
use crate::config::stanza::{CommandRules, Cycle, NatRules, Stanza};
use crate::packet::{CipherKey, HMAC_KEY_MAX, HmacKey};

/// `FW_ACCESS_TIMEOUT` of a stanza without one, in seconds.
const TIMEOUT: u32 = 30;
/// The variables that set the encryption key.
const KEY: [&str; 2] = ["KEY_BASE64", "KEY"];
/// The variables that set the HMAC key.
const HMAC_KEY: [&str; 2] = ["HMAC_KEY_BASE64", "HMAC_KEY"];
const HMAC_HINT: &str = "make one with `head -c 64 /dev/urandom | base64 -w 0`; write it there as HMAC_KEY_BASE64, and in \
                         the client's .fwknoprc, too, with USE_HMAC Y";

impl StanzaDraft {
    /// Checks what must fit together.
    pub(in crate::config) fn finish(
        self,
        server: &ServerSettings,
        notices: &mut Vec<ConfigProblem>,
    ) -> Result<Stanza, Vec<ConfigProblem>> {
        let place = self.place.clone();
        let mut problems = self.nat_problems(server);
        let problem = |reason: &str| ConfigProblem::new(&place, reason);
        let hmac_problem = |reason: &str| ConfigProblem::new(self.place_of(&HMAC_KEY), reason);
        let key = match &self.key {
            None if self.uses_gpg => {
                problems.push(
                    problem("stanza: has only a GnuPG key, and GnuPG is not supported")
                        .hint("give it KEY_BASE64 and HMAC_KEY_BASE64, and the same keys to the client"),
                );
                None
            }
            // A key that is not understood is already reported.
            None if self.has(&KEY) => None,
            None => {
                problems.push(problem("stanza: has no KEY or KEY_BASE64"));
                None
            }
            Some(key) => match CipherKey::new(key) {
                Ok(key) => Some(key),
                Err(error) => {
                    problems.push(ConfigProblem::new(self.place_of(&KEY), format!("KEY: {error}")));
                    None
                }
            },
        };
        match &self.hmac_key {
            None if key.is_some() && !self.has(&HMAC_KEY) => problems.push(
                problem("stanza: has no HMAC key; without one, a copied packet with one more character is accepted again")
                    .hint(HMAC_HINT),
            ),
            Some(hmac_key) if hmac_key.len() > HMAC_KEY_MAX => {
                problems.push(hmac_problem(&format!("HMAC_KEY: longer than {HMAC_KEY_MAX} bytes")));
            }
            Some(hmac_key) if key.as_ref().is_some_and(|key| key.is(hmac_key)) => problems.push(
                hmac_problem("HMAC_KEY: is the same as KEY").hint("use two different keys"),
            ),
            _ => {}
        }
        let cycle = self.cycle(&mut problems);
        let timeout = self.timeout();
        notices.extend(self.timeout_notice());
        let (Some(key), Some(hmac_key), true) = (key, &self.hmac_key, problems.is_empty()) else {
            return Err(problems);
        };
        Ok(Stanza {
            commands: self.commands(),
            nat_place: self.place_of(&["FORCE_NAT"]).clone(),
            run_as_place: self.place_of(&["CMD_EXEC_USER", "CMD_EXEC_GROUP"]).clone(),
            place: self.place,
            sources: self.sources,
            destinations: self.destinations,
            hmac_key: HmacKey::new(self.digest, hmac_key),
            key,
            open_ports: self.open_ports,
            restrict_ports: self.restrict_ports,
            user: self.user,
            require_address: self.require_address,
            timeout: timeout.min(self.timeout_max),
            timeout_max: self.timeout_max,
            expires: self.expires,
            cycle,
            nat: self.nat,
        })
    }

    /// The commands of `CMD_CYCLE_OPEN` and the variables that belong to it, if they are complete.
    pub(super) fn cycle(&self, problems: &mut Vec<ConfigProblem>) -> Option<Cycle> {
        let problem = |reason: &str| ConfigProblem::new(&self.place, reason);
        let missing = match (&self.cycle_open, &self.cycle_close, self.cycle_timer) {
            (None, None, 0) => return None,
            (Some(open), Some(close), _) if close == "NONE" => {
                return Some(Cycle { open: open.clone(), close: None, timer: 0 });
            }
            (Some(_), Some(_), 0) => problem("CMD_CYCLE_TIMER: is missing"),
            (Some(open), Some(close), timer) => {
                return Some(Cycle { open: open.clone(), close: Some(close.clone()), timer });
            }
            (None, ..) => problem("CMD_CYCLE_OPEN: is missing"),
            (_, None, _) => problem("CMD_CYCLE_CLOSE: is missing").hint("write NONE if nothing closes"),
        };
        problems.push(missing);
        None
    }

    pub(super) fn commands(&self) -> Option<CommandRules> {
        (self.runs_commands || self.uses_sudo).then(|| CommandRules {
            run_as: self.run_as.clone(),
            sudo: self.uses_sudo.then(|| self.sudo.clone()),
        })
    }

    /// Reports if the usual time is limited, which fwknopd announces, but does not do.
    pub(super) fn timeout_notice(&self) -> Option<ConfigProblem> {
        let reason =
            format!("FW_ACCESS_TIMEOUT: is above MAX_FW_TIMEOUT, which limits it to {} s", self.timeout_max);
        let place = self.place_of(&["FW_ACCESS_TIMEOUT", "MAX_FW_TIMEOUT"]);
        (self.timeout() > self.timeout_max).then(|| ConfigProblem::new(place, reason))
    }

    /// The usual time in seconds, before it is limited.
    pub(super) const fn timeout(&self) -> u32 {
        if self.timeout == 0 { TIMEOUT } else { self.timeout }
    }

    pub(super) fn nat_problems(&self, server: &ServerSettings) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let NatRules { to, source, masquerade, forward_all, .. } = self.nat;
        if (to.is_some() || forward_all) && !server.forwarding && !server.local_nat {
            let name = if to.is_some() { "FORCE_NAT" } else { "FORWARD_ALL" };
            problems.push(
                ConfigProblem::new(self.place_of(&[name]), format!("{name}: forwarding is off"))
                    .hint("set ENABLE_IPT_FORWARDING or ENABLE_IPT_LOCAL_NAT to Y in fwknopd.conf"),
            );
        }
        // A target that is not understood is already reported.
        let is_unknown = self.is_invalid && self.has(&["FORCE_NAT", "FORWARD_ALL"]);
        if (source.is_some() || masquerade) && to.is_none() && !forward_all && !is_unknown {
            let name = if masquerade { "FORCE_MASQUERADE" } else { "FORCE_SNAT" };
            let place = self.place_of(&[name]);
            problems.push(ConfigProblem::new(place, format!("{name}: needs FORCE_NAT or FORWARD_ALL")));
        }
        problems
    }
}
