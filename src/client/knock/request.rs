//! What a person means: the command line, the profile and the key put together, before anything is sent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::plan::Claim;
use super::route::{FamilyFilter, unbracketed};
use super::target::{Destination, FromArgs, FromKey};
use crate::client::args::{CommonArgs, ConnectArgs, DoctorArgs, KnockArgs, PortModeArgs};
use crate::client::failure::{ClientError, ExitCause};
use crate::client::keys::otp::OtpInput;
use crate::client::keys::sources::{FromProfile, Key};
use crate::client::ports::schedule::Gap;
use crate::config::Profile;
use crate::os::{clock, env, files};
use spa_knock_core::knock::{
    ActionName, Argument, InvalidKnockRange, Knock, KnockRange, Protocol, ReplyWanted, SourceOption,
};

/// A knock that is meant, but for the address.
pub(in crate::client) struct KnockRequest {
    /// SERVER, as typed.
    pub(in crate::client) server: String,
    /// Where to knock.
    pub(in crate::client) target: Destination,
    /// With which key.
    pub(in crate::client) key: Key,
    /// What is asked for.
    pub(in crate::client) action: ActionName,
    /// What the action is told besides.
    pub(in crate::client) argument: Argument,
    /// Seconds asked for; 0 = the action's own.
    pub(in crate::client) seconds: u32,
    /// The one-time password.
    pub(in crate::client) otp: Option<u32>,
    /// Who is to be let in.
    pub(in crate::client) source: SourceOption,
    /// Whether an answer is asked for.
    pub(in crate::client) reply: ReplyWanted,
    /// For how long to wait for it.
    pub(in crate::client) timeout: Duration,
    /// For how long to wait for the end of what is started; none = not at all.
    pub(in crate::client) end: Option<Duration>,
    /// For how long a port is tried after the knock; none = there is none to wait for.
    pub(in crate::client) patience: Option<Duration>,
    /// The TCP port to wait for.
    pub(in crate::client) wait: Option<u16>,
    /// Which addresses of the server may be used.
    pub(in crate::client) family: FamilyFilter,
    /// Where learnt addresses and used steps are kept.
    pub(in crate::client) state: Option<PathBuf>,
    /// How to knock by ports; nothing = with a datagram.
    pub(in crate::client) ports: Option<ThroughPorts>,
}

/// How to knock by ports.
#[derive(Clone, Copy)]
pub(in crate::client) struct ThroughPorts {
    /// Which the server looks at.
    pub(in crate::client) knock_range: KnockRange,
    /// What the packets are.
    pub(in crate::client) protocol: Protocol,
    /// How far apart they are.
    pub(in crate::client) gap: Gap,
}

/// What is asked of whom.
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
    /// Whether the end of what is started is waited for.
    end: bool,
    /// Whether a connection is made in any case.
    connect: bool,
}

/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(3);
/// How long the end of a command is waited for.
const END: Duration = Duration::from_secs(60);
/// How long a port is waited for after a knock by ports: a whole step, which a server that has just started does not
/// accept, and some seconds of the next.
const NEXT_STEP: Duration = Duration::from_secs(35);

impl KnockRequest {
    /// Reads the profile and the key, and weighs them against what was typed.
    pub(in crate::client) fn new(args: KnockArgs) -> Result<Self, ClientError> {
        args.check()?;
        let KnockArgs { server, action, argument, wait, wait_done, manner, .. } = args;
        let then = AfterKnock { wait, end: wait_done, connect: false };
        Self::resolve(
            RequestedAction { server: server.unwrap_or_default(), action, argument, then },
            manner,
            None,
        )
    }

    /// The same for a knock that a connection follows.
    pub(in crate::client) fn to_connect(args: ConnectArgs) -> Result<Self, ClientError> {
        args.manner.check()?;
        let ConnectArgs { server, action, manner, .. } = args;
        let then = AfterKnock { wait: None, end: false, connect: true };
        Self::resolve(RequestedAction { server, action: Some(action), argument: None, then }, manner, None)
    }

    /// The same for a knock that is to be answered, and with `harmless` if no action is named anywhere.
    pub(in crate::client) fn to_examine(args: DoctorArgs, harmless: ActionName) -> Result<Self, ClientError> {
        args.manner.check()?;
        if args.manner.ports.ports {
            return Err(ClientError::new(
                ExitCause::Usage,
                "--ports: only an answer tells what is wrong, and eight ports get none",
            )
            .hint("look at the server's side: spa-knockd explain --live"));
        }
        let DoctorArgs { server, action, manner, .. } = args;
        let then = AfterKnock { wait: None, end: false, connect: false };
        let asked = RequestedAction { server, action, argument: None, then };
        let request = Self::resolve(asked, manner, Some(harmless))?;
        Ok(Self { reply: ReplyWanted::Yes, ..request })
    }

    fn resolve(
        asked: RequestedAction,
        args: CommonArgs,
        fallback: Option<ActionName>,
    ) -> Result<Self, ClientError> {
        let RequestedAction { server, action, argument, then } = asked;
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
        let key = Key::for_server(args.key.as_deref(), profiled, &server)?;
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
        // Who is silent about the address is so there too.
        let reply = if args.no_reply || ports.is_some() {
            ReplyWanted::No
        } else {
            profile.reply.unwrap_or(ReplyWanted::Yes)
        };
        if then.end && reply == ReplyWanted::No {
            return Err(ClientError::new(ExitCause::Usage, "--wait-done: only a reply reports the end")
                .hint("remove --no-reply, --ports, or reply = false of the profile"));
        }
        let wait = if then.connect { None } else { then.wait.or(profile.wait) };
        let timeout = args.timeout.unwrap_or(ANSWER);
        let patience = match (args.timeout, ports) {
            (None, Some(_)) => NEXT_STEP,
            _ => timeout,
        };
        Ok(Self {
            target,
            key,
            action,
            argument: argument.unwrap_or_else(Argument::none),
            seconds: args.seconds.unwrap_or(0),
            // Last of all: who typed something wrong is not asked for nothing.
            otp: args.otp.map(OtpInput::number).transpose()?,
            source: args.source.or(profile.source).unwrap_or(SourceOption::Auto),
            reply,
            // A longer time is meant for the end: a server that is silent for so long stays silent.
            timeout: if then.end { timeout.min(ANSWER) } else { timeout },
            end: then.end.then(|| args.timeout.unwrap_or(END)),
            patience: (wait.is_some() || then.connect).then_some(patience),
            wait,
            family,
            state: env::state_home().map(|home| home.join("spa-knock")),
            ports,
            server,
        })
    }

    /// The knock, made now.
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
    fn port_mode(&self) -> Result<Option<ThroughPorts>, ClientError> {
        let low =
            |error: InvalidKnockRange| ClientError::new(ExitCause::Usage, format!("--ports-low: {error}"));
        let through = ThroughPorts {
            knock_range: KnockRange::try_from(self.ports_low).map_err(low)?,
            protocol: self.ports_proto,
            gap: self.ports_gap.map_or(Gap::Usual, Gap::Fixed),
        };
        Ok(self.ports.then_some(through))
    }
}

/// The profile of `server`, and the folder that its paths start from.
fn read_profile(given: Option<&Path>, server: &str) -> Result<(Profile, PathBuf), ClientError> {
    let usual = || env::config_home().map(|home| home.join("spa-knock").join("config.toml"));
    let Some(path) = given.map(Path::to_owned).or_else(usual) else {
        return Ok((Profile::default(), PathBuf::new()));
    };
    let text = match files::read_own_text(&path) {
        Ok(text) => text,
        Err(error) if error.missing && given.is_none() => String::new(),
        // No profile at all, as with other programs.
        Err(_) if path == Path::new("/dev/null") => String::new(),
        // It names the server, the key, and the program that prints the key.
        Err(error) => {
            let object = if Path::new(&error.path) == path { "profile " } else { "folder " };
            let failure = ClientError::from(error);
            return Err(failure.of(object));
        }
    };
    let profile = Profile::parse(&text, server).map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(|error| format!("{}:{error}", path.display())).collect();
        ClientError::new(ExitCause::Files, lines.join("\n"))
    })?;
    Ok((profile, path.parent().map(Path::to_owned).unwrap_or_default()))
}

/// A path as profiles write it: from `~/`, absolute, or from the profile's folder.
fn from_folder(path: &Path, folder: &Path) -> PathBuf {
    match (path.strip_prefix("~"), env::home()) {
        (Ok(below), Some(home)) => home.join(below),
        _ => folder.join(path),
    }
}

fn no_action(server: &str) -> ClientError {
    let failure =
        ClientError::new(ExitCause::Usage, format!("{server}: no action is given, and the profile has none"));
    if matches!(server, "keygen" | "derive" | "show" | "connect" | "import" | "doctor") {
        return failure.hint(format!("options of {server} stand behind it: spa-knock {server} [OPTIONS]"));
    }
    failure.hint(format!("spa-knock {server} open-ssh, if that is what the server calls it"))
}
