//! The actions of all scenes, as texts: the policy is made from them, and the model reads them by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use spa_knock_core::auth::{Action, ActionPart, Arguments, Template, Term, Uses};
use spa_knock_core::knock::{ActionName, PortRange};

/// An action, as an administrator writes it.
pub(super) struct ActionText {
    pub(super) name: &'static str,
    pub(super) parts: &'static [PartText],
    /// The usual and the longest duration in seconds.
    pub(super) term: Option<(u32, u32)>,
}

/// A part of an action.
pub(super) enum PartText {
    Open(&'static [&'static str]),
    OpenOnce(&'static [&'static str]),
    Named(&'static [&'static str]),
    NamedOnce(&'static [&'static str]),
    Forward(&'static str, &'static [&'static str]),
    Close(&'static str),
    Run {
        argv: &'static [&'static str],
        undo: Option<&'static [&'static str]>,
        listed: &'static [&'static str],
    },
}

use PartText::{Close, Forward, Named, NamedOnce, Open, OpenOnce, Run};

const STAMP: PartText = Run { argv: &["/bin/touch", "/tmp/{action}-{seconds}"], undo: None, listed: &[] };

/// All actions. A client can also ask for one that is not here.
pub(super) const ACTIONS: [ActionText; 14] = [
    ActionText { name: "ssh", parts: &[Open(&["tcp/22"])], term: Some((30, 600)) },
    ActionText { name: "web", parts: &[Open(&["tcp/443", "udp/443"])], term: Some((1, 1)) },
    ActionText {
        name: "many",
        parts: &[Open(&["tcp/22", "udp/53", "tcp/8000-8999"])],
        term: Some((5, 86_400)),
    },
    ActionText { name: "once", parts: &[OpenOnce(&["tcp/443"]), STAMP], term: Some((30, 600)) },
    ActionText { name: "named", parts: &[Named(&["tcp/8000-8999", "udp/53"])], term: Some((30, 600)) },
    ActionText { name: "named-once", parts: &[NamedOnce(&["tcp/8000-8999"])], term: Some((30, 600)) },
    ActionText { name: "inside", parts: &[Forward("tcp/15432", &["10.0.0.5:5432"])], term: Some((30, 60)) },
    ActionText {
        name: "here",
        parts: &[Forward("tcp/80", &["0.0.0.0:8080", "[::]:8081"])],
        term: Some((30, 60)),
    },
    ActionText { name: "shut", parts: &[Close("ssh")], term: None },
    ActionText { name: "touch", parts: &[STAMP], term: None },
    ActionText {
        name: "lamp",
        parts: &[Run {
            argv: &["/bin/lamp", "{argument}", "{address}", "{client}:{port}"],
            undo: Some(&["/bin/lamp", "off", "{argument}"]),
            listed: &[],
        }],
        term: Some((60, 120)),
    },
    ActionText {
        name: "pick",
        parts: &[Run { argv: &["/bin/pick", "{argument}"], undo: None, listed: &["web-*", "/srv/www"] }],
        term: None,
    },
    ActionText { name: "both", parts: &[STAMP, Open(&["tcp/22"]), Open(&["tcp/23"])], term: Some((30, 600)) },
    ActionText {
        name: "all",
        parts: &[Named(&["tcp/8000-8999"]), Forward("tcp/81", &["[2001:db8::5]:81"]), STAMP],
        term: Some((30, 600)),
    },
];

/// The same for the keeper.
pub(super) fn actions() -> BTreeMap<ActionName, Action> {
    let action = |text: &ActionText| {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let term = text.term.map(|(usual, max)| Term { usual: seconds(usual), max: seconds(max) });
        (name(text.name), Action { parts: text.parts.iter().map(part).collect(), term })
    };
    ACTIONS.iter().map(action).collect()
}

pub(super) fn name(text: &str) -> ActionName {
    text.parse().expect("an action name")
}

fn part(text: &PartText) -> ActionPart {
    match text {
        Open(texts) => ActionPart::Open { ports: ports(texts), uses: Uses::Many },
        OpenOnce(texts) => ActionPart::Open { ports: ports(texts), uses: Uses::One },
        Named(texts) => ActionPart::OpenArgument { allowed: ports(texts), uses: Uses::Many },
        NamedOnce(texts) => ActionPart::OpenArgument { allowed: ports(texts), uses: Uses::One },
        Forward(port, to) => ActionPart::Forward {
            port: port.parse().expect("a port"),
            to: to.iter().map(|to| to.parse().expect("an address")).collect(),
        },
        Close(action) => ActionPart::Close(name(action)),
        Run { argv, undo, listed } => ActionPart::Run {
            argv: templates(argv),
            timeout: Duration::from_secs(10),
            undo: undo.map(templates),
            arguments: match listed {
                [] => Arguments::Names,
                listed => {
                    Arguments::Listed(listed.iter().map(|text| text.parse().expect("a pattern")).collect())
                }
            },
        },
    }
}

fn templates(texts: &[&str]) -> Vec<Template> {
    texts.iter().map(|text| text.parse().expect("a template")).collect()
}

fn ports(texts: &[&str]) -> Vec<PortRange> {
    texts.iter().map(|text| text.parse().expect("ports")).collect()
}
