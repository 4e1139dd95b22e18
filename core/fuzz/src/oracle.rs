//! What a knock may bring about: `docs/protocol.md`, said once more and more simply than the ladder says it.

use std::net::IpAddr;
use std::time::Duration;

use spa_knock_core::auth::{
    AccessTarget, ActionPart, Authorized, CommandLine, Effect, Grant, Outcome, Policy, Template, Term, Uses,
};
use spa_knock_core::knock::{AddressPolicy, Knock, PortRange, Timestamp};

/// How an order may have gone. Panics if it is not what its knock asks for and the policy allows.
#[must_use]
pub fn carry_out(
    order: &Authorized,
    knock: &Knock,
    policy: &Policy,
    source: IpAddr,
    now: Timestamp,
) -> Outcome {
    let rules = &policy.clients.first().expect("somebody may do something").rules;
    assert!(knock.timestamp.distance(now) <= policy.window);
    assert!(rules.allow.contains(&knock.action) && rules.sources.contains(&knock.policy));
    assert!(rules.expires.is_none_or(|expires| now < expires));
    let action = &policy.actions[&knock.action];
    assert_eq!(order.effects().len(), action.parts.len());
    let addresses = addresses(knock, source);
    for (part, effect) in action.parts.iter().zip(order.effects()) {
        match (part, effect) {
            (ActionPart::Close(named), Effect::Close(closed)) => assert_eq!(named, closed),
            (ActionPart::Run { argv, undo, .. }, Effect::Run { commands, undo: undoing, .. }) => {
                are_commands(commands, argv);
                assert_eq!(undo.is_some(), undoing.is_some());
                if let (Some(undo), Some(undoing)) = (undo, undoing) {
                    are_commands(&undoing.commands, undo);
                    lasts(undoing.after, action.term);
                }
            }
            (_, Effect::Open(grants)) => {
                assert!(!grants.is_empty());
                assert!(addresses.iter().all(|address| !policy.own_addresses.contains(address)));
                for grant in grants {
                    lasts(grant.duration(), action.term);
                    let address = addresses.iter().find(|&&address| grant.access().from.contains(address));
                    lets_in(grant, *address.expect("somebody else is let in"), part, knock);
                    let range = rules.grant_prefix.around(grant.access().from.first());
                    assert!(grant.access().from.single().is_some() || grant.access().from == range);
                }
            }
            _ => panic!("another effect than the action's"),
        }
    }
    let runs = order.effects().iter().any(|effect| matches!(effect, Effect::Run { .. }));
    if runs { Outcome::Started } else { Outcome::Granted }
}

/// Whom a knock lets in.
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

fn lets_in(grant: &Grant, address: IpAddr, part: &ActionPart, knock: &Knock) {
    let one_address = grant.access().from.single() == Some(address);
    let opened = match part {
        ActionPart::Open { ports, uses } => is_among(grant.access().target, ports, *uses),
        ActionPart::OpenArgument { allowed, uses } => {
            let named: PortRange = knock.argument.as_str().parse().expect("ports");
            allowed.iter().any(|ports| ports.contain(named))
                && is_among(grant.access().target, &[named], *uses)
        }
        ActionPart::Forward { door, to } => {
            matches!(grant.access().target, AccessTarget::Forward { door: from, to: inside }
                if from == *door && to.contains(&inside) && inside.is_ipv4() == address.is_ipv4())
                && one_address
        }
        ActionPart::Close(_) | ActionPart::Run { .. } => false,
    };
    assert!(opened, "opens something else: {grant:?}");
    assert!(
        one_address || !matches!(grant.access().target, AccessTarget::Once(_)),
        "one connection is one address's"
    );
}

fn is_among(way: AccessTarget, ports: &[PortRange], uses: Uses) -> bool {
    match way {
        AccessTarget::Ports(opened) => uses == Uses::Many && ports.contains(&opened),
        AccessTarget::Once(door) => uses == Uses::One && ports.contains(&door.into()),
        AccessTarget::Forward { .. } => false,
    }
}

fn lasts(duration: Duration, term: Option<Term>) {
    let term = term.expect("what lasts has a term");
    assert!((Duration::from_secs(1)..=term.max).contains(&duration));
}

/// Word for word the template's, and nothing in them that a careless script would take apart.
fn are_commands(commands: &[CommandLine], argv: &[Template]) {
    assert!(!commands.is_empty());
    for words in commands.iter().map(CommandLine::argv) {
        assert_eq!(words.len(), argv.len(), "a word stays one word");
        assert!(words[0].starts_with("/bin/"));
        assert!(words.iter().all(|word| !word.starts_with('-') && is_plain(word)));
    }
}

fn is_plain(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@%+=,-".contains(&b))
}
