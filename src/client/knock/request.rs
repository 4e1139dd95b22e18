//! The request: command line, profile and key combined, before anything is sent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::plan::Claim;
use super::route::{FamilyFilter, unbracketed};
use super::target::{Destination, FromArgs, FromKey};
use crate::client::args::{CommonArgs, ConnectArgs, DoctorArgs, KnockArgs, PortModeArgs};
use crate::client::failure::{ClientError, ExitCause};
use crate::client::keys::otp::OtpInput;
use crate::client::keys::sources::{FromProfile, Key, config_folder};
use crate::client::ports::schedule::Gap;
use crate::config::Profile;
use crate::os::{clock, env, files};
use spa_knock_core::knock::{
    ActionName, Argument, InvalidKnockRange, Knock, KnockRange, Protocol, ReplyWanted, ServerId, SourceOption,
};

/// A requested knock, complete except for the address that gets access.
pub(in crate::client) struct KnockRequest {
    /// SERVER, as typed.
    pub(in crate::client) server: String,
    /// Where to knock.
    pub(in crate::client) target: Destination,
    /// The key to use.
    pub(in crate::client) key: Key,
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

/// The options of a port sequence.
#[derive(Clone, Copy)]
pub(in crate::client) struct PortMode {
    /// The knock range of the server.
    pub(in crate::client) knock_range: KnockRange,
    /// The type of the packets.
    pub(in crate::client) protocol: Protocol,
    /// The time between two packets.
    pub(in crate::client) gap: Gap,
}

/// The server and the action, as requested on the command line.
struct RequestedAction {
    server: String,
    action: Option<ActionName>,
    argument: Option<Argument>,
    then: AfterKnock,
}

/// What follows a knock.
struct AfterKnock {
    /// The TCP port to wait for.
    wait: Option<u16>,
    /// Whether to wait for the end of the action's command.
    end: bool,
    /// Whether a connection follows in any case.
    connect: bool,
}

/// Default time to wait for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(3);
/// Default time to wait for the end of a command.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Default time to wait for a port after a port sequence: a whole time step, in which a server that has just started
/// accepts no sequence, and some seconds of the next one.
const PORT_TIMEOUT: Duration = Duration::from_secs(35);

impl KnockRequest {
    /// Reads the profile and the key, and combines them with the command line.
    pub(in crate::client) fn new(args: KnockArgs) -> Result<Self, ClientError> {
        args.check()?;
        let KnockArgs { server, action, argument, wait, wait_done, common, .. } = args;
        let then = AfterKnock { wait, end: wait_done, connect: false };
        Self::resolve(
            RequestedAction { server: server.unwrap_or_default(), action, argument, then },
            common,
            None,
        )
    }

    /// The same, for `connect`.
    pub(in crate::client) fn to_connect(args: ConnectArgs) -> Result<Self, ClientError> {
        args.common.check()?;
        let ConnectArgs { server, action, common, .. } = args;
        let then = AfterKnock { wait: None, end: false, connect: true };
        Self::resolve(RequestedAction { server, action: Some(action), argument: None, then }, common, None)
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
        let requested = RequestedAction { server, action, argument: None, then };
        let request = Self::resolve(requested, common, Some(harmless))?;
        Ok(Self { reply: ReplyWanted::Yes, ..request })
    }

    fn resolve(
        requested: RequestedAction,
        args: CommonArgs,
        fallback: Option<ActionName>,
    ) -> Result<Self, ClientError> {
        let RequestedAction { server, action, argument, then } = requested;
        let server = unbracketed(&server).to_owned();
        let (profile, folder) = read_profile(args.config.as_deref(), &server)?;
        let Some(action) = action.or(profile.action.clone()).or(fallback) else {
            return Err(no_action(&server));
        };
        let profiled = match (&profile.key_command, &profile.key) {
            (Some(command), _) => Some(FromProfile::Command(command.clone())),
            (None, Some(path)) => Some(FromProfile::File(from_folder(path, &folder))),
            (None, None) => None,
        };
        // A key file is named after the server id. The profile's name can be another one.
        let id = args.server_id.as_ref().or(profile.id.as_ref()).map_or(server.as_str(), ServerId::as_str);
        let key = Key::for_server(args.key.as_deref(), profiled, &server, id)?;
        let target = Destination::new(
            &FromArgs { server: &server, port: args.port, id: args.server_id.as_ref() },
            &profile,
            &FromKey { server: key.server(), address: key.file.address.as_deref(), port: key.file.port },
        )?;
        let family = match (args.ipv4, args.ipv6) {
            (true, _) => FamilyFilter::V4,
            (false, true) => FamilyFilter::V6,
            (false, false) => FamilyFilter::Any,
        };
        let ports = args.ports.port_mode()?;
        // A port sequence never gets a reply.
        let reply = if args.no_reply || ports.is_some() {
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
            target,
            key,
            action,
            argument: argument.unwrap_or_else(Argument::none),
            seconds: args.seconds.unwrap_or(0),
            // Last, so that no prompt appears if another option is invalid.
            otp: args.otp.map(OtpInput::number).transpose()?,
            source: args.source.or(profile.source).unwrap_or(SourceOption::Auto),
            reply,
            // A longer timeout is meant for the end: a server that has not replied by then does not reply later.
            timeout: if then.end { timeout.min(REPLY_TIMEOUT) } else { timeout },
            end: then.end.then(|| args.timeout.unwrap_or(END_TIMEOUT)),
            patience: (wait.is_some() || then.connect).then_some(patience),
            wait,
            family,
            state: env::state_home().map(|home| home.join("spa-knock")),
            ports,
            server,
        })
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

impl PortModeArgs {
    fn port_mode(&self) -> Result<Option<PortMode>, ClientError> {
        let low =
            |error: InvalidKnockRange| ClientError::new(ExitCause::Usage, format!("--ports-low: {error}"));
        let mode = PortMode {
            knock_range: KnockRange::try_from(self.ports_low).map_err(low)?,
            protocol: self.ports_proto,
            gap: self.ports_gap.map_or(Gap::Usual, Gap::Fixed),
        };
        Ok(self.ports.then_some(mode))
    }
}

/// The profile of `server`, and the folder that its paths are relative to.
fn read_profile(given: Option<&Path>, server: &str) -> Result<(Profile, PathBuf), ClientError> {
    let default = || config_folder().map(|folder| folder.join("config.toml"));
    let Some(path) = given.map(Path::to_owned).or_else(default) else {
        return Ok((Profile::default(), PathBuf::new()));
    };
    let text = match files::read_own_text(&path) {
        Ok(text) => text,
        Err(error) if error.missing && given.is_none() => String::new(),
        // `--config /dev/null` means: no profile.
        Err(_) if path == Path::new("/dev/null") => String::new(),
        // No other errors are ignored: the profile sets the server, the key, and the program that prints the key.
        Err(error) => {
            let object = if Path::new(&error.path) == path { "profile " } else { "directory " };
            let failure = ClientError::from(error);
            return Err(failure.with_object(object));
        }
    };
    let profile = Profile::parse(&text, server).map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(|error| format!("{}:{error}", path.display())).collect();
        ClientError::new(ExitCause::Files, lines.join("\n"))
    })?;
    Ok((profile, path.parent().map(Path::to_owned).unwrap_or_default()))
}

/// Resolves a path in a profile: it begins with `~/`, is absolute, or is relative to the profile's folder.
fn from_folder(path: &Path, folder: &Path) -> PathBuf {
    folder.join(env::expanded(path))
}

fn no_action(server: &str) -> ClientError {
    let failure =
        ClientError::new(ExitCause::Usage, format!("{server}: no action is given, and the profile has none"));
    if matches!(server, "keygen" | "derive" | "show" | "connect" | "import" | "doctor") {
        return failure.hint(format!("put options after {server}: spa-knock {server} [OPTIONS]"));
    }
    failure.hint(format!("name an action that the server has, e.g. spa-knock {server} open-ssh"))
}
