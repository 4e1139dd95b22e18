//! The effects of an authorized knock: grants, revocations and commands, as the parts of its action define them.

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

/// One thing that an authorized knock does.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Adds these grants.
    Open(Vec<Grant>),
    /// Revokes what this action has opened for the client, and runs its undo tasks.
    Close(ActionName),
    /// Runs these commands: one for each address if they contain it, otherwise one.
    Run {
        /// The commands.
        commands: Vec<CommandLine>,
        /// The time after which each command is killed.
        timeout: Duration,
        /// The undo task.
        undo: Option<Undo>,
    },
}

/// The undo task of a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Undo {
    /// The undo commands: one for each address if they contain it, otherwise one.
    pub commands: Vec<CommandLine>,
    /// The client's argument, which the commands may contain.
    pub argument: String,
    /// The delay after which they run.
    pub after: Duration,
}

/// A program with its arguments, and the addresses that it runs for.
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

    /// The knock's context, limited to the addresses of this command.
    #[must_use]
    pub fn context(&self, knock: &KnockContext) -> KnockContext {
        KnockContext { addresses: self.addresses.clone(), ..knock.clone() }
    }
}

/// Why a link-local address is refused (see `docs/internals/protocol.md`).
pub(in crate::auth) const NO_LINK: &str = "link-local address on an unknown interface";
const NOT_ON_A_LINK: &str = "link-local address: not allowed with `once` or `forward`";

/// Creates the effects of a knock that has passed the checks of its request.
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
            ActionPart::Forward { port, to } => self.forward(*port, to),
            ActionPart::Close(action) => Ok(Effect::Close(action.clone())),
            ActionPart::Run { argv, timeout, undo, .. } => Ok(Effect::Run {
                commands: self.commands(argv),
                timeout: *timeout,
                undo: undo.as_ref().map(|argv| self.undo(argv)),
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
                    // A single connection comes from a single address, so no prefix.
                    (Uses::One, Some(port)) => self.grant(address.into(), AccessTarget::Once(port)),
                    _ => self.grant_on(link, self.lengths.around(address), AccessTarget::Ports(ports)),
                });
            }
        }
        Ok(Effect::Open(grants))
    }

    /// The interface of a link-local address: the one on which the knock was received.
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

    fn forward(&self, port: PortSpec, to: &[SocketAddr]) -> Result<Effect, Rejection> {
        let mut grants = Vec::new();
        for &address in &self.context.addresses {
            if is_link_local(address) {
                return Err(Rejection::LinkLocal(NOT_ON_A_LINK));
            }
            let to =
                to.iter().find(|to| to.is_ipv4() == address.is_ipv4()).ok_or(Rejection::NoForwardTarget)?;
            grants.push(self.grant(address.into(), AccessTarget::Forward { port, to: *to }));
            // Packets that are forwarded to another port of this host still pass the gate there.
            let here = Some(to).filter(|to| to.ip().is_unspecified());
            let behind = here.and_then(|to| PortSpec::new(port.protocol(), to.port()));
            grants
                .extend(behind.map(|behind| self.grant(address.into(), AccessTarget::Ports(behind.into()))));
        }
        Ok(Effect::Open(grants))
    }

    fn grant(&self, from: Prefix, target: AccessTarget) -> Grant {
        self.grant_on(None, from, target)
    }

    fn grant_on(&self, link: Option<NonZeroU32>, from: Prefix, target: AccessTarget) -> Grant {
        Grant {
            access: Access { from, link, target },
            limit: Some(self.limit),
            duration: self.duration,
            client: self.context.client.clone(),
            action: self.knock.action.clone(),
        }
    }

    /// One command for each address if the command contains the address, otherwise one.
    fn commands(&self, argv: &[Template]) -> Vec<CommandLine> {
        let addresses = &self.context.addresses;
        let command = |address: IpAddr, addresses: &[IpAddr]| CommandLine {
            argv: argv.iter().map(|template| self.fill(template, address)).collect(),
            addresses: addresses.to_vec(),
        };
        if argv.iter().any(|template| template.uses(Placeholder::Address)) {
            addresses.iter().map(|&address| command(address, &[address])).collect()
        } else {
            addresses.first().map(|&first| command(first, addresses)).into_iter().collect()
        }
    }

    fn undo(&self, argv: &[Template]) -> Undo {
        let argument = self.knock.argument.to_string();
        Undo { commands: self.commands(argv), argument, after: self.duration }
    }

    fn fill(&self, template: &Template, address: IpAddr) -> String {
        let Self { knock, context, .. } = self;
        let values = Values {
            address,
            port: context.source.port(),
            client: &context.client,
            action: &knock.action,
            argument: knock.argument.as_str(),
            seconds: context.seconds,
        };
        values.fill(template)
    }
}
