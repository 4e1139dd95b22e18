//! `[action.NAME]`: what a knock can do.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::Backend;
use super::document::{Table, Value, written};
use super::sections::read_doors;
use crate::gate::{Action, Template, Term, Undo};
use crate::knock::ActionName;

/// A grant is at least as long as a TCP handshake may take, and at most a year.
const GRANTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Sixteen commands run at a time; one that hangs must not hold its place for long.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// The actions by name. A bad one is `None` and has left its problems, but its name may be used.
pub(super) fn read_actions(table: Table<'_>, backend: Backend) -> BTreeMap<ActionName, Option<Action>> {
    let mut actions = BTreeMap::new();
    for (name, value) in table.entries() {
        let action = value.table().and_then(|table| read_action(table, backend));
        match name.parse::<ActionName>() {
            Ok(name) => {
                actions.insert(name, action);
            }
            Err(error) => value.problem(error, None),
        }
    }
    actions
}

/// What stands in an action, before it is known which kind of action it is.
struct Keys<'d> {
    open: Option<Value<'d>>,
    run: Option<Value<'d>>,
    forward: Option<Value<'d>>,
    close: Option<Value<'d>>,
    duration: Option<Value<'d>>,
    max: Option<Value<'d>>,
    timeout: Option<Value<'d>>,
    undo: Option<Value<'d>>,
}

fn read_action(mut table: Table<'_>, backend: Backend) -> Option<Action> {
    let keys = Keys {
        open: table.take("open"),
        run: table.take("run"),
        forward: table.take("forward"),
        close: table.take("close"),
        duration: table.take("for"),
        max: table.take("max"),
        timeout: table.take("timeout"),
        undo: table.take("undo"),
    };
    if let Some(later) = table.take("allow-ports") {
        later.not_yet();
    }
    if let Some(once) = table.take("once")
        && once.flag() == Some(true)
    {
        once.not_yet();
    }
    let action = read_effect(&table, &keys, backend);
    table.finish();
    action
}

fn read_effect(table: &Table<'_>, keys: &Keys<'_>, backend: Backend) -> Option<Action> {
    let effects =
        [("open", &keys.open), ("run", &keys.run), ("forward", &keys.forward), ("close", &keys.close)];
    let present: Vec<&str> =
        effects.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| *name).collect();
    for later in [&keys.forward, &keys.close].into_iter().flatten() {
        later.not_yet();
    }
    match (present.as_slice(), &keys.open, &keys.run) {
        ([], _, _) => {
            table.problem("no effect", Some("give it one: open = [\"tcp/22\"] or run = [\"/usr/bin/true\"]"));
            None
        }
        ([_], Some(open), None) => read_open(table, open, keys, backend),
        ([_], None, Some(run)) => read_run(run, keys),
        ([_], _, _) => None,
        (several, _, _) => {
            let message = format!("more than one effect: {}", several.join(", "));
            table.problem(message, Some("an action does one thing: make an action of each"));
            None
        }
    }
}

fn read_open(table: &Table<'_>, open: &Value<'_>, keys: &Keys<'_>, backend: Backend) -> Option<Action> {
    if let Some(timeout) = &keys.timeout {
        timeout
            .problem("only an action with `run` has a timeout", Some("a grant lasts as long as `for` says"));
    }
    if let Some(undo) = &keys.undo {
        undo.problem("only an action with `run` is undone by a command", Some("a grant ends by itself"));
    }
    if backend == Backend::None {
        open.problem("cannot open anything with firewall.backend = \"none\"", None);
    }
    let doors = if open.is("argument") {
        open.not_yet();
        None
    } else {
        read_doors(open)
    };
    let Some(value) = &keys.duration else {
        table.problem("`for` is missing", Some("for = \"30s\": how long the ports stay open"));
        return None;
    };
    let term = read_term(value, keys.max.as_ref());
    Some(Action::Open { doors: doors?, term: term? })
}

/// `for`, and `max` which is as long unless it is said.
fn read_term(usual: &Value<'_>, max: Option<&Value<'_>>) -> Option<Term> {
    let usual = usual.duration(GRANTS);
    let max = match max {
        Some(value) => read_max(value, usual),
        None => usual,
    };
    Some(Term { usual: usual?, max: max? })
}

fn read_max(value: &Value<'_>, duration: Option<Duration>) -> Option<Duration> {
    let max = value.duration(GRANTS)?;
    let shorter_than = duration.filter(|&duration| max < duration);
    if let Some(duration) = shorter_than {
        value.problem(format_args!("shorter than `for`, {}", written(duration)), None);
        return None;
    }
    Some(max)
}

fn read_run(run: &Value<'_>, keys: &Keys<'_>) -> Option<Action> {
    let undo = read_undo(keys);
    let timeout = keys.timeout.as_ref().map_or(Some(TIMEOUT), |value| value.duration(TIMEOUTS));
    let argv = read_command(run);
    Some(Action::Run { argv: argv?, timeout: timeout?, undo })
}

/// What undoes a command, and when; nothing where there is no such thing, or it has left a problem.
fn read_undo(keys: &Keys<'_>) -> Option<Undo> {
    match (&keys.undo, &keys.duration) {
        (Some(undo), Some(usual)) => {
            let (argv, term) = (read_command(undo), read_term(usual, keys.max.as_ref()));
            Some(Undo { argv: argv?, term: term? })
        }
        (Some(undo), None) => {
            undo.problem("`for` is missing", Some("for = \"1m\": when it is undone"));
            None
        }
        (None, _) => {
            for value in [&keys.duration, &keys.max].into_iter().flatten() {
                value.problem(
                    "a command ends by itself and has no duration",
                    Some("undo = [...]: what undoes it then; timeout = \"10s\": when it is killed"),
                );
            }
            None
        }
    }
}

fn read_command(value: &Value<'_>) -> Option<Vec<Template>> {
    if let Some(program) = value.list()?.first() {
        check_program(program);
    }
    value.parsed_list()
}

fn check_program(value: &Value<'_>) {
    let Some(program) = value.as_text() else { return };
    let Ok(template) = program.parse::<Template>() else { return };
    if !template.is_constant() {
        value.problem("the program cannot be a placeholder", Some("only its arguments can"));
    } else if !Path::new(program).is_absolute() {
        value.problem("the program is not an absolute path", Some("there is no shell and no search for it"));
    }
}
