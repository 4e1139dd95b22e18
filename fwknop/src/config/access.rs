//! `access.conf`: stanzas, each of which begins with `SOURCE`, and the files that they include.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::includes::ConfigFiles;
use super::lines::{Line, lines};
use super::network::Networks;
use super::problem::{ConfigProblem, Place};
use super::server::ServerSettings;
use super::stanza::{CommandRules, CommandUser, Cycle, Expiry, NatRules, Stanza};
use super::values::{self, Invalid};
use crate::packet::{CipherKey, Digest, HMAC_KEY_MAX, HmacKey, Port};

/// How deep files may include each other.
const DEPTH_MAX: usize = 3;
const TIMEOUT: u32 = 30;
const TIMEOUT_MAX: u32 = 300;
/// The largest number that fwknop accepts for a timer.
const TIMER_MAX: u32 = 1 << 23;
const HMAC_HINT: &str = "make one with `head -c 64 /dev/urandom | base64 -w 0`; write it there as HMAC_KEY_BASE64, and in \
                         the client's .fwknoprc, too, with USE_HMAC Y";

/// The stanzas of an `access.conf`, in order.
pub struct AccessConfig {
    /// The stanzas.
    pub stanzas: Vec<Stanza>,
    /// What is ignored, or has another effect here than with fwknopd.
    pub notices: Vec<ConfigProblem>,
}

/// Parses an `access.conf` and what it includes.
///
/// # Errors
/// All problems because of which the file cannot be used.
pub fn parse_access(
    path: &Path,
    server: &ServerSettings,
    files: &mut dyn ConfigFiles,
) -> Result<AccessConfig, Vec<ConfigProblem>> {
    let mut reader =
        Reader { server, files, draft: None, stanzas: Vec::new(), notices: Vec::new(), problems: Vec::new() };
    reader.read(path, 0, Scope::Stanzas);
    reader.finish();
    if reader.stanzas.is_empty() && reader.problems.is_empty() {
        let place = Place { file: path.to_owned(), line: 0 };
        reader.problems.push(ConfigProblem::new(&place, "no stanza").hint("begin one with SOURCE ANY"));
    }
    match reader.problems.is_empty() {
        true => Ok(AccessConfig { stanzas: reader.stanzas, notices: reader.notices }),
        false => Err(reader.problems),
    }
}

/// What a file may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Stanzas,
    /// `%include_keys`: keys of the current stanza.
    Keys,
}

struct Reader<'a> {
    server: &'a ServerSettings,
    files: &'a mut dyn ConfigFiles,
    draft: Option<Draft>,
    stanzas: Vec<Stanza>,
    notices: Vec<ConfigProblem>,
    problems: Vec<ConfigProblem>,
}

/// The values of a stanza that has not ended yet.
struct Draft {
    place: Place,
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

impl Reader<'_> {
    fn read(&mut self, path: &Path, depth: usize, scope: Scope) {
        let text = match self.files.read(path) {
            Ok(text) => text,
            Err(reason) => {
                let place = Place { file: path.to_owned(), line: 0 };
                return self.problems.push(ConfigProblem::new(&place, reason));
            }
        };
        for line in lines(&text) {
            let place = Place { file: path.to_owned(), line: line.number };
            self.line(line, &place, depth, scope);
        }
    }

    fn line(&mut self, Line { name, value, .. }: Line<'_>, place: &Place, depth: usize, scope: Scope) {
        let Some(value) = value else {
            return self.problems.push(ConfigProblem::new(place, format!("{name}: has no value")));
        };
        let is_key =
            matches!(name, "KEY" | "KEY_BASE64" | "HMAC_KEY" | "HMAC_KEY_BASE64" | "HMAC_DIGEST_TYPE");
        match name {
            "%include" | "%include_folder" | "%include_keys" => self.include(name, value, place, depth),
            "SOURCE" if scope == Scope::Stanzas => {
                self.finish();
                match Networks::parse(value.trim()) {
                    Ok(sources) => self.draft = Some(Draft::new(place.clone(), sources)),
                    Err(entry) => {
                        self.problems.push(network_problem(&entry).at(place, name));
                        // Its other lines are checked, too.
                        self.draft = Some(Draft::new(place.clone(), Networks::ANY));
                    }
                }
            }
            _ if scope == Scope::Keys && !is_key => self.notices.push(ConfigProblem::new(
                place,
                format!("{name}: ignored: a file of %include_keys contains keys only"),
            )),
            _ => {
                let Some(draft) = &mut self.draft else {
                    return self.problems.push(
                        ConfigProblem::new(place, format!("{name}: is before the first SOURCE"))
                            .hint("begin the stanza with SOURCE ANY"),
                    );
                };
                match draft.set(name, value) {
                    Ok(None) => {}
                    Ok(Some(notice)) => {
                        self.notices.push(ConfigProblem::new(place, format!("{name}: {notice}")))
                    }
                    Err(invalid) => self.problems.push(invalid.at(place, name)),
                }
            }
        }
    }

    fn include(&mut self, name: &str, value: &str, place: &Place, depth: usize) {
        let path = PathBuf::from(value.trim());
        if depth >= DEPTH_MAX {
            return self
                .problems
                .push(ConfigProblem::new(place, format!("{name}: more than {DEPTH_MAX} levels")));
        }
        let depth = depth.saturating_add(1);
        match name {
            "%include_folder" => match self.files.list(&path) {
                Ok(paths) => {
                    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "conf"))
                    {
                        self.read(path, depth, Scope::Stanzas);
                    }
                }
                Err(reason) => {
                    self.problems.push(ConfigProblem::new(place, format!("{}: {reason}", path.display())));
                }
            },
            "%include_keys" => self.read(&path, depth, Scope::Keys),
            _ => self.read(&path, depth, Scope::Stanzas),
        }
    }

    fn finish(&mut self) {
        if let Some(draft) = self.draft.take() {
            match draft.finish(self.server, &mut self.notices) {
                Ok(stanza) => self.stanzas.push(stanza),
                Err(problems) => self.problems.extend(problems),
            }
        }
    }
}

fn network_problem(entry: &str) -> Invalid {
    Invalid::new(format!("{entry:?} is no IPv4 address, network or ANY"))
        .hint("write a list like 192.0.2.0/24,198.51.100.7, or ANY")
}

impl Draft {
    fn new(place: Place, sources: Networks) -> Self {
        Self {
            place,
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

    /// Sets a value; returns what to tell about it.
    fn set(&mut self, name: &str, value: &str) -> Result<Option<&'static str>, Invalid> {
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
            "FW_ACCESS_TIMEOUT" => self.timeout = values::number(leading_number(value), 0, TIMER_MAX)?,
            "MAX_FW_TIMEOUT" => self.timeout_max = values::number(leading_number(value), 1, TIMER_MAX)?,
            "ACCESS_EXPIRE" => self.expires = Some(date(value.trim())?),
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
            "CMD_CYCLE_TIMER" => self.cycle_timer = values::number(value, 1, TIMER_MAX)?,
            "FORCE_NAT" => self.nat.to = Some(nat_target(value)?),
            "FORCE_SNAT" => self.nat.source = Some(address(value.trim())?),
            "FORCE_MASQUERADE" => self.nat.masquerade = values::yes(value)?,
            "FORWARD_ALL" => self.nat.forward_all = values::yes(value)?,
            "DISABLE_DNAT" => self.nat.no_destination = values::yes(value)?,
            _ if name.starts_with("GPG_") => {
                self.uses_gpg = true;
                return Ok(Some("ignored: GnuPG is not supported"));
            }
            _ => return Ok(Some("ignored: fwknop has no such variable")),
        }
        Ok(None)
    }

    /// Checks what must fit together.
    fn finish(
        self,
        server: &ServerSettings,
        notices: &mut Vec<ConfigProblem>,
    ) -> Result<Stanza, Vec<ConfigProblem>> {
        let place = self.place.clone();
        let mut problems = self.nat_problems(server);
        let problem = |reason: &str| ConfigProblem::new(&place, reason);
        let key = match &self.key {
            None if self.uses_gpg => {
                problems.push(
                    problem("stanza: has only a GnuPG key, and GnuPG is not supported")
                        .hint("give it KEY_BASE64 and HMAC_KEY_BASE64, and the same keys to the client"),
                );
                None
            }
            None => {
                problems.push(problem("stanza: has no KEY or KEY_BASE64"));
                None
            }
            Some(key) => match CipherKey::new(key) {
                Ok(key) => Some(key),
                Err(error) => {
                    problems.push(problem(&format!("KEY: {error}")));
                    None
                }
            },
        };
        match &self.hmac_key {
            None if key.is_some() => problems.push(
                problem("stanza: has no HMAC key; without one, a copied packet with one more character is accepted again")
                    .hint(HMAC_HINT),
            ),
            Some(hmac_key) if hmac_key.len() > HMAC_KEY_MAX => {
                problems.push(problem(&format!("HMAC_KEY: longer than {HMAC_KEY_MAX} bytes")));
            }
            Some(hmac_key) if key.as_ref().is_some_and(|key| key.is(hmac_key)) => problems.push(
                problem("HMAC_KEY: is the same as KEY").hint("use two different keys"),
            ),
            _ => {}
        }
        let cycle = match (self.cycle_open, self.cycle_close, self.cycle_timer) {
            (None, None, 0) => None,
            (Some(open), Some(close), timer) if close == "NONE" || timer > 0 => {
                let close = Some(close).filter(|close| close != "NONE");
                Some(Cycle { open, timer: if close.is_some() { timer } else { 0 }, close })
            }
            (None, ..) => {
                problems.push(problem("CMD_CYCLE_OPEN: is missing"));
                None
            }
            (_, None, _) => {
                problems.push(problem("CMD_CYCLE_CLOSE: is missing").hint("write NONE if nothing closes"));
                None
            }
            (_, _, _) => {
                problems.push(problem("CMD_CYCLE_TIMER: is missing"));
                None
            }
        };
        let timeout = if self.timeout == 0 { TIMEOUT } else { self.timeout };
        if timeout > self.timeout_max {
            notices.push(problem(&format!(
                "FW_ACCESS_TIMEOUT: is above MAX_FW_TIMEOUT, which limits it to {} s",
                self.timeout_max
            )));
        }
        let (Some(key), Some(hmac_key), true) = (key, &self.hmac_key, problems.is_empty()) else {
            return Err(problems);
        };
        Ok(Stanza {
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
            commands: (self.runs_commands || self.uses_sudo)
                .then_some(CommandRules { run_as: self.run_as, sudo: self.uses_sudo.then_some(self.sudo) }),
            cycle,
            nat: self.nat,
        })
    }

    fn nat_problems(&self, server: &ServerSettings) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let NatRules { to, source, masquerade, forward_all, .. } = self.nat;
        if (to.is_some() || forward_all) && !server.forwarding && !server.local_nat {
            let name = if to.is_some() { "FORCE_NAT" } else { "FORWARD_ALL" };
            problems.push(
                ConfigProblem::new(&self.place, format!("{name}: forwarding is off"))
                    .hint("set ENABLE_IPT_FORWARDING or ENABLE_IPT_LOCAL_NAT to Y in fwknopd.conf"),
            );
        }
        if (source.is_some() || masquerade) && to.is_none() && !forward_all {
            let name = if masquerade { "FORCE_MASQUERADE" } else { "FORCE_SNAT" };
            problems.push(ConfigProblem::new(&self.place, format!("{name}: needs FORCE_NAT or FORWARD_ALL")));
        }
        problems
    }
}

/// fwknop ignores what follows a number, as in `60 # a comment`; only a comment may follow one here.
fn leading_number(value: &str) -> &str {
    value.split('#').next().unwrap_or_default()
}

fn address(text: &str) -> Result<Ipv4Addr, Invalid> {
    text.parse().map_err(|_| Invalid::new("expected an IPv4 address"))
}

fn nat_target(value: &str) -> Result<(Ipv4Addr, u16), Invalid> {
    let expected = || Invalid::new("expected an IPv4 address and a port, like 192.168.1.10 22");
    let mut words = value.split_ascii_whitespace();
    let (Some(host), Some(port), None) = (words.next(), words.next(), words.next()) else {
        return Err(expected());
    };
    let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(expected)?;
    Ok((host.parse().map_err(|_| expected())?, port))
}

fn date(text: &str) -> Result<Expiry, Invalid> {
    let parse = || {
        let mut parts = text.split('/');
        let (month, day, year) = (parts.next()?, parts.next()?, parts.next()?);
        let (month, day, year) = (month.parse().ok()?, day.parse().ok()?, year.parse().ok()?);
        let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && (1970..=9999).contains(&year);
        (valid && parts.next().is_none()).then_some(Expiry::Date(year, month, day))
    };
    parse().ok_or_else(|| Invalid::new("expected MM/DD/YYYY"))
}
