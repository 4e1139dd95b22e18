//! Reads `[action.NAME]` tables: the effects that a client can request.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::BackendKind;
use super::document::{TomlTable, TomlValue, written};
use super::sections::read_ports;
use spa_knock_core::auth::{Action, ActionPart, Arguments, Placeholder, Template, Term, Uses};
use spa_knock_core::knock::{ActionName, PortSpec};

/// The allowed duration of a grant: long enough for a TCP handshake, at most one year.
const GRANTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);
/// The longest grant with backend `iptables`: an ipset entry lasts at most 2,147,483 s.
const IPTABLES_MAX: Duration = Duration::from_secs(24 * 86_400);
/// The default timeout of a command.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The allowed timeouts. At most four commands of a client run at a time, so a hanging one must not run for long.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// The actions by name. An invalid action is `None`; its problems are reported, and its name counts as defined.
pub(super) fn read_actions(
    table: TomlTable<'_>,
    backend: BackendKind,
) -> BTreeMap<ActionName, Option<Action>> {
    let mut actions = BTreeMap::new();
    let mut closes = Vec::new();
    for (name, value) in table.entries() {
        let action = value.table().and_then(|table| read_action(table, backend, &mut closes));
        match name.parse::<ActionName>() {
            Ok(name) => {
                actions.insert(name, action);
            }
            Err(error) => value.problem(error, None),
        }
    }
    for (value, closed) in closes {
        match actions.get(&closed) {
            None => value.problem(format_args!("no such action: {closed}"), None),
            Some(Some(action)) if action.term.is_none() => {
                value.problem(format_args!("action {closed} opens nothing that can be closed"), None);
            }
            Some(_) => {}
        }
    }
    actions
}

/// The keys of an action.
struct Keys<'d> {
    open: Option<TomlValue<'d>>,
    allow_ports: Option<TomlValue<'d>>,
    once: Option<TomlValue<'d>>,
    forward: Option<TomlValue<'d>>,
    close: Option<TomlValue<'d>>,
    run: Option<TomlValue<'d>>,
    undo: Option<TomlValue<'d>>,
    allow_arguments: Option<TomlValue<'d>>,
    timeout: Option<TomlValue<'d>>,
    duration: Option<TomlValue<'d>>,
    max: Option<TomlValue<'d>>,
}

fn read_action<'d>(
    mut table: TomlTable<'d>,
    backend: BackendKind,
    closes: &mut Vec<(TomlValue<'d>, ActionName)>,
) -> Option<Action> {
    let keys = Keys {
        open: table.take("open"),
        run: table.take("run"),
        forward: table.take("forward"),
        close: table.take("close"),
        duration: table.take("for"),
        max: table.take("max"),
        timeout: table.take("timeout"),
        undo: table.take("undo"),
        allow_arguments: table.take("allow-arguments"),
        allow_ports: table.take("allow-ports"),
        once: table.take("once"),
    };
    keys.check_dependencies();
    for value in [&keys.open, &keys.forward].into_iter().flatten().filter(|_| backend == BackendKind::None) {
        value.problem("cannot open anything with firewall.backend = \"none\"", None);
    }
    let parts = keys.read_parts();
    keys.check_arguments(parts.as_deref());
    let longest = keys.max.as_ref().or(keys.duration.as_ref());
    let term = if keys.have_effect() {
        keys.read_term(&table, parts.as_deref())
    } else {
        table.problem(
            "the action has no effect",
            Some("add an effect, e.g. open = [\"tcp/22\"] or run = [\"/usr/bin/true\"]"),
        );
        None
    };
    if let (BackendKind::Iptables, Some(value), Some(Some(Term { max, .. }))) = (backend, longest, term)
        && max > IPTABLES_MAX
        && (keys.open.is_some() || keys.forward.is_some())
    {
        value.problem("a grant lasts at most 24 days with backend \"iptables\"", None);
    }
    table.finish();
    if let (Some(close), Some(closed)) = (keys.close, keys_close(&parts)) {
        closes.push((close, closed));
    }
    Some(Action { parts: parts?, term: term? })
}

fn keys_close(parts: &Option<Vec<ActionPart>>) -> Option<ActionName> {
    parts.iter().flatten().find_map(|part| match part {
        ActionPart::Close(action) => Some(action.clone()),
        _ => None,
    })
}

impl<'d> Keys<'d> {
    fn have_effect(&self) -> bool {
        [&self.open, &self.forward, &self.close, &self.run].into_iter().any(Option::is_some)
    }

    /// Reports keys that have no effect without another key.
    fn check_dependencies(&self) {
        if let (Some(timeout), None) = (&self.timeout, &self.run) {
            timeout.problem("has no effect without `run`", Some("set the duration of a grant with `for`"));
        }
        if let (Some(undo), None) = (&self.undo, &self.run) {
            undo.problem("has no effect without `run`", Some("remove `undo`: grants expire automatically"));
        }
        if let (Some(once), None) = (&self.once, &self.open) {
            once.problem("has no effect without `open`", None);
        }
        let opens_argument = self.open.as_ref().is_some_and(|open| open.is("argument"));
        match (&self.allow_ports, &self.open) {
            (Some(allowed), _) if !opens_argument => {
                allowed
                    .problem("has no effect unless `open` is \"argument\"", Some("set open = \"argument\""));
            }
            (None, Some(open)) if opens_argument => {
                open.problem(
                    "`allow-ports` is missing",
                    Some("add allow-ports = [\"tcp/8000-8999\"] (the ports that clients can request)"),
                );
            }
            _ => {}
        }
    }

    /// The effects of the action, in the order in which they are applied. None if one is invalid; its problems are
    /// reported.
    fn read_parts(&self) -> Option<Vec<ActionPart>> {
        let parts = [
            self.open.as_ref().map(|open| self.read_open(open)),
            self.forward.as_ref().map(read_forward),
            self.close.as_ref().map(|close| close.parsed().map(ActionPart::Close)),
            self.run.as_ref().map(|run| self.read_run(run)),
        ];
        // Reads all parts first, so that every problem is reported.
        let parts: Vec<Option<ActionPart>> = parts.into_iter().flatten().collect();
        parts.into_iter().collect::<Option<Vec<_>>>().filter(|parts| !parts.is_empty())
    }

    fn read_open(&self, open: &TomlValue<'_>) -> Option<ActionPart> {
        let uses = match self.once.as_ref().map(TomlValue::flag) {
            Some(once) => Some(if once? { Uses::One } else { Uses::Many }),
            None => Some(Uses::Many),
        };
        if open.is("argument") {
            let allowed = self.allow_ports.as_ref().and_then(read_ports);
            return Some(ActionPart::OpenArgument { allowed: allowed?, uses: uses? });
        }
        let ports = read_ports(open)?;
        if uses == Some(Uses::One) && ports.iter().any(|ports| ports.single().is_none()) {
            open.problem(
                "a port range cannot be opened with `once`",
                Some("list single ports, or remove `once`"),
            );
            return None;
        }
        Some(ActionPart::Open { ports, uses: uses? })
    }

    fn read_run(&self, run: &TomlValue<'_>) -> Option<ActionPart> {
        let timeout = self.timeout.as_ref().map_or(Some(TIMEOUT), |value| value.duration(TIMEOUTS));
        let argv = read_command(run);
        let undo = match &self.undo {
            Some(undo) => Some(read_command(undo)?),
            None => None,
        };
        let arguments = match &self.allow_arguments {
            Some(value) => Arguments::Listed(value.parsed_list()?),
            None => Arguments::default(),
        };
        Some(ActionPart::Run { argv: argv?, timeout: timeout?, undo, arguments })
    }

    /// Reports `allow-arguments` if no command contains `{argument}`.
    fn check_arguments(&self, parts: Option<&[ActionPart]>) {
        let (Some(allowed), Some(parts)) = (&self.allow_arguments, parts) else { return };
        if !parts.iter().any(|part| part.uses(Placeholder::Argument)) {
            allowed.problem(
                "has no effect because no command contains {argument}",
                Some("use it in a command: run = [\"/usr/bin/systemctl\", \"restart\", \"{argument}\"]"),
            );
        }
    }

    /// The duration of the action's effects; `Some(None)` if none of them has a duration.
    fn read_term(&self, table: &TomlTable<'_>, parts: Option<&[ActionPart]>) -> Option<Option<Term>> {
        // The value of `{seconds}` must have a limit: otherwise a client could choose any number.
        let has_seconds = parts.is_some_and(|parts| parts.iter().any(|part| part.uses(Placeholder::Seconds)));
        let lasts = has_seconds || self.open.is_some() || self.forward.is_some() || self.undo.is_some();
        match &self.duration {
            Some(usual) if lasts => read_term(usual, self.max.as_ref()).map(Some),
            None if has_seconds => {
                table.problem(
                    "`for` is missing; it determines {seconds}",
                    Some(
                        "add for = \"30s\" (the value of {seconds}); max = \"1h\" allows clients to request more",
                    ),
                );
                None
            }
            None if lasts => {
                table.problem("`for` is missing", Some("add for = \"30s\" (how long it lasts)"));
                None
            }
            _ => {
                for value in [&self.duration, &self.max].into_iter().flatten() {
                    value.problem(
                        "has no effect because nothing in this action has a duration",
                        Some("add undo = [...] to undo `run` after this time, or use timeout = \"10s\" to limit how long it runs"),
                    );
                }
                Some(None)
            }
        }
    }
}

/// Reads `for` and `max`; `max` defaults to `for`.
fn read_term(usual: &TomlValue<'_>, max: Option<&TomlValue<'_>>) -> Option<Term> {
    let usual = usual.duration(GRANTS);
    let max = match max {
        Some(value) => read_max(value, usual),
        None => usual,
    };
    Some(Term { usual: usual?, max: max? })
}

fn read_max(value: &TomlValue<'_>, duration: Option<Duration>) -> Option<Duration> {
    let max = value.duration(GRANTS)?;
    let shorter_than = duration.filter(|&duration| max < duration);
    if let Some(duration) = shorter_than {
        value.problem(format_args!("must not be shorter than `for` ({})", written(duration)), None);
        return None;
    }
    Some(max)
}

/// Reads `{ from = "tcp/15432", to = "10.0.0.5:5432" }`; `to` can list one target per IP version.
fn read_forward(value: &TomlValue<'_>) -> Option<ActionPart> {
    let mut table = value.table()?;
    let from = table.require("from", "add from = \"tcp/15432\" (the port that clients connect to)");
    let to = table.require("to", "add to = \"10.0.0.5:5432\", \"[fd00::5]:5432\" or \":8080\" (the target)");
    let port: Option<PortSpec> = from.and_then(|value| value.parsed());
    let to = to.and_then(|value| read_targets(&value));
    table.finish();
    Some(ActionPart::Forward { port: port?, to: to? })
}

fn read_targets(value: &TomlValue<'_>) -> Option<Vec<SocketAddr>> {
    let mut targets: Vec<SocketAddr> = Vec::new();
    for item in value.one_or_more()? {
        for target in read_target(&item)? {
            if targets.iter().any(|known| known.is_ipv4() == target.is_ipv4()) {
                item.problem("second target for the same IP version", None);
                return None;
            }
            targets.push(target);
        }
    }
    Some(targets)
}

/// Reads a target: a host and a port. Without a host, it is a port of this host for both IP versions.
fn read_target(value: &TomlValue<'_>) -> Option<Vec<SocketAddr>> {
    const FORM: &str = "write it like 10.0.0.5:5432, [fd00::5]:5432 or, for a port of this host, :8080";
    let text = value.text()?;
    let targets = match text.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|&port: &u16| port != 0).map(|port| {
            let here = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
            here.map(|address| SocketAddr::new(address, port)).to_vec()
        }),
        None => text.parse::<SocketAddr>().ok().filter(is_elsewhere).map(|target| vec![target]),
    };
    if targets.is_none() {
        value.problem("not a target", Some(FORM));
    }
    targets
}

fn is_elsewhere(target: &SocketAddr) -> bool {
    let ip = target.ip();
    target.port() != 0 && !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

fn read_command(value: &TomlValue<'_>) -> Option<Vec<Template>> {
    if let Some(program) = value.list()?.first() {
        check_program(program);
    }
    value.parsed_list()
}

fn check_program(value: &TomlValue<'_>) {
    let Some(program) = value.as_text() else { return };
    let Ok(template) = program.parse::<Template>() else { return };
    if !template.is_constant() {
        value.problem(
            "the program cannot contain a placeholder",
            Some("use placeholders only in the arguments"),
        );
    } else if !Path::new(program).is_absolute() {
        value.problem(
            "the program is not an absolute path",
            Some("write the full path; commands run without a shell and without PATH"),
        );
    }
}
