//! Step 8 of the ladder, and what comes of it: an `Order`, the only thing that can open anything.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::opened::Fresh;
use super::policy::{Action, Client, KeyAge, Policy, Undo};
use super::rate::RecentActs;
use super::record::{Event, Record};
use super::rejection::Rejection;
use super::replay::KnockId;
use super::{Placeholder, Template};
use crate::crypto::Fingerprint;
use crate::knock::{ActionName, AddressPolicy, ClientName, Door, Knock, Now, ReplyWanted};

/// A knock that passed every check. Made here alone.
#[derive(Debug)]
#[must_use]
pub struct Order {
    ticket: Ticket,
    effect: Effect,
}

/// Who knocked, from where, with what: enough to answer and to keep the record.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub(super) client: ClientName,
    pub(super) key: KeyAge,
    pub(super) fingerprint: Fingerprint,
    pub(super) id: KnockId,
    pub(super) source: SocketAddr,
    pub(super) reply: ReplyWanted,
    pub(super) action: Option<ActionName>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) seconds: u32,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Let these in.
    Open(Vec<Grant>),
    /// Run these, one an address if they name it.
    Run {
        /// What to run.
        commands: Vec<Command>,
        /// When each is ended.
        timeout: Duration,
        /// What is to be run later.
        undo: Option<Undoing>,
    },
}

/// What undoes an effect.
#[derive(Debug, PartialEq, Eq)]
pub struct Undoing {
    /// What to run, one an address if they name it.
    pub commands: Vec<Command>,
    /// After this time.
    pub after: Duration,
}

/// A program and its arguments, and for whom it runs.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    argv: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// One address is let in to one door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    address: IpAddr,
    door: Door,
    duration: Duration,
    client: ClientName,
    action: ActionName,
}

impl Order {
    /// What is to be done.
    #[must_use]
    pub const fn effect(&self) -> &Effect {
        &self.effect
    }

    /// Who ordered it.
    #[must_use]
    pub const fn ticket(&self) -> &Ticket {
        &self.ticket
    }
}

impl Command {
    /// Program and arguments.
    #[must_use]
    pub fn argv(&self) -> &[String] {
        &self.argv
    }

    /// The order's ticket, as far as it is about this command.
    #[must_use]
    pub fn ticket(&self, of_order: &Ticket) -> Ticket {
        Ticket { addresses: self.addresses.clone(), ..of_order.clone() }
    }
}

impl Grant {
    /// Who is let in.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Where.
    #[must_use]
    pub const fn door(&self) -> Door {
        self.door
    }

    /// For how long.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        self.duration
    }

    /// Who knocked.
    #[must_use]
    pub const fn client(&self) -> &ClientName {
        &self.client
    }

    /// For what.
    #[must_use]
    pub const fn action(&self) -> &ActionName {
        &self.action
    }
}

impl Ticket {
    /// The record of what came of it.
    #[must_use]
    pub fn record(&self, event: Event, reason: Option<String>) -> Record {
        Record {
            event,
            client: self.client.clone(),
            key: self.key,
            action: self.action.clone(),
            addresses: self.addresses.clone(),
            source: Some(self.source),
            seconds: self.seconds,
            reason,
            knock: Some(self.id),
        }
    }
}

/// Step 8: whether `client` may do what it asks for, and what that is. Fills in the ticket as far as it comes.
pub(super) fn decide(
    policy: &Policy,
    client: &Client,
    fresh: &Fresh,
    ticket: &mut Ticket,
    recent: &mut RecentActs,
    now: Now,
) -> Result<Effect, Rejection> {
    let knock = fresh.body().understand().map_err(|_| Rejection::NotUnderstood)?;
    ticket.action = Some(knock.action.clone());
    let rules = &client.rules;
    let action =
        policy.actions.get(&knock.action).ok_or_else(|| Rejection::UnknownAction(knock.action.clone()))?;
    if !rules.allow.contains(&knock.action) {
        return Err(Rejection::NotAllowed(knock.action.clone()));
    }
    if !rules.sources.contains(&knock.policy) {
        return Err(Rejection::PolicyNotAllowed(knock.policy));
    }
    ticket.addresses = addresses(knock, ticket.source.ip())?;
    check_argument(action, knock.argument.as_str())?;
    if rules.expires.is_some_and(|expires| now.wall >= expires) {
        return Err(Rejection::Expired);
    }
    if rules.rate.is_some_and(|rate| !recent.admit(rate, now.steady)) {
        return Err(Rejection::RateExceeded);
    }
    Ok(effect(action, knock, ticket))
}

/// Pairs an effect with its ticket; only the ladder's end may.
pub(super) const fn seal(ticket: Ticket, effect: Effect) -> Order {
    Order { ticket, effect }
}

fn addresses(knock: &Knock, source: IpAddr) -> Result<Vec<IpAddr>, Rejection> {
    match knock.policy {
        // That an exact source equals the embedded one has been checked in step 6.
        AddressPolicy::Observed | AddressPolicy::Exact => Ok(vec![source]),
        AddressPolicy::Listed => {
            let listed: Vec<_> = knock.embedded().collect();
            if listed.is_empty() { Err(Rejection::NothingListed) } else { Ok(listed) }
        }
    }
}

fn check_argument(action: &Action, argument: &str) -> Result<(), Rejection> {
    match action {
        Action::Run { argv, undo, .. } if uses(argv, undo.as_ref(), Placeholder::Argument) => {
            if argument.is_empty() {
                return Err(Rejection::Argument("this action needs an argument"));
            }
            // The command gets it as one word and no shell reads it, but what the command does with it is its
            // own business: no option, and nothing that a careless script would take apart.
            let safe = |b: u8| b.is_ascii_alphanumeric() || b"._:/@%+=,-".contains(&b);
            if argument.starts_with('-') || !argument.bytes().all(safe) {
                return Err(Rejection::Argument(
                    "argument: only A-Z a-z 0-9 . _ : / @ % + = , - and no leading -",
                ));
            }
            Ok(())
        }
        _ if argument.is_empty() => Ok(()),
        _ => Err(Rejection::Argument("this action takes no argument")),
    }
}

/// Whether a command or what undoes it has this placeholder.
fn uses(argv: &[Template], undo: Option<&Undo>, placeholder: Placeholder) -> bool {
    argv.iter().chain(undo.iter().flat_map(|undo| &undo.argv)).any(|word| word.uses(placeholder))
}

fn effect(action: &Action, knock: &Knock, ticket: &mut Ticket) -> Effect {
    let term = match action {
        Action::Open { term, .. } => Some(term),
        Action::Run { undo, .. } => undo.as_ref().map(|undo| &undo.term),
    };
    let duration = term.map(|term| term.granted(knock.seconds)).unwrap_or_default();
    ticket.seconds = u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    match action {
        Action::Open { doors, .. } => {
            let (client, action) = (&ticket.client, &knock.action);
            let grant = |address, door| Grant {
                address,
                door,
                duration,
                client: client.clone(),
                action: action.clone(),
            };
            let grants = ticket
                .addresses
                .iter()
                .flat_map(|&address| doors.iter().map(move |&door| (address, door)))
                .map(|(address, door)| grant(address, door));
            Effect::Open(grants.collect())
        }
        Action::Run { argv, timeout, undo } => Effect::Run {
            commands: commands(argv, knock, ticket),
            timeout: *timeout,
            undo: undo
                .as_ref()
                .map(|undo| Undoing { commands: commands(&undo.argv, knock, ticket), after: duration }),
        },
    }
}

/// One command; where it names the address, one for each.
fn commands(argv: &[Template], knock: &Knock, ticket: &Ticket) -> Vec<Command> {
    let addresses = &ticket.addresses;
    let command = |address: IpAddr, addresses: &[IpAddr]| Command {
        argv: argv.iter().map(|word| fill(word, knock, ticket, address)).collect(),
        addresses: addresses.to_vec(),
    };
    if argv.iter().any(|word| word.uses(Placeholder::Address)) {
        addresses.iter().map(|&address| command(address, &[address])).collect()
    } else {
        addresses.first().map(|&first| command(first, addresses)).into_iter().collect()
    }
}

fn fill(word: &Template, knock: &Knock, ticket: &Ticket, address: IpAddr) -> String {
    word.fill(|placeholder| match placeholder {
        Placeholder::Address => address.to_string(),
        Placeholder::Port => ticket.source.port().to_string(),
        Placeholder::Client => ticket.client.to_string(),
        Placeholder::Action => knock.action.to_string(),
        Placeholder::Argument => knock.argument.to_string(),
        Placeholder::Seconds if ticket.seconds > 0 => ticket.seconds.to_string(),
        Placeholder::Seconds => knock.seconds.to_string(),
    })
}
