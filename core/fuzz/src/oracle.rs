//! What a knock is allowed to do: a second, simpler implementation of `docs/internals/protocol.md`.

use std::net::IpAddr;
use std::time::Duration;

use spa_knock_core::auth::{
    AccessTarget, ActionPart, Authorized, CommandLine, Effect, Grant, Outcome, Policy, Template, Term, Uses,
};
use spa_knock_core::knock::{AddressPolicy, Knock, PortRange, Timestamp};

/// The outcome of an authorized knock. Panics if its effects differ from what the knock requests and the policy allows.
#[must_use]
pub fn check_effects(
    authorized: &Authorized,
    knock: &Knock,
    policy: &Policy,
    source: IpAddr,
    now: Timestamp,
) -> Outcome {
    let rules = &policy.clients.first().expect("a client").rules;
    assert!(knock.timestamp.distance(now) <= policy.window);
    assert!(rules.allow.contains(&knock.action) && rules.sources.contains(&knock.policy));
    assert!(rules.expires.is_none_or(|expires| now < expires));
    let action = &policy.actions[&knock.action];
    assert_eq!(authorized.effects().len(), action.parts.len());
    let addresses = addresses(knock, source);
    for (part, effect) in action.parts.iter().zip(authorized.effects()) {
        match (part, effect) {
            (ActionPart::Close(named), Effect::Close(closed)) => assert_eq!(named, closed),
            (ActionPart::Run { argv, undo, .. }, Effect::Run { commands, undo: undo_task, .. }) => {
                check_commands(commands, argv);
                assert_eq!(undo.is_some(), undo_task.is_some());
                if let (Some(undo), Some(undo_task)) = (undo, undo_task) {
                    check_commands(&undo_task.commands, undo);
                    check_duration(undo_task.after, action.term);
                }
            }
            (_, Effect::Open(grants)) => {
                assert!(!grants.is_empty());
                assert!(addresses.iter().all(|address| !policy.own_addresses.contains(address)));
                for grant in grants {
                    check_duration(grant.duration(), action.term);
                    let address = addresses.iter().find(|&&address| grant.access().from.contains(address));
                    check_grant(grant, *address.expect("a grant for an address of the knock"), part, knock);
                    let range = rules.grant_prefix.around(grant.access().from.first());
                    assert!(grant.access().from.single().is_some() || grant.access().from == range);
                }
            }
            _ => panic!("not the effect of this part of the action"),
        }
    }
    let runs = authorized.effects().iter().any(|effect| matches!(effect, Effect::Run { .. }));
    if runs { Outcome::Started } else { Outcome::Granted }
}

/// The addresses that a knock is for.
fn addresses(knock: &Knock, source: IpAddr) -> Vec<IpAddr> {
    match knock.policy {
        AddressPolicy::Observed => vec![source],
        AddressPolicy::Exact => {
            assert_eq!(knock.embedded_like(source), Some(source), "exact, but from elsewhere");
            vec![source]
        }
        AddressPolicy::Listed => knock.embedded().collect(),
    }
}

fn check_grant(grant: &Grant, address: IpAddr, part: &ActionPart, knock: &Knock) {
    let one_address = grant.access().from.single() == Some(address);
    let opened = match part {
        ActionPart::Open { ports, uses } => is_among(grant.access().target, ports, *uses),
        ActionPart::OpenArgument { allowed, uses } => {
            let named: PortRange = knock.argument.as_str().parse().expect("ports");
            allowed.iter().any(|ports| ports.contain(named))
                && is_among(grant.access().target, &[named], *uses)
        }
        ActionPart::Forward { port, to } => {
            matches!(grant.access().target, AccessTarget::Forward { port: from, to: inside }
                if from == *port && to.contains(&inside) && inside.is_ipv4() == address.is_ipv4())
                && one_address
        }
        ActionPart::Close(_) | ActionPart::Run { .. } => false,
    };
    assert!(opened, "opens something else: {grant:?}");
    assert!(
        one_address || !matches!(grant.access().target, AccessTarget::Once(_)),
        "a single connection has a single address"
    );
}

fn is_among(target: AccessTarget, ports: &[PortRange], uses: Uses) -> bool {
    match target {
        AccessTarget::Ports(opened) => uses == Uses::Many && ports.contains(&opened),
        AccessTarget::Once(port) => uses == Uses::One && ports.contains(&port.into()),
        AccessTarget::Forward { .. } | AccessTarget::Divert(_) | AccessTarget::Transit(_) => false,
    }
}

fn check_duration(duration: Duration, term: Option<Term>) {
    let term = term.expect("an action with a duration has a term");
    assert!((Duration::from_secs(1)..=term.max).contains(&duration));
}

/// The commands have as many arguments as the template, and no characters that even a careless script would interpret.
fn check_commands(commands: &[CommandLine], argv: &[Template]) {
    assert!(!commands.is_empty());
    for arguments in commands.iter().map(CommandLine::argv) {
        assert_eq!(arguments.len(), argv.len(), "an argument stays one argument");
        assert!(arguments[0].starts_with("/bin/"));
        assert!(arguments.iter().all(|argument| !argument.starts_with('-') && is_plain(argument)));
    }
}

fn is_plain(argument: &str) -> bool {
    argument.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@%+=,-".contains(&b))
}
