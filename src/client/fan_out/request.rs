//! Which servers get a knock simultaneously: the addresses of one server, or the servers of a group.

use std::sync::Arc;
use std::time::Duration;

use crate::client::args::CommonArgs;
use crate::client::failure::{ClientError, ExitCause};
use crate::client::keys::sources::Key;
use crate::client::knock::profiles::ProfileFile;
use crate::client::knock::request::{KnockRequest, REPLY_TIMEOUT, RequestedAction, RequestedServer};
use crate::client::knock::route::FamilyFilter;
use crate::client::report::Reporter;
use crate::config::{AddressChoice, Profile, full_name};

/// Knocks at several servers or addresses simultaneously.
pub(in crate::client) struct FanOut {
    /// SERVER, as typed.
    pub(in crate::client) server: String,
    /// The servers of the group, or the only one, whose addresses all get a knock.
    pub(in crate::client) members: Vec<Member>,
    /// The TCP port to wait for.
    pub(in crate::client) wait: Option<u16>,
    /// How long to wait after the knock until a port accepts; none = do not wait.
    pub(in crate::client) patience: Option<Duration>,
    /// Which addresses may be used.
    pub(in crate::client) family: FamilyFilter,
    /// How long to wait for replies.
    pub(in crate::client) timeout: Duration,
    /// Whether to wait for the end of the action's commands.
    pub(in crate::client) end: bool,
}

/// One server.
pub(in crate::client) struct Member {
    /// Its name in the group, or SERVER.
    pub(in crate::client) name: String,
    /// The knock, or why there is none: the other servers do not depend on it.
    pub(in crate::client) request: Result<Arc<KnockRequest>, ClientError>,
}

impl FanOut {
    /// Knocks at all addresses of one server.
    pub(in crate::client) fn of_addresses(request: KnockRequest) -> Self {
        Self {
            server: request.server.clone(),
            wait: request.wait,
            patience: request.patience,
            family: request.family,
            timeout: request.timeout,
            end: request.end.is_some(),
            members: vec![Member { name: request.server.clone(), request: Ok(Arc::new(request)) }],
        }
    }

    /// Knocks at the servers of a group. Their keys are read one after the other: a program that prints a key may have
    /// to ask for something on the terminal.
    ///
    /// # Errors
    /// If an option is not possible for a group. If one server cannot be knocked at, that is only its own outcome.
    pub(in crate::client) fn of_group(
        group: &str,
        servers: &[String],
        profile: &Profile,
        profiles: &ProfileFile,
        requested: &RequestedAction,
        args: &CommonArgs,
    ) -> Result<Self, ClientError> {
        check_options(group, servers, args)?;
        let key = Key::explicit(args.key.as_deref())?.map(Arc::new);
        let request = |name: &String| {
            let profile = with_settings_of_group(profiles.of_member(name)?, profile, args);
            let server = RequestedServer { name, group: Some(group), profile: &profile, key: key.clone() };
            KnockRequest::new(server, profiles, requested, args)
        };
        let members: Vec<_> = servers
            .iter()
            .map(|name| Member { name: name.clone(), request: request(name).map(Arc::new) })
            .collect();
        let wait = common_port(group, &members)?;
        let timeout = args.timeout.unwrap_or(REPLY_TIMEOUT);
        let then = &requested.then;
        Ok(Self {
            server: group.to_owned(),
            wait,
            family: FamilyFilter::of(args),
            patience: (wait.is_some() || then.connect).then_some(timeout),
            timeout: if then.end { timeout.min(REPLY_TIMEOUT) } else { timeout },
            end: then.end,
            members,
        })
    }
}

/// Which addresses of a server get a knock. If an option does not fit the profile, the option decides.
pub(in crate::client) fn choose(args: &CommonArgs, request: &KnockRequest) -> AddressChoice {
    let in_turn = |reason: &str| {
        let note = format!("{}: knocking at its addresses in turn: {reason}", request.server);
        Reporter::of(args).note(&note);
        AddressChoice::First
    };
    match request.addresses {
        _ if args.all => AddressChoice::All,
        AddressChoice::All if request.ports.is_some() => {
            in_turn("a port sequence goes to one address at a time")
        }
        AddressChoice::All if request.otp.is_some() => in_turn("a one-time password is valid once"),
        choice => choice,
    }
}

fn check_options(group: &str, servers: &[String], args: &CommonArgs) -> Result<(), ClientError> {
    let reason = match (args.ports.ports, args.otp) {
        (true, _) => "--ports: a port sequence goes to one server at a time",
        (false, Some(_)) => "--otp: a one-time password is for one server",
        (false, None) => return Ok(()),
    };
    let option = if args.ports.ports { "--ports" } else { "--otp -" };
    let member = servers.first().map_or("SERVER", String::as_str);
    Err(ClientError::new(ExitCause::Usage, format!("{group}: {reason}, and this is a group"))
        .hint(format!("knock at each server by itself, e.g. spa-knock {member} ACTION {option}")))
}

/// The settings of the group take precedence over those of the server.
fn with_settings_of_group(server: Profile, group: &Profile, args: &CommonArgs) -> Profile {
    let addresses = if args.all { None } else { group.addresses.or(server.addresses) };
    Profile {
        action: group.action.clone().or(server.action),
        source: group.source.or(server.source),
        seconds: group.seconds.or(server.seconds),
        reply: group.reply.or(server.reply),
        wait: group.wait.or(server.wait),
        addresses: Some(addresses.unwrap_or(AddressChoice::All)),
        sign: group.sign.clone().or(server.sign),
        agent: group.agent.clone().or(server.agent),
        learn: group.learn.or(server.learn),
        ..server
    }
}

/// The port to wait for, which is the same at all servers.
fn common_port(group: &str, members: &[Member]) -> Result<Option<u16>, ClientError> {
    let mut ports =
        members.iter().filter_map(|member| Some((&member.name, member.request.as_ref().ok()?.wait?)));
    let Some((first, port)) = ports.next() else { return Ok(None) };
    match ports.find(|(_, other)| *other != port) {
        None => Ok(Some(port)),
        Some((second, other)) => Err(ClientError::new(
            ExitCause::Usage,
            format!("{group}: {first} waits for tcp port {port}, but {second} for {other}"),
        )
        .hint(format!("set wait in [{}], or use --wait PORT", full_name("server", group)))),
    }
}
