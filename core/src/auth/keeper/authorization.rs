//! Step 8, and what comes of it: an `Authorized`, the only thing that can open anything for a sealed knock.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use super::fresh::Fresh;
use super::otp::OtpAttempts;
use super::replay::{KnockId, ReplayMemory};
use crate::auth::grant::{Access, AccessTarget, Grant, is_link_local};
use crate::auth::policy::rate::RecentActs;
use crate::auth::policy::undo::Values;
use crate::auth::policy::{Action, ActionPart, ClientKey, KeyAge, Policy, Uses};
use crate::auth::record::{AuditEvent, AuditRecord, Explanation, Via};
use crate::auth::rejection::Rejection;
use crate::auth::{Arguments, Placeholder, Template};
use crate::crypto::Fingerprint;
use crate::knock::{
    ActionName, AddressPolicy, ClientName, Knock, Now, PortRange, PortSpec, Prefix, PrefixLengths,
    ReplyWanted, Timestamp,
};

/// A knock that passed every check. Made here alone.
#[derive(Debug)]
#[must_use]
pub struct Authorized {
    context: KnockContext,
    effects: Vec<Effect>,
}

/// Who knocked, from where, with what: enough to answer and to keep the record.
#[derive(Debug, Clone)]
pub struct KnockContext {
    pub(in crate::auth) client: ClientName,
    pub(in crate::auth) key: KeyAge,
    pub(in crate::auth) fingerprint: Fingerprint,
    pub(in crate::auth) id: KnockId,
    pub(in crate::auth) via: Via,
    pub(in crate::auth) source: SocketAddr,
    pub(in crate::auth) reply: ReplyWanted,
    pub(in crate::auth) action: Option<ActionName>,
    pub(in crate::auth) addresses: Vec<IpAddr>,
    pub(in crate::auth) seconds: u32,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Let these in.
    Open(Vec<Grant>),
    /// Close what this action has opened for the client, and undo what it ran.
    Close(ActionName),
    /// Run these, one an address if they name it.
    Run {
        /// What to run.
        commands: Vec<CommandLine>,
        /// When each is ended.
        timeout: Duration,
        /// What is to be run later.
        undo: Option<Undo>,
    },
}

/// What undoes an effect.
#[derive(Debug, PartialEq, Eq)]
pub struct Undo {
    /// What to run, one an address if they name it.
    pub commands: Vec<CommandLine>,
    /// The client's argument, which may be in them.
    pub argument: String,
    /// After this time.
    pub after: Duration,
}

/// A program and its arguments, and for whom it runs.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandLine {
    argv: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Authorized {
    /// For the keeper alone, once every check has passed.
    pub(in crate::auth) const fn new(context: KnockContext, effects: Vec<Effect>) -> Self {
        Self { context, effects }
    }

    /// What is to be done, in this order; at least one thing.
    #[must_use]
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// Who ordered it.
    #[must_use]
    pub const fn context(&self) -> &KnockContext {
        &self.context
    }
}

impl CommandLine {
    /// Program and arguments.
    #[must_use]
    pub fn argv(&self) -> &[String] {
        &self.argv
    }

    /// The order's ticket, as far as it is about this command.
    #[must_use]
    pub fn context(&self, of_order: &KnockContext) -> KnockContext {
        KnockContext { addresses: self.addresses.clone(), ..of_order.clone() }
    }
}

impl KnockContext {
    /// Who knocked.
    #[must_use]
    pub const fn client(&self) -> &ClientName {
        &self.client
    }

    /// For what, once that is understood.
    #[must_use]
    pub const fn action(&self) -> Option<&ActionName> {
        self.action.as_ref()
    }

    /// The knock, and whose it is.
    #[must_use]
    pub const fn knock(&self) -> (Fingerprint, KnockId) {
        (self.fingerprint, self.id)
    }

    /// Whether the client wants to hear of it.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.reply == ReplyWanted::Yes
    }

    /// With which key.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The record of what came of it.
    #[must_use]
    pub fn record(&self, event: AuditEvent, reason: Option<Explanation>) -> AuditRecord {
        AuditRecord {
            event,
            client: self.client.clone(),
            key: self.key,
            action: self.action.clone(),
            addresses: self.addresses.clone(),
            source: Some(self.source),
            seconds: self.seconds,
            reason,
            knock: Some(self.id),
            via: Some(self.via),
        }
    }
}

/// What is known of a client besides its rules.
pub(in crate::auth) struct ClientUsage<'a> {
    pub(in crate::auth) recent: &'a mut RecentActs,
    pub(in crate::auth) guesses: &'a mut OtpAttempts,
    /// How often it has acted.
    pub(in crate::auth) used: u64,
    pub(in crate::auth) replay: &'a ReplayMemory,
}

/// What comes of a knock that passed.
pub(in crate::auth) struct Authorization {
    pub(in crate::auth) effects: Vec<Effect>,
    /// When the step of the one-time password begins that it takes.
    pub(in crate::auth) code: Option<Timestamp>,
}

/// Step 8: whether `client` may do what it asks for, and what that is. Fills in the ticket as far as it comes.
pub(in crate::auth) fn decide(
    policy: &Policy,
    client: &ClientKey,
    fresh: &Fresh,
    context: &mut KnockContext,
    account: ClientUsage<'_>,
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
    let asked = EffectBuilder {
        knock,
        context,
        argument,
        duration,
        lengths: rules.grant_prefix,
        limit: rules.grants,
    };
    let mut effects: Vec<Effect> = Vec::with_capacity(action.parts.len());
    for part in &action.parts {
        match (effects.last_mut(), asked.effect(part)?) {
            // In one step: all that the action opens, or nothing of it.
            (Some(Effect::Open(grants)), Effect::Open(more)) => grants.extend(more),
            (_, effect) => effects.push(effect),
        }
    }
    let ClientUsage { recent, guesses, used, replay } = account;
    let otp = client.otp.as_ref().map(|seed| guesses.check(seed, knock.otp, replay, now));
    let code = otp.transpose().map_err(Rejection::Otp)?;
    if rules.uses.is_some_and(|uses| used >= uses) {
        return Err(Rejection::UsesExhausted);
    }
    // Only what would act counts.
    if rules.rate.is_some_and(|rate| !recent.admit(rate, now.steady)) {
        return Err(Rejection::RateExceeded);
    }
    Ok(Authorization { effects, code })
}

fn addresses(knock: &Knock, source: IpAddr) -> Result<Vec<IpAddr>, Rejection> {
    match knock.policy {
        // That an exact source equals the embedded one has been checked in step 6.
        AddressPolicy::Observed | AddressPolicy::Exact => Ok(vec![source]),
        AddressPolicy::Listed => {
            let listed: Vec<_> = knock.embedded().collect();
            if listed.is_empty() { Err(Rejection::NoAddressListed) } else { Ok(listed) }
        }
    }
}

/// Whether letting this address in means anything: nobody else has it.
pub(in crate::auth) fn check_address(address: IpAddr, own: &BTreeSet<IpAddr>) -> Result<(), Rejection> {
    let nobody = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if nobody || broadcast || own.contains(&address) { Err(Rejection::UnusableAddress) } else { Ok(()) }
}

/// The ports that the argument names, where the action opens those.
fn check_argument(action: &Action, argument: &str) -> Result<Option<PortRange>, Rejection> {
    let runs_with_it = action.parts.iter().any(|part| part.uses(Placeholder::Argument));
    let mut ports = None;
    for part in &action.parts {
        if let ActionPart::OpenArgument { allowed, uses } = part {
            let named: PortRange = argument
                .parse()
                .map_err(|_| Rejection::Argument("this action needs ports as its argument, e.g. tcp/8443"))?;
            if !allowed.iter().any(|ports| ports.contain(named)) {
                return Err(Rejection::Argument("these ports are not among those that this action opens"));
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
            Err(Rejection::Argument("argument: not one of those that this action accepts"))
        }
        (false, true, _) => {
            Err(Rejection::Argument("argument: only A-Z a-z 0-9 . _ : @ % + = , - (no .. no leading @ -)"))
        }
    }
}

impl Action {
    /// Whether it lets addresses in.
    fn opens(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, ActionPart::Close(_) | ActionPart::Run { .. }))
    }
}

impl ActionPart {
    /// Whether its commands, if it has any, may be given this argument.
    fn accepts(&self, argument: &str) -> bool {
        let Self::Run { arguments, .. } = self else { return true };
        arguments.allow(argument)
    }

    const fn lists_arguments(&self) -> bool {
        matches!(self, Self::Run { arguments: Arguments::Listed(_), .. })
    }
}

/// Why a link-local address is refused (see `docs/protocol.md`).
pub(in crate::auth) const NO_LINK: &str = "link-local address, and its interface is not known";
const NOT_ON_A_LINK: &str = "link-local address: not with `once` or `forward`";

/// A knock that may have what it asks for, and how that is to be understood.
struct EffectBuilder<'a> {
    knock: &'a Knock,
    context: &'a KnockContext,
    argument: Option<PortRange>,
    duration: Duration,
    lengths: PrefixLengths,
    limit: u32,
}

impl EffectBuilder<'_> {
    fn effect(&self, part: &ActionPart) -> Result<Effect, Rejection> {
        match part {
            ActionPart::Open { ports, uses } => self.open(ports, *uses),
            ActionPart::OpenArgument { uses, .. } => self.open(self.argument.as_slice(), *uses),
            ActionPart::Forward { door, to } => self.forward(*door, to),
            ActionPart::Close(action) => Ok(Effect::Close(action.clone())),
            ActionPart::Run { argv, timeout, undo, .. } => Ok(Effect::Run {
                commands: self.commands(argv),
                timeout: *timeout,
                undo: undo.as_ref().map(|argv| self.undoing(argv)),
            }),
        }
    }

    fn open(&self, ports: &[PortRange], uses: Uses) -> Result<Effect, Rejection> {
        let mut grants = Vec::with_capacity(ports.len());
        for &address in &self.context.addresses {
            let link = self.link(address)?;
            for &ports in ports {
                grants.push(match (uses, ports.single()) {
                    (Uses::One, Some(_)) if link.is_some() => {
                        return Err(Rejection::LinkLocal(NOT_ON_A_LINK));
                    }
                    // One connection is one address's.
                    (Uses::One, Some(door)) => self.grant(address.into(), AccessTarget::Once(door)),
                    _ => self.grant_on(link, self.lengths.around(address), AccessTarget::Ports(ports)),
                });
            }
        }
        Ok(Effect::Open(grants))
    }

    /// The interface that a link-local address belongs to: the one that the knock came in on.
    fn link(&self, address: IpAddr) -> Result<Option<NonZeroU32>, Rejection> {
        if !is_link_local(address) {
            return Ok(None);
        }
        let scope = match self.context.source {
            SocketAddr::V6(source) if IpAddr::V6(*source.ip()) == address => {
                NonZeroU32::new(source.scope_id())
            }
            _ => None,
        };
        scope.map(Some).ok_or(Rejection::LinkLocal(NO_LINK))
    }

    fn forward(&self, door: PortSpec, to: &[SocketAddr]) -> Result<Effect, Rejection> {
        let mut grants = Vec::new();
        for &address in &self.context.addresses {
            if is_link_local(address) {
                return Err(Rejection::LinkLocal(NOT_ON_A_LINK));
            }
            let to =
                to.iter().find(|to| to.is_ipv4() == address.is_ipv4()).ok_or(Rejection::NoForwardTarget)?;
            grants.push(self.grant(address.into(), AccessTarget::Forward { door, to: *to }));
            // Led to another port of this host, packets come to the gate there.
            let here = Some(to).filter(|to| to.ip().is_unspecified());
            let behind = here.and_then(|to| PortSpec::new(door.protocol(), to.port()));
            grants
                .extend(behind.map(|behind| self.grant(address.into(), AccessTarget::Ports(behind.into()))));
        }
        Ok(Effect::Open(grants))
    }

    fn grant(&self, from: Prefix, way: AccessTarget) -> Grant {
        self.grant_on(None, from, way)
    }

    fn grant_on(&self, link: Option<NonZeroU32>, from: Prefix, way: AccessTarget) -> Grant {
        Grant {
            access: Access { from, link, target: way },
            limit: Some(self.limit),
            duration: self.duration,
            client: self.context.client.clone(),
            action: self.knock.action.clone(),
        }
    }

    /// One command; where it names the address, one for each.
    fn commands(&self, argv: &[Template]) -> Vec<CommandLine> {
        let addresses = &self.context.addresses;
        let command = |address: IpAddr, addresses: &[IpAddr]| CommandLine {
            argv: argv.iter().map(|word| self.fill(word, address)).collect(),
            addresses: addresses.to_vec(),
        };
        if argv.iter().any(|word| word.uses(Placeholder::Address)) {
            addresses.iter().map(|&address| command(address, &[address])).collect()
        } else {
            addresses.first().map(|&first| command(first, addresses)).into_iter().collect()
        }
    }

    fn undoing(&self, argv: &[Template]) -> Undo {
        let argument = self.knock.argument.to_string();
        Undo { commands: self.commands(argv), argument, after: self.duration }
    }

    fn fill(&self, word: &Template, address: IpAddr) -> String {
        let Self { knock, context, .. } = self;
        let values = Values {
            address,
            port: context.source.port(),
            client: &context.client,
            action: &knock.action,
            argument: knock.argument.as_str(),
            seconds: context.seconds,
        };
        values.fill(word)
    }
}
