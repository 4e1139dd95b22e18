//! `[action.NAME]`: what a knock can do.

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

/// A grant is at least as long as a TCP handshake may take, and at most a year.
const GRANTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);
/// An entry of an ipset lasts at most 2,147,483 s.
const IPTABLES_MAX: Duration = Duration::from_secs(24 * 86_400);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Four commands of a client run at a time; one that hangs must not hold its place for long.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// The actions by name. A bad one is `None` and has left its problems, but its name may be used.
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
            None => value.problem(format_args!("no action is called {closed}"), None),
            Some(Some(action)) if action.term.is_none() => {
                value.problem(format_args!("{closed} opens nothing that could be closed"), None);
            }
            Some(_) => {}
        }
    }
    actions
}

/// What stands in an action.
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
    keys.check_company();
    for value in [&keys.open, &keys.forward].into_iter().flatten().filter(|_| backend == BackendKind::None) {
        value.problem("cannot open anything with firewall.backend = \"none\"", None);
    }
    let parts = keys.read_parts();
    keys.check_arguments(parts.as_deref());
    let longest = keys.max.as_ref().or(keys.duration.as_ref());
    let term = if keys.have_effect() {
        keys.read_term(&table, parts.as_deref())
    } else {
        table.problem("no effect", Some("give it one: open = [\"tcp/22\"] or run = [\"/usr/bin/true\"]"));
        None
    };
    if let (BackendKind::Iptables, Some(value), Some(Some(Term { max, .. }))) = (backend, longest, term)
        && max > IPTABLES_MAX
        && (keys.open.is_some() || keys.forward.is_some())
    {
        value.problem("backend \"iptables\" closes after at most 24 days", None);
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

    /// Keys that mean nothing without others.
    fn check_company(&self) {
        if let (Some(timeout), None) = (&self.timeout, &self.run) {
            timeout.problem(
                "only an action with `run` has a timeout",
                Some("a grant lasts as long as `for` says"),
            );
        }
        if let (Some(undo), None) = (&self.undo, &self.run) {
            undo.problem("only what `run` does is undone by a command", Some("a grant ends by itself"));
        }
        if let (Some(once), None) = (&self.once, &self.open) {
            once.problem("only what `open` opens is opened once", None);
        }
        let opens_argument = self.open.as_ref().is_some_and(|open| open.is("argument"));
        match (&self.allow_ports, &self.open) {
            (Some(allowed), _) if !opens_argument => {
                allowed.problem(
                    "ports that a client may name, but none is asked for",
                    Some("open = \"argument\""),
                );
            }
            (None, Some(open)) if opens_argument => {
                open.problem(
                    "`allow-ports` is missing",
                    Some("allow-ports = [\"tcp/8000-8999\"]: what a client may open"),
                );
            }
            _ => {}
        }
    }

    /// What the action does, in its order; a part that is wrong has left its problems.
    fn read_parts(&self) -> Option<Vec<ActionPart>> {
        let parts = [
            self.open.as_ref().map(|open| self.read_open(open)),
            self.forward.as_ref().map(read_forward),
            self.close.as_ref().map(|close| close.parsed().map(ActionPart::Close)),
            self.run.as_ref().map(|run| self.read_run(run)),
        ];
        // All of them first, so that every problem is told.
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
                "a range cannot be opened for one connection",
                Some("name single ports, or drop `once`"),
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

    /// Arguments are allowed where a command has a place for them.
    fn check_arguments(&self, parts: Option<&[ActionPart]>) {
        let (Some(allowed), Some(parts)) = (&self.allow_arguments, parts) else { return };
        if !parts.iter().any(|part| part.uses(Placeholder::Argument)) {
            allowed.problem(
                "arguments that a client may name, but no command has {argument}",
                Some("run = [\"/usr/bin/systemctl\", \"restart\", \"{argument}\"]"),
            );
        }
    }

    /// How long what it does lasts; `Some(None)` where nothing of it does.
    fn read_term(&self, table: &TomlTable<'_>, parts: Option<&[ActionPart]>) -> Option<Option<Term>> {
        // A command that is told how long something lasts is told what the admin allows, not what a client asks for.
        let told = parts.is_some_and(|parts| parts.iter().any(|part| part.uses(Placeholder::Seconds)));
        let lasts = told || self.open.is_some() || self.forward.is_some() || self.undo.is_some();
        match &self.duration {
            Some(usual) if lasts => read_term(usual, self.max.as_ref()).map(Some),
            None if told => {
                table.problem(
                    "`for` is missing: it bounds {seconds}",
                    Some(
                        "for = \"30s\": what {seconds} is; max = \"1h\": the most that a client may ask for",
                    ),
                );
                None
            }
            None if lasts => {
                table.problem("`for` is missing", Some("for = \"30s\": how long it lasts"));
                None
            }
            _ => {
                for value in [&self.duration, &self.max].into_iter().flatten() {
                    value.problem(
                        "nothing that it does lasts",
                        Some("undo = [...]: what undoes `run` then; timeout = \"10s\": when it is killed"),
                    );
                }
                Some(None)
            }
        }
    }
}

/// `for`, and `max` which is as long unless it is said.
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
        value.problem(format_args!("shorter than `for`, {}", written(duration)), None);
        return None;
    }
    Some(max)
}

/// `{ from = "tcp/15432", to = "10.0.0.5:5432" }`, or a list of targets, one for each IP version.
fn read_forward(value: &TomlValue<'_>) -> Option<ActionPart> {
    let mut table = value.table()?;
    let from = table.require("from", "from = \"tcp/15432\": the port that is connected to");
    let to = table.require("to", "to = \"10.0.0.5:5432\", \"[fd00::5]:5432\" or \":8080\": where it leads");
    let door: Option<PortSpec> = from.and_then(|value| value.parsed());
    let to = to.and_then(|value| read_targets(&value));
    table.finish();
    Some(ActionPart::Forward { door: door?, to: to? })
}

fn read_targets(value: &TomlValue<'_>) -> Option<Vec<SocketAddr>> {
    let mut targets: Vec<SocketAddr> = Vec::new();
    for item in value.one_or_more()? {
        for target in read_target(&item)? {
            if targets.iter().any(|known| known.is_ipv4() == target.is_ipv4()) {
                item.problem("a second target of one IP version", None);
                return None;
            }
            targets.push(target);
        }
    }
    Some(targets)
}

/// A host and a port; without a host, this one.
fn read_target(value: &TomlValue<'_>) -> Option<Vec<SocketAddr>> {
    const FORM: &str = "a target is written 10.0.0.5:5432, [fd00::5]:5432 or, on this host, :8080";
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
        value.problem("the program cannot be a placeholder", Some("only its arguments can"));
    } else if !Path::new(program).is_absolute() {
        value.problem("the program is not an absolute path", Some("there is no shell and no search for it"));
    }
}
