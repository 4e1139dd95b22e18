//! The request: command line, profile and key combined, before anything is sent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::plan::{Claim, Learning};
use super::profiles::ProfileFile;
use super::route::{FamilyFilter, unbracketed};
use super::signed_request::{Questions, learning, signing};
use super::target::{Destination, FromArgs, FromKey};
use crate::client::agent::Signing;
use crate::client::args::{CommonArgs, ConnectArgs, DoctorArgs, KeepArgs, KnockArgs};
use crate::client::failure::{ClientError, ExitCause};
use crate::client::fan_out::{FanOut, choose};
use crate::client::keys::otp::OtpInput;
use crate::client::keys::sources::Key;
use crate::client::ports::mode::PortMode;
use crate::config::{AddressChoice, Profile};
use crate::os::{clock, env};
use spa_knock_core::knock::{ActionName, Argument, Knock, ReplyWanted, ServerId, SourceOption};

/// What the command line requests.
pub(in crate::client) enum ClientRequest {
    /// A knock at one address of one server, or at its addresses in turn.
    One(Box<KnockRequest>),
    /// Knocks at several servers or addresses simultaneously.
    Several(FanOut),
}

/// A requested knock, complete except for the address that gets access.
#[derive(Clone)]
pub(in crate::client) struct KnockRequest {
    /// SERVER, as typed.
    pub(in crate::client) server: String,
    /// The name in the group, if SERVER is a group.
    pub(in crate::client) member: Option<String>,
    /// Where to knock.
    pub(in crate::client) target: Destination,
    /// The server's addresses, if they are known; none = the destination is resolved.
    pub(in crate::client) resolved: Option<Vec<SocketAddr>>,
    /// Which addresses of the server get a knock.
    pub(in crate::client) addresses: AddressChoice,
    /// The key to use. Copies of the request share it, so that the secret is in memory once.
    pub(in crate::client) key: Arc<Key>,
    /// The SSH key that signs the knock; none for a knock of version 1.
    pub(in crate::client) signing: Option<Arc<Signing>>,
    /// Whether a second knock claims the address in a reply.
    pub(in crate::client) learning: Learning,
    /// The requested action.
    pub(in crate::client) action: ActionName,
    /// The argument of the action.
    pub(in crate::client) argument: Argument,
    /// Requested duration in seconds; 0 = set by the action.
    pub(in crate::client) seconds: u32,
    /// The one-time password.
    pub(in crate::client) otp: Option<u32>,
    /// The address that gets access.
    pub(in crate::client) source: SourceOption,
    /// Whether a reply is requested.
    pub(in crate::client) reply: ReplyWanted,
    /// How long to wait for the reply.
    pub(in crate::client) timeout: Duration,
    /// How long to wait for the end of the action's command; none = do not wait.
    pub(in crate::client) end: Option<Duration>,
    /// How long to wait after the knock until a port accepts; none = do not wait.
    pub(in crate::client) patience: Option<Duration>,
    /// The TCP port to wait for.
    pub(in crate::client) wait: Option<u16>,
    /// Which addresses of the server may be used.
    pub(in crate::client) family: FamilyFilter,
    /// The folder for learned addresses and used time steps.
    pub(in crate::client) state: Option<PathBuf>,
    /// The options of a port sequence; none = knock with a datagram.
    pub(in crate::client) ports: Option<PortMode>,
}

/// The action and what follows the knock, as requested on the command line.
pub(in crate::client) struct RequestedAction {
    pub(in crate::client) action: Option<ActionName>,
    pub(in crate::client) argument: Option<Argument>,
    pub(in crate::client) then: AfterKnock,
    pub(in crate::client) questions: Questions,
    /// For `doctor`: the action if none is named anywhere.
    pub(in crate::client) harmless: Option<ActionName>,
}

impl RequestedAction {
    /// Whether `doctor` knocks, which needs replies.
    const fn is_examination(&self) -> bool {
        self.harmless.is_some()
    }
}

/// What follows a knock.
pub(in crate::client) struct AfterKnock {
    /// The TCP port to wait for.
    pub(in crate::client) wait: Option<u16>,
    /// Whether to wait for the end of the action's command.
    pub(in crate::client) end: bool,
    /// Whether a connection follows in any case.
    pub(in crate::client) connect: bool,
}

/// A server that a knock is requested for.
pub(in crate::client) struct RequestedServer<'a> {
    /// SERVER, as typed, or its name in a group.
    pub(in crate::client) name: &'a str,
    /// The group, if SERVER is one.
    pub(in crate::client) group: Option<&'a str>,
    /// Its profile, with the settings of the group.
    pub(in crate::client) profile: &'a Profile,
    /// The key, if it has been read.
    pub(in crate::client) key: Option<Arc<Key>>,
}

/// Default time to wait for a reply.
pub(in crate::client) const REPLY_TIMEOUT: Duration = Duration::from_secs(3);
/// Default time to wait for the end of a command.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Default time to wait for a port after a port sequence: a whole time step, in which a server that has just started
/// accepts no sequence, and some seconds of the next one.
const PORT_TIMEOUT: Duration = Duration::from_secs(35);

impl ClientRequest {
    /// Reads the profile and the key, and combines them with the command line.
    pub(in crate::client) fn new(args: KnockArgs) -> Result<Self, ClientError> {
        args.check()?;
        let KnockArgs { server, action, argument, wait, wait_done, common, output, .. } = args;
        let then = AfterKnock { wait, end: wait_done, connect: false };
        let questions = Questions::beside(output);
        let requested = RequestedAction { action, argument, then, questions, harmless: None };
        Self::resolve(&server.unwrap_or_default(), &requested, &common)
    }

    /// The same, for `connect`.
    pub(in crate::client) fn to_connect(args: ConnectArgs) -> Result<Self, ClientError> {
        args.common.check()?;
        let ConnectArgs { server, action, common, .. } = args;
        let then = AfterKnock { wait: None, end: false, connect: true };
        let questions = Questions::at_terminal();
        let requested =
            RequestedAction { action: Some(action), argument: None, then, questions, harmless: None };
        Self::resolve(&server, &requested, &common)
    }

    /// The same, for `keep`.
    pub(in crate::client) fn to_keep(args: KeepArgs) -> Result<Self, ClientError> {
        args.check()?;
        let KeepArgs { server, action, argument, wait, common, .. } = args;
        let then = AfterKnock { wait, end: false, connect: false };
        let questions = Questions::at_terminal();
        let requested = RequestedAction { action, argument, then, questions, harmless: None };
        Self::resolve(&server, &requested, &common)
    }

    /// The same, for `doctor`: always requests a reply, and requests `harmless` if no action is named anywhere.
    pub(in crate::client) fn to_examine(args: DoctorArgs, harmless: ActionName) -> Result<Self, ClientError> {
        args.common.check()?;
        if args.common.ports.ports {
            return Err(ClientError::new(
                ExitCause::Usage,
                "--ports: doctor needs replies, and a port sequence gets none",
            )
            .hint("run `spa-knockd explain --live` on the server"));
        }
        let DoctorArgs { server, action, common, .. } = args;
        let then = AfterKnock { wait: None, end: false, connect: false };
        let questions = Questions::None;
        let requested = RequestedAction { action, argument: None, then, questions, harmless: Some(harmless) };
        Self::resolve(&server, &requested, &common)
    }

    fn resolve(server: &str, requested: &RequestedAction, args: &CommonArgs) -> Result<Self, ClientError> {
        let server = unbracketed(server);
        check_printable("SERVER", server)?;
        let profiles = ProfileFile::read(args.config.as_deref())?;
        let profile = profiles.of(server)?;
        if let Some(servers) = &profile.servers {
            return FanOut::of_group(server, servers, &profile, &profiles, requested, args)
                .map(Self::Several);
        }
        let alone = RequestedServer { name: server, group: None, profile: &profile, key: None };
        let request = KnockRequest::new(alone, &profiles, requested, args)?;
        // `doctor` examines each address by itself in any case.
        let addresses =
            if requested.is_examination() { AddressChoice::First } else { choose(args, &request) };
        let request = KnockRequest { addresses, ..request };
        Ok(match addresses {
            AddressChoice::All => Self::Several(FanOut::of_addresses(request)),
            AddressChoice::First => Self::One(Box::new(request)),
        })
    }

    /// Whether each server is asked for a reply.
    pub(in crate::client) fn gets_replies(&self) -> bool {
        let gets_reply = |request: &KnockRequest| request.reply == ReplyWanted::Yes;
        match self {
            Self::One(request) => gets_reply(request),
            Self::Several(fan_out) => {
                let mut requests = fan_out.members.iter().filter_map(|member| member.request.as_ref().ok());
                requests.all(|request| gets_reply(request))
            }
        }
    }

    /// The SSH keys that sign the knocks.
    pub(in crate::client) fn signings(&self) -> Vec<Arc<Signing>> {
        match self {
            Self::One(request) => request.signing.iter().cloned().collect(),
            Self::Several(fan_out) => {
                let requests = fan_out.members.iter().filter_map(|member| member.request.as_ref().ok());
                requests.filter_map(|request| request.signing.clone()).collect()
            }
        }
    }

    /// The TCP port to wait for.
    pub(in crate::client) const fn wait(&self) -> Option<u16> {
        match self {
            Self::One(request) => request.wait,
            Self::Several(fan_out) => fan_out.wait,
        }
    }

    /// How long to wait after the knock until a port accepts; none = do not wait.
    pub(in crate::client) const fn patience(&self) -> Option<Duration> {
        match self {
            Self::One(request) => request.patience,
            Self::Several(fan_out) => fan_out.patience,
        }
    }
}

impl KnockRequest {
    /// Combines the command line, the profile and the key for one server.
    pub(in crate::client) fn new(
        server: RequestedServer<'_>,
        profiles: &ProfileFile,
        requested: &RequestedAction,
        args: &CommonArgs,
    ) -> Result<Self, ClientError> {
        let RequestedServer { name, group, profile, key } = server;
        let then = &requested.then;
        let action = requested.action.as_ref().or(profile.action.as_ref()).or(requested.harmless.as_ref());
        let Some(action) = action.cloned() else {
            return Err(no_action(name));
        };
        // A key file is named after the server id. The profile's name can be another one.
        let id = args.server_id.as_ref().or(profile.id.as_ref()).map_or(name, ServerId::as_str);
        let key = match key {
            Some(key) => key,
            None => Arc::new(Key::for_server(args.key.as_deref(), profiles.key(profile), name, id)?),
        };
        let target = Destination::new(
            &FromArgs { server: name, port: args.port, id: args.server_id.as_ref() },
            profile,
            &FromKey { server: key.server(), address: key.file.address.as_deref(), port: key.file.port },
        )?;
        let ports = PortMode::of(&args.ports)?;
        let signing = signing(&key, profile, profiles, args)?;
        let learning = learning(signing.as_ref(), profile, requested.questions);
        // A port sequence never gets a reply.
        let reply = if requested.is_examination() {
            ReplyWanted::Yes
        } else if args.no_reply || ports.is_some() {
            ReplyWanted::No
        } else {
            profile.reply.unwrap_or(ReplyWanted::Yes)
        };
        if then.end && reply == ReplyWanted::No {
            return Err(ClientError::new(
                ExitCause::Usage,
                "--wait-done: needs a reply, which reports the end of the command",
            )
            .hint("remove --no-reply, --ports, or `reply = false` in the profile"));
        }
        let wait = if then.connect { None } else { then.wait.or(profile.wait) };
        let timeout = args.timeout.unwrap_or(REPLY_TIMEOUT);
        let patience = match (args.timeout, ports) {
            (None, Some(_)) => PORT_TIMEOUT,
            _ => timeout,
        };
        Ok(Self {
            server: group.unwrap_or(name).to_owned(),
            member: group.map(|_| name.to_owned()),
            target,
            resolved: None,
            addresses: profile.addresses.unwrap_or(AddressChoice::First),
            key,
            signing: signing.map(Arc::new),
            learning,
            action,
            argument: requested.argument.clone().unwrap_or_else(Argument::none),
            // A port sequence cannot carry it.
            seconds: args.seconds.or(profile.seconds.filter(|_| ports.is_none())).unwrap_or(0),
            // Last, so that no prompt appears if another option is invalid.
            otp: args.otp.map(OtpInput::number).transpose()?,
            source: args.source.or(profile.source).unwrap_or(SourceOption::Auto),
            reply,
            // A longer timeout is meant for the end: a server that has not replied by then does not reply later.
            timeout: if then.end { timeout.min(REPLY_TIMEOUT) } else { timeout },
            end: then.end.then(|| args.timeout.unwrap_or(END_TIMEOUT)),
            patience: (wait.is_some() || then.connect).then_some(patience),
            wait,
            family: FamilyFilter::of(args),
            state: env::state_home().map(|home| home.join("spa-knock")),
            ports,
        })
    }

    /// The same request for these addresses of the server.
    pub(in crate::client) fn at(&self, addresses: Vec<SocketAddr>) -> Self {
        Self { resolved: Some(addresses), ..self.clone() }
    }

    /// Creates the knock with the current time.
    pub(in crate::client) fn knock(&self, claim: Claim) -> Knock {
        Knock {
            timestamp: clock::wall(),
            reply: self.reply,
            seconds: self.seconds,
            otp: self.otp,
            policy: claim.policy,
            ipv4: claim.addresses.ipv4(),
            ipv6: claim.addresses.ipv6(),
            action: self.action.clone(),
            argument: self.argument.clone(),
        }
    }
}

/// Rejects a name that a terminal, or a program that reads messages line by line, would take for something else.
pub(in crate::client) fn check_printable(object: &str, name: &str) -> Result<(), ClientError> {
    if name.chars().any(char::is_control) {
        return Err(ClientError::new(ExitCause::Usage, format!("{object}: contains a control character")));
    }
    Ok(())
}

fn no_action(server: &str) -> ClientError {
    let failure =
        ClientError::new(ExitCause::Usage, format!("{server}: no action is given, and the profile has none"));
    if matches!(server, "keygen" | "derive" | "show" | "connect" | "keep" | "import" | "doctor") {
        return failure.hint(format!("put options after {server}: spa-knock {server} [OPTIONS]"));
    }
    failure.hint(format!("name an action that the server has, e.g. spa-knock {server} open-ssh"))
}
