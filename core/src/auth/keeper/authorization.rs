//! Step 8: whether a client is allowed to do what its knock requests.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::authorized::KnockContext;
use super::effects::{Effect, EffectBuilder};
use super::fresh::Fresh;
use super::otp::OtpAttempts;
use super::replay::ReplayMemory;
use crate::auth::policy::rate::RecentActs;
use crate::auth::policy::{Action, ActionPart, ClientKey, Policy, Uses};
use crate::auth::record::Via;
use crate::auth::rejection::Rejection;
use crate::auth::{Arguments, Placeholder};
use crate::crypto::Fingerprint;
use crate::knock::{AddressPolicy, Knock, Now, PortRange, Timestamp};

/// The state of a client, in addition to its rules.
pub(in crate::auth) struct ClientUsage<'a> {
    pub(in crate::auth) recent: &'a mut RecentActs,
    pub(in crate::auth) attempts: &'a mut OtpAttempts,
    /// How often the client has acted.
    pub(in crate::auth) used: u64,
    pub(in crate::auth) replay: &'a ReplayMemory,
}

/// The result of an authorized knock.
pub(in crate::auth) struct Authorization {
    pub(in crate::auth) effects: Vec<Effect>,
    /// The seed of the one-time password that the knock consumes, if any, and the start of its time step.
    pub(in crate::auth) code: Option<(Fingerprint, Timestamp)>,
    /// Whether the knock consumes one of the client's uses.
    pub(in crate::auth) counted: bool,
}

/// Step 8: whether `client` is allowed to do what its knock requests, and with which effects. Completes `context` as
/// far as the checks get.
pub(in crate::auth) fn decide(
    policy: &Policy,
    client: &ClientKey,
    fresh: &Fresh,
    context: &mut KnockContext,
    usage: ClientUsage<'_>,
    now: Now,
) -> Result<Authorization, Rejection> {
    let knock = fresh.understand().map_err(|_| Rejection::UnsupportedFormat)?;
    context.action = Some(knock.action.clone());
    let rules = &client.rules;
    let action =
        policy.actions.get(&knock.action).ok_or_else(|| Rejection::UnknownAction(knock.action.clone()))?;
    if !rules.allow.contains(&knock.action) {
        return Err(Rejection::NotAllowed(knock.action.clone()));
    }
    if !rules.sources.contains(&knock.policy) {
        return Err(Rejection::PolicyNotAllowed(knock.policy));
    }
    context.is_exact = knock.policy == AddressPolicy::Exact && context.via == Via::Udp;
    context.addresses = addresses(knock, context.source.ip())?;
    if action.opens() {
        context.addresses.iter().try_for_each(|&address| check_address(address, &policy.own_addresses))?;
    }
    let argument = check_argument(action, knock.argument.as_str())?;
    if rules.expires.is_some_and(|expires| now.wall >= expires) {
        return Err(Rejection::Expired);
    }
    let duration = action.term.map(|term| term.granted(knock.seconds)).unwrap_or_default();
    context.seconds = u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let builder = EffectBuilder {
        knock,
        context,
        argument,
        duration,
        lengths: rules.grant_prefix,
        limit: rules.grants,
    };
    let mut effects: Vec<Effect> = Vec::with_capacity(action.parts.len());
    for part in &action.parts {
        match (effects.last_mut(), builder.effect(part)?) {
            // Joined into one effect: the action opens all of its ports or none.
            (Some(Effect::Open(grants)), Effect::Open(more)) => grants.extend(more),
            (_, effect) => effects.push(effect),
        }
    }
    let ClientUsage { recent, attempts, used, replay } = usage;
    let otp = client
        .otp
        .as_ref()
        .map(|seed| attempts.check(seed, knock.otp, replay, now).map(|step| (seed.fingerprint(), step)));
    let code = otp.transpose().map_err(Rejection::Otp)?;
    if rules.uses.is_some_and(|uses| used >= uses) {
        return Err(Rejection::UsesExhausted);
    }
    // Only knocks that pass everything else count.
    if rules.rate.is_some_and(|rate| !recent.admit(rate, now.steady)) {
        return Err(Rejection::RateExceeded);
    }
    Ok(Authorization { effects, code, counted: rules.uses.is_some() })
}

fn addresses(knock: &Knock, source: IpAddr) -> Result<Vec<IpAddr>, Rejection> {
    match knock.policy {
        // Step 6 has checked that an exact source equals the embedded address.
        AddressPolicy::Observed | AddressPolicy::Exact => Ok(vec![source]),
        AddressPolicy::Listed => {
            let listed: Vec<_> = knock.embedded().collect();
            if listed.is_empty() { Err(Rejection::NoAddressListed) } else { Ok(listed) }
        }
    }
}

/// Whether an address can be granted access: it must be the address of one other host.
pub(in crate::auth) fn check_address(address: IpAddr, own: &BTreeSet<IpAddr>) -> Result<(), Rejection> {
    let is_special = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    let is_broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if is_special || is_broadcast || own.contains(&address) {
        Err(Rejection::UnusableAddress)
    } else {
        Ok(())
    }
}

/// Checks the argument. Returns the ports that it names, if the action opens ports named by the client.
fn check_argument(action: &Action, argument: &str) -> Result<Option<PortRange>, Rejection> {
    let runs_with_it = action.parts.iter().any(|part| part.uses(Placeholder::Argument));
    let mut ports = None;
    for part in &action.parts {
        if let ActionPart::OpenArgument { allowed, uses } = part {
            let named: PortRange = argument
                .parse()
                .map_err(|_| Rejection::Argument("this action needs ports as its argument, e.g. tcp/8443"))?;
            if !allowed.iter().any(|ports| ports.contain(named)) {
                return Err(Rejection::Argument("this action does not open these ports"));
            }
            if *uses == Uses::One && named.single().is_none() {
                return Err(Rejection::Argument("this action opens one port at a time"));
            }
            ports = Some(named);
        }
    }
    match (argument.is_empty(), runs_with_it, ports) {
        (true, true, _) => Err(Rejection::Argument("this action needs an argument")),
        (true, false, _) | (false, false, Some(_)) => Ok(ports),
        (false, false, None) => Err(Rejection::Argument("this action takes no argument")),
        (false, true, _) if action.parts.iter().all(|part| part.accepts(argument)) => Ok(ports),
        (false, true, _) if action.parts.iter().any(ActionPart::lists_arguments) => {
            Err(Rejection::Argument("this action does not accept this argument"))
        }
        (false, true, _) => {
            Err(Rejection::Argument("argument: only A-Z a-z 0-9 ._:@%+=,- (no .., no leading @ or -)"))
        }
    }
}

impl Action {
    /// Whether the action opens or forwards ports.
    fn opens(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, ActionPart::Close(_) | ActionPart::Run { .. }))
    }
}

impl ActionPart {
    /// Whether the part's command, if any, accepts this argument.
    fn accepts(&self, argument: &str) -> bool {
        let Self::Run { arguments, .. } = self else { return true };
        arguments.allow(argument)
    }

    const fn lists_arguments(&self) -> bool {
        matches!(self, Self::Run { arguments: Arguments::Listed(_), .. })
    }
}
