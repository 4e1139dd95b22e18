//! What a knock that is allowed does, derived from the texts of its action.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use spa_knock_core::auth::{AccessTarget, CommandLine, Effect, Grant, Reason};
use spa_knock_core::knock::{Knock, PortRange, PortSpec};

use super::actions::{ActionText, PartText};
use super::naive::check;
use super::scene::{Scene, SceneClient};

/// An effect, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NaiveEffect {
    Open(Vec<NaiveGrant>),
    Close(String),
    Run { commands: Vec<Vec<String>>, undo: Option<(Vec<Vec<String>>, Duration)> },
}

/// A grant: the first and the last address, the interface, what it opens, for how long, and how many the client can hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NaiveGrant {
    first: IpAddr,
    last: IpAddr,
    link: Option<u32>,
    target: AccessTarget,
    duration: Duration,
    limit: u32,
}

pub(super) fn is_of_another_host(address: IpAddr) -> bool {
    let is_special = match address {
        IpAddr::V4(address) => {
            matches!(address.octets(), [0, 0, 0, 0] | [127 | 224..=239, ..] | [255, 255, 255, 255])
        }
        IpAddr::V6(address) => {
            matches!(address.segments(), [0, 0, 0, 0, 0, 0, 0, 0 | 1] | [0xFF00..=0xFFFF, ..])
        }
    };
    !is_special && address != Scene::own_address()
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.segments()[0] & 0xFFC0 == 0xFE80)
}

pub(super) fn takes_argument(action: &ActionText, argument: &str) -> bool {
    let runs_with_it = action.parts.iter().any(|part| match part {
        PartText::Run { argv, undo, .. } => {
            argv.iter().chain(undo.iter().copied().flatten()).any(|word| word.contains("{argument}"))
        }
        _ => false,
    });
    let names_ports =
        action.parts.iter().any(|part| matches!(part, PartText::Named(_) | PartText::NamedOnce(_)));
    if !runs_with_it && !names_ports {
        return argument.is_empty();
    }
    !argument.is_empty()
        && action.parts.iter().all(|part| match part {
            PartText::Named(allowed) => are_among(argument, allowed),
            PartText::NamedOnce(allowed) => are_among(argument, allowed) && !argument.contains('-'),
            PartText::Run { listed: [], .. } if runs_with_it => is_name(argument),
            PartText::Run { listed, .. } if runs_with_it => {
                listed.iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(begin) => argument.starts_with(begin) && is_name(argument),
                    None => argument == *pattern,
                })
            }
            _ => true,
        })
}

/// The first port, the last port and the protocol.
fn range(ports: &str) -> Option<(&str, u16, u16)> {
    let (protocol, ports) = ports.split_once('/')?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some((protocol, first, last))
}

fn are_among(ports: &str, allowed: &[&str]) -> bool {
    let Some((protocol, first, last)) = range(ports) else { return false };
    let contains = |allowed: &&str| {
        range(allowed).is_some_and(|(of, from, to)| of == protocol && from <= first && last <= to)
    };
    allowed.iter().any(contains)
}

fn is_name(argument: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:@%+=,-".contains(c);
    argument.chars().all(is_plain) && !argument.contains("..") && !argument.starts_with(['-', '@'])
}

/// What one knock asks for.
pub(super) struct Request<'a> {
    pub(super) name: &'a str,
    pub(super) client: &'a SceneClient,
    pub(super) knock: &'a Knock,
    pub(super) source: SocketAddr,
    pub(super) addresses: &'a [IpAddr],
    pub(super) seconds: u32,
}

impl Request<'_> {
    pub(super) fn effects(&self, action: &ActionText) -> Result<Vec<NaiveEffect>, Reason> {
        let mut effects = Vec::new();
        for part in action.parts {
            let effect = match part {
                PartText::Open(ports) => self.open(ports, false)?,
                PartText::OpenOnce(ports) => self.open(ports, true)?,
                PartText::Named(_) => self.open(&[self.knock.argument.as_str()], false)?,
                PartText::NamedOnce(_) => self.open(&[self.knock.argument.as_str()], true)?,
                PartText::Forward(port, to) => self.forward(port, to)?,
                PartText::Close(action) => NaiveEffect::Close((*action).to_owned()),
                PartText::Run { argv, undo, .. } => NaiveEffect::Run {
                    commands: self.commands(argv),
                    undo: undo.map(|undo| (self.commands(undo), Duration::from_secs(self.seconds.into()))),
                },
            };
            match (effects.last_mut(), effect) {
                (Some(NaiveEffect::Open(grants)), NaiveEffect::Open(more)) => grants.extend(more),
                (_, effect) => effects.push(effect),
            }
        }
        Ok(effects)
    }

    fn open(&self, ports: &[&str], once: bool) -> Result<NaiveEffect, Reason> {
        let mut grants = Vec::new();
        for &address in self.addresses {
            let link = match self.source {
                SocketAddr::V6(source) if IpAddr::from(*source.ip()) == address && source.scope_id() > 0 => {
                    Some(source.scope_id())
                }
                _ => None,
            };
            check(!is_link_local(address) || link.is_some() && !once, Reason::LinkLocal)?;
            for ports in ports {
                let target = if once {
                    AccessTarget::Once(ports.parse().expect("a port"))
                } else {
                    AccessTarget::Ports(ports.parse().expect("ports"))
                };
                let bits = match address {
                    _ if once => 128,
                    IpAddr::V4(_) => self.client.prefixes.0,
                    IpAddr::V6(_) => self.client.prefixes.1,
                };
                grants.push(self.grant(address, bits, link.filter(|_| is_link_local(address)), target));
            }
        }
        Ok(NaiveEffect::Open(grants))
    }

    fn forward(&self, port: &str, to: &[&str]) -> Result<NaiveEffect, Reason> {
        let port: PortSpec = port.parse().expect("a port");
        let mut grants = Vec::new();
        for &address in self.addresses {
            check(!is_link_local(address), Reason::LinkLocal)?;
            let to = to.iter().find(|to| to.starts_with('[') == address.is_ipv6());
            let to: SocketAddr = to.ok_or(Reason::NoForwardTarget)?.parse().expect("an address");
            grants.push(self.grant(address, 128, None, AccessTarget::Forward { port, to }));
            if to.ip().is_unspecified() {
                let behind: PortRange = format!("tcp/{}", to.port()).parse().expect("a port");
                grants.push(self.grant(address, 128, None, AccessTarget::Ports(behind)));
            }
        }
        Ok(NaiveEffect::Open(grants))
    }

    /// A grant for all addresses with the same first bits.
    fn grant(&self, address: IpAddr, bits: u8, link: Option<u32>, target: AccessTarget) -> NaiveGrant {
        let (first, last) = match address {
            IpAddr::V4(address) => {
                let size = 1_u64 << (32 - bits.min(32));
                let first = u64::from(address.to_bits()) / size * size;
                let address =
                    |number: u64| IpAddr::from(u32::try_from(number).expect("32 bits").to_be_bytes());
                (address(first), address(first + size - 1))
            }
            IpAddr::V6(address) => {
                let size = 1_u128 << (128 - bits);
                let first = address.to_bits() / size * size;
                (first.to_be_bytes().into(), (first + (size - 1)).to_be_bytes().into())
            }
        };
        let duration = Duration::from_secs(self.seconds.into());
        NaiveGrant { first, last, link, target, duration, limit: self.client.grants }
    }

    fn commands(&self, argv: &[&str]) -> Vec<Vec<String>> {
        let is_for_each = argv.iter().any(|word| word.contains("{address}"));
        let addresses = if is_for_each { self.addresses } else { &self.addresses[..1] };
        let word = |word: &str, address: IpAddr| {
            word.replace("{argument}", self.knock.argument.as_str())
                .replace("{address}", &address.to_string())
                .replace("{client}", self.name)
                .replace("{port}", &self.source.port().to_string())
                .replace("{action}", self.knock.action.as_str())
                .replace("{seconds}", &self.seconds.to_string())
        };
        addresses.iter().map(|address| argv.iter().map(|text| word(text, *address)).collect()).collect()
    }
}

/// Panics if the effects are others, or for another client or action.
pub(super) fn check_effects(effects: &[Effect], expected: &[NaiveEffect], client: &str, knock: &Knock) {
    let grant = |grant: &Grant| {
        assert_eq!((grant.client().as_str(), grant.action()), (client, &knock.action));
        let access = grant.access();
        NaiveGrant {
            first: access.from.first(),
            last: access.from.last(),
            link: access.link.map(Into::into),
            target: access.target,
            duration: grant.duration(),
            limit: grant.limit().expect("a limit"),
        }
    };
    let commands =
        |commands: &[CommandLine]| commands.iter().map(|command| command.argv().to_vec()).collect();
    let effect = |effect: &Effect| match effect {
        Effect::Open(grants) => NaiveEffect::Open(grants.iter().map(grant).collect()),
        Effect::Close(action) => NaiveEffect::Close(action.to_string()),
        Effect::Run { commands: lines, undo, .. } => NaiveEffect::Run {
            commands: commands(lines),
            undo: undo.as_ref().map(|undo| (commands(&undo.commands), undo.after)),
        },
    };
    assert_eq!(effects.iter().map(effect).collect::<Vec<_>>(), expected);
}
