//! `spa-knockd fleet join`: makes this server a member of a fleet. All files are written or none.

use std::path::Path;

use super::config_section::{NewSection, etcd};
use super::earlier_state::{NewFleet, NewState};
use super::init::{check_stopped, past_of, print_floor};
use super::secret_input;
use super::setup_files::{self, MemberFiles};
use crate::admin::args::JoinFleet;
use crate::admin::clients::CreatedFiles;
use crate::admin::init as first_config;
use crate::config::{self, ServerConfig};
use crate::console::{AdminError, notice, own_command};
use crate::fleet::admin::StoreAccess;
use crate::fleet::admin::join_line::{JoinLine, JoinLineError, LINE_MAX};
use crate::fleet::admin::setup::{self, ServerPast, StoreAuth};
use crate::fleet::admin::survey::read_content;
use crate::os::files::{self, FileMode};
use spa_knock_fleet::MemberName;
use spa_knock_fleet::client::{KeyRange, Patience, RangeRequest, StoreClient};
use spa_knock_fleet::keys::{KeySpace, StoreKey};
use spa_knock_fleet::members::MemberRecord;

/// Makes this server a member.
///
/// # Errors
/// If the line is mistyped, the config is that of another server, or the store is not the fleet's. Nothing has changed
/// then.
pub(crate) fn join(path: &Path, args: &JoinFleet) -> Result<(), AdminError> {
    let member = setup_files::member_name(args.member.as_deref())?;
    let given = setup_files::named_tls(&args.tls)?;
    let target = setup_files::beside(path);
    let present = if files::exists(path) { Some(config::load(path)?) } else { None };
    if let Some(config) = &present {
        check_alone(config)?;
    }
    setup_files::check_free(&target, given.as_ref())?;
    let text = secret_input::read("join line of the fleet", LINE_MAX, JoinLine::is_complete)?;
    let line = JoinLine::parse(&text).map_err(refused)?;
    if let Some(config) = present.as_ref().filter(|config| config.id != line.server) {
        return Err(AdminError::run(format_args!(
            "config {}: has the server id {}, but the fleet has {}\nhint: members share one id, and knocks and keys are bound to it; if no client knocks for {} any more, set server.id to the fleet's and remove the clients",
            path.display(),
            config.id,
            line.server,
            config.id
        )));
    }
    let tls = setup_files::present_tls(&target, given.as_ref())?;
    let access = StoreAccess::new(&line.endpoints, given.as_ref().or(tls.as_ref()))?;
    let client = access.client(line.login.as_ref(), None);
    let space = KeySpace::new(&line.fleet);
    check_store(&client, &space, &line)?;
    check_name(&client, &space, &member)?;

    let text = match &present {
        Some(_) => files::read_text(path)?,
        None => first_config::new_config(path, &line.server, args.address.as_deref())?,
    };
    let section = NewSection {
        name: &line.fleet,
        member: &member,
        endpoints: &line.endpoints,
        cluster: line.cluster,
        made_by: "fleet join",
    };
    if let Some(folder) = path.parent().filter(|_| present.is_none()) {
        files::create_folder(folder, FileMode::Public)?;
    }
    let new_config = section.checked(path, section.appended_to(&text))?;
    let mut created = CreatedFiles::default();
    let content =
        MemberFiles { fleet: &line.fleet, secret: &line.secret, member: line.login.as_ref(), admin: None };
    setup_files::create(&target, given.as_ref(), &content, &mut created)?;
    let floor = match present.as_ref().map_or(ServerPast::Unused, past_of) {
        ServerPast::Used => {
            let content = read_content(&client, &space, &member)?;
            Some(setup::raise_floor(&client, &space, &content, config_window(present.as_ref()))?)
        }
        ServerPast::Unused => None,
    };
    let fleet = NewFleet { secret: &line.secret, cluster: line.cluster, is_joined: true };
    let state = match &present {
        Some(config) => {
            let state = NewState::create(&config.state_dir, &fleet)?;
            files::replace(path, FileMode::Private, new_config.text.as_bytes())?;
            state
        }
        None => {
            created.file(path, new_config.text.as_bytes())?;
            let config = config::load(path)?;
            first_config::create_folders(path, &config)?;
            NewState::create(&config.state_dir, &fleet)?
        }
    };
    created.persist();
    state.persist();
    notice(format_args!("fleet {}: this server is its member {member}", line.fleet));
    if let Some(floor) = floor {
        notice("this server may have accepted knocks alone, which the other members do not know of");
        print_floor(floor);
    }
    notice(format_args!(
        "\nnext:\n  \
         # check config, host and store for problems; the members need the same actions\n  \
         {}\n  \
         # start the daemon\n  \
         systemctl start spa-knockd",
        own_command("check")
    ));
    Ok(())
}

fn config_window(config: Option<&ServerConfig>) -> std::time::Duration {
    config.map(|config| config.window).unwrap_or_default()
}

fn check_alone(config: &ServerConfig) -> Result<(), AdminError> {
    if let Some(settings) = etcd(config) {
        return Err(AdminError::run(format_args!(
            "config {}: is that of member {} of fleet {} already\nhint: to join again, for example with a new login, remove the section [fleet] and the files fleet.key and login in {}",
            config.places.of(&["fleet"]),
            settings.member,
            settings.name,
            settings.files.display()
        )));
    }
    if config.fleet.is_some() {
        return Err(AdminError::run(format_args!(
            "config {}: has a section [fleet] already\nhint: remove it first",
            config.places.of(&["fleet"])
        )));
    }
    check_stopped(config)
}

fn refused(error: JoinLineError) -> AdminError {
    let hint = match error {
        JoinLineError::Version => "update spa-knock on this server",
        _ => {
            "copy it again, from the first character to the last, or print it again on a member: spa-knockd fleet join-line; nothing was changed"
        }
    };
    AdminError::usage(format_args!("join line: {error}\nhint: {hint}"))
}

/// Checks that the store answers, is the cluster that the line names, and has the fleet.
fn check_store(client: &StoreClient, space: &KeySpace, line: &JoinLine) -> Result<(), AdminError> {
    let auth = setup::check_endpoints(client, space, "of the members")?;
    if auth == StoreAuth::Missing && line.login.is_some() {
        return Err(AdminError::run(
            "the store has no authentication any more\nhint: find out why, then: etcdctl auth enable",
        ));
    }
    let floor = RangeRequest::new(KeyRange::one(space.path(&StoreKey::Floor)));
    let found = client.range(&floor, Patience::BACKGROUND)?;
    if found.header.cluster_id != line.cluster {
        return Err(AdminError::run(format_args!(
            "the store is another cluster ({:016x}) than the fleet's ({:016x})\nhint: check the endpoints; if the fleet has accepted another cluster since the line was printed, print a new one on a member: spa-knockd fleet join-line; if etcd is empty, set up a new fleet: spa-knockd fleet init",
            found.header.cluster_id, line.cluster
        )));
    }
    if found.kvs.is_empty() {
        return Err(AdminError::run(format_args!(
            "fleet {}: the store does not have it\nhint: run spa-knockd fleet init on the first server",
            line.fleet
        )));
    }
    Ok(())
}

/// Checks that no live member has this name: two with one name would overwrite each other's record. Its address shows
/// nothing, because members can share one.
fn check_name(client: &StoreClient, space: &KeySpace, member: &MemberName) -> Result<(), AdminError> {
    let path = space.path(&StoreKey::Member(member.clone()));
    let found = client.range(&RangeRequest::new(KeyRange::one(path)), Patience::BACKGROUND)?.kvs.pop();
    let Some(record) = found.and_then(|found| MemberRecord::parse(member, &found.value).ok()) else {
        return Ok(());
    };
    Err(AdminError::run(format_args!(
        "member {member}: is live at {}\nhint: choose another name with --member NAME; if it was this server or one that has stopped, wait 30 s",
        record.address
    )))
}
