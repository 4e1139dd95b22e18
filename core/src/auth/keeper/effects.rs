//! What an authorized knock does: the grants, closings and commands that the parts of its action ask for.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use super::authorized::KnockContext;
use crate::auth::grant::{Access, AccessTarget, Grant, is_link_local};
use crate::auth::policy::undo::Values;
use crate::auth::policy::{ActionPart, Uses};
use crate::auth::rejection::Rejection;
use crate::auth::{Placeholder, Template};
use crate::knock::{ActionName, Knock, PortRange, PortSpec, Prefix, PrefixLengths};

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

impl CommandLine {
    /// Program and arguments.
    #[must_use]
    pub fn argv(&self) -> &[String] {
        &self.argv
    }

    /// The order's context, as far as it is about this command.
    #[must_use]
    pub fn context(&self, of_order: &KnockContext) -> KnockContext {
        KnockContext { addresses: self.addresses.clone(), ..of_order.clone() }
    }
}

/// Why a link-local address is refused (see `docs/protocol.md`).
pub(in crate::auth) const NO_LINK: &str = "link-local address, and its interface is not known";
const NOT_ON_A_LINK: &str = "link-local address: not with `once` or `forward`";

/// A knock that may have what it asks for, and how that is to be understood.
pub(super) struct EffectBuilder<'a> {
    pub(super) knock: &'a Knock,
    pub(super) context: &'a KnockContext,
    pub(super) argument: Option<PortRange>,
    pub(super) duration: Duration,
    pub(super) lengths: PrefixLengths,
    pub(super) limit: u32,
}

impl EffectBuilder<'_> {
    pub(super) fn effect(&self, part: &ActionPart) -> Result<Effect, Rejection> {
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
